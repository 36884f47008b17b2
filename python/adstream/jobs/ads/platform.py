"""The jobs of the ads platform, in the data's way: each reads what those before it write. `adstream run ads` runs them all.

    ad-events ─▶ clicks ─▶ duplicates ──────▶ compensation
                    │           │                  ▲
                    ├──▶ ledger ┼──────────────────┴─▶ budget
                    ├──▶ attribution ◀─ conversion-events
                    ├──▶ net_performance
                    │         └─ product-metrics ─▶ ranking ◀─ campaign-events
    ad-events ──────┴──▶ performance

Nothing waits for anything: a job that is away leaves its inputs where they are, and the order here matters only where all are
run to the end of what there is (`--stop-at-end`).
"""

from __future__ import annotations

from typing import NamedTuple


class PlatformJob(NamedTuple):
    name: str
    workers: int
    """Processes, where nothing else is said. One keeps up with some 100,000 events a second."""


JOBS = (
    PlatformJob("ads.clicks", 1),
    PlatformJob("ads.duplicates", 1),
    PlatformJob("ads.ledger", 1),
    PlatformJob("ads.compensation", 1),
    PlatformJob("ads.budget", 1),
    PlatformJob("ads.attribution", 1),
    PlatformJob("ads.performance", 1),
    PlatformJob("ads.net_performance", 1),
    PlatformJob("ads.ranking", 1),
)

CONNECTIONS = {"ledger": "sql"}
"""A connection that nobody names -> the one whose database serves for it, too."""
