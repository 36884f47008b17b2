"""The truth about ads.performance, in a process of its own, and in the form of the job's table."""

from __future__ import annotations

import multiprocessing
import os
import signal
from datetime import UTC, datetime
from typing import Any

from adstream.errors import FatalError
from adstream.jobs.ads.traffic import Traffic, as_log, records
from adstream.jobs.ads.truth import Key, Row, Truth, compute

COLUMNS = (
    *("campaign_id", "product_id", "placement", "metric_time"),
    *("impression_count", "click_count", "conversion_count", "total_spend", "total_revenue"),
    *("ctr", "cvr", "roas", "ctr_undefined", "updated_at"),
)


class Apart:
    """Computes the truth beside whatever else happens, from nothing but the settings of the traffic."""

    def __init__(self, traffic: Traffic) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._answer, theirs = spawn.Pipe(duplex=False)
        self._process = spawn.Process(target=_compute, args=(traffic, theirs), daemon=True)
        self._process.start()
        theirs.close()

    def get(self) -> Truth:
        """Waits for it. Raises FatalError."""
        try:
            found = self._answer.recv()
        except EOFError:
            raise FatalError("the process that computes the truth died") from None
        assert isinstance(found, Truth)
        return found

    def close(self) -> None:
        self._process.kill()
        self._process.join()
        self._answer.close()


def _compute(traffic: Traffic, answer: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C reaches this process, too; its parent decides
    os.nice(5)
    sent = [(r.partition, r.offset, r.key, r.value, r.timestamp_ms) for r in as_log(records(traffic))]
    answer.send(compute(sent, traffic.partitions, traffic.grace_ms, window_ms=traffic.window_ms))


def as_dict(key: Key, row: Row) -> dict[str, Any]:
    """Money and times as the table shows them: digits, RFC 3339 in UTC."""
    return {
        "campaign_id": key.campaign_id,
        "product_id": key.product_id,
        "placement": key.placement,
        "metric_time": rfc3339(key.window_start),
        "impression_count": row.impression_count,
        "click_count": row.click_count,
        "conversion_count": row.conversion_count,
        "total_spend": str(row.total_spend),
        "total_revenue": str(row.total_revenue),
        "ctr": row.ctr,
        "cvr": row.cvr,
        "roas": str(row.roas),
        "ctr_undefined": row.ctr_undefined,
        "updated_at": rfc3339(row.max_timestamp),
    }


def rfc3339(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S.") + f"{ms % 1000:03d}Z"
