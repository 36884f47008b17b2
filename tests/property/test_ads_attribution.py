"""Attribution: F1, F2 and F19. The oracle looks at all clicks of all tiers, for each order."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adstream.jobs.ads.attribution import attribution
from adstream.testing import TopologyTestDriver
from adstream.testing.driver import STEPS

START = datetime(2024, 1, 15, tzinfo=UTC)
HOUR = 3_600_000
Event = dict[str, Any]

ids = st.none() | st.sampled_from("ab")
people = st.fixed_dictionaries(
    {"device_id": ids, "session_id": ids, "user_id": ids, "product_id": st.sampled_from("pq")}
)
steps = st.sampled_from([0, 1, 999, 60_000, HOUR - 1, HOUR, 11 * HOUR])


@st.composite
def traffic(draw: st.DrawFn) -> list[tuple[int, str, Event]]:
    """(sent at, topic, event): each at most an hour after it happened."""
    found, at = [], 0
    for i in range(draw(st.integers(1, 16))):
        at += draw(steps)
        event: Event = draw(people) | {"event_id": f"e{i:02}", "at": at}
        if draw(st.booleans()):
            event |= {"advertiser_id": "A", "actual_price": 1}
            found.append((at + draw(st.integers(0, HOUR - 1)), "ad-clicks", event))
            if draw(st.integers(0, 3)) == 0:
                found.append((at + draw(st.integers(0, 6 * HOUR)), "invalid-clicks", event))
        else:
            # Orders are remembered for 31 hours; one that comes again after that would be a new one.
            order = f"{draw(st.sampled_from(['o1', 'o2', 'o3']))}-{at // (20 * HOUR)}"
            event |= {"order_id": order, "revenue_amount": draw(st.integers(0, 9))}
            event |= {"conversion_type": draw(st.sampled_from(["PURCHASE", "SIGNUP"]))}
            event |= {"attribution_window": draw(st.sampled_from([None, 1, 24, 30]))}
            found.append((at + draw(st.integers(0, HOUR - 1)), "conversion-events", event))
    return found


def expected(sent: list[tuple[int, str, Event]]) -> dict[tuple[str, str], tuple[str | None, Decimal]]:
    invalid = {event["event_id"] for _, topic, event in sent if topic == "invalid-clicks"}
    clicks = [e for _, topic, e in sent if topic == "ad-clicks" and e["event_id"] not in invalid]
    orders: dict[tuple[str, str], Event] = {}
    for _, topic, event in sorted(sent, key=lambda s: (s[2]["at"], s[2]["event_id"])):
        if topic == "conversion-events":
            orders.setdefault((event["order_id"], event["product_id"]), event)
    found = {}
    for key, order in orders.items():
        window = min(order["attribution_window"] or 24, 24) * HOUR
        credit = None
        for tier in ("device_id", "session_id", "user_id"):
            of_tier = [
                (click["at"], click["event_id"])
                for click in clicks
                if order[tier] is not None and click[tier] == order[tier] and click["product_id"] == order["product_id"]
                if 0 <= order["at"] - click["at"] <= window
            ]
            if of_tier:
                credit = max(of_tier)[1]
                break
        found[key] = credit, Decimal(order["revenue_amount"] if order["conversion_type"] == "PURCHASE" else 0)
    return found


@settings(deadline=None, derandomize=True, max_examples=60, suppress_health_check=list(HealthCheck), print_blob=True)
@given(
    sent=traffic(),
    copies=st.integers(1, 3),
    partitions=st.integers(1, 8),
    seed=st.none() | st.integers(0, 99),
    commit_every=st.sampled_from([None, 1, 3]),
    crash=st.none() | st.sampled_from(STEPS),
)
def test_one_row_per_order_and_product(
    sent: list[tuple[int, str, Event]], copies: int, partitions: int, seed: Any, commit_every: Any, crash: Any
):
    how = {"partitions": partitions, "seed": seed, "commit_every": commit_every}
    with TopologyTestDriver(attribution, **how) as driver:
        if crash is not None:
            driver.crash_at(crash, commits=3)
        for _, topic, event in sorted(sent * copies, key=lambda s: s[0]):
            moment = START + timedelta(milliseconds=event["at"])
            record = event | {"timestamp": moment.isoformat(timespec="milliseconds")}
            driver.input(topic).pipe(record, key=event["device_id"], at=moment)
            driver.run()
        for product in range(32):  # some for each partition: time goes on in all of them
            record = {"event_id": "end", "timestamp": "2024-02-15T00:00:00Z", "product_id": f"end-{product}"}
            driver.input("ad-clicks").pipe(record | {"advertiser_id": "A", "actual_price": 1})
        rows = driver.table("sql-conversion_attribution_results")
        changes = driver.output("conversion-attributions").read()
        late = len(driver.output("late-clicks").read()) + len(driver.output("late-conversions").read())
        letters = [letter for topic in driver._inputs for letter in driver.dead_letters(topic)]
    assert (letters, late) == ([], 0)
    found = {
        key: (row["click_event_id"], row["revenue_amount"]) for key, row in rows.items() if row["status"] == "FINAL"
    }
    assert len(found) == len(rows)
    assert found == expected(sent)
    finals = Counter(tuple(r.key) for r in changes if r.value["status"] == "FINAL")
    assert set(finals) == set(found)
