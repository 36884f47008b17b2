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

from collections.abc import Mapping
from typing import NamedTuple


class PlatformJob(NamedTuple):
    name: str
    workers: int
    """Processes, where nothing else is said. One keeps up with some 100,000 events a second."""
    settings: Mapping[str, str]
    """Where nothing else is said. At a thousand events a second commits cost more than the events in them, broker's and worker's
    share, so a job that no other one waits for commits more rarely; what is shown is written soon."""


JOBS = (
    PlatformJob("ads.clicks", 1, {"commit_interval": "150ms"}),
    PlatformJob("ads.duplicates", 1, {"commit_interval": "250ms"}),
    PlatformJob("ads.ledger", 1, {"commit_interval": "200ms"}),
    PlatformJob("ads.compensation", 1, {"commit_interval": "250ms"}),
    PlatformJob("ads.budget", 1, {"commit_interval": "200ms", "flush_every": "20ms"}),
    PlatformJob("ads.attribution", 1, {"commit_interval": "250ms", "flush_every": "100ms"}),
    PlatformJob("ads.performance", 1, {"commit_interval": "300ms", "flush_every": "100ms"}),
    PlatformJob("ads.net_performance", 1, {"commit_interval": "300ms", "flush_every": "100ms"}),
    PlatformJob("ads.ranking", 1, {"commit_interval": "200ms", "flush_every": "20ms"}),
)

CONNECTIONS = {"ledger": "sql"}
"""A connection that nobody names -> the one whose database serves for it, too."""
