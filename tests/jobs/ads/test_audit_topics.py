"""What `adstream audit ads` makes of topics (F14, F18-F20): of what the jobs themselves wrote, whole and damaged."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from adstream._core import murmur2
from adstream.jobs.ads.attribution import attribution
from adstream.jobs.ads.audit import Finding
from adstream.jobs.ads.audit_topics import Topic, apart, credited, netted, ranked
from adstream.jobs.ads.clicks import clicks
from adstream.jobs.ads.compensation import compensation
from adstream.jobs.ads.duplicates import duplicates
from adstream.jobs.ads.ledger import ledger as ledger_job
from adstream.jobs.ads.net_performance import net_performance
from adstream.jobs.ads.ranking import ranking
from adstream.testing import TopologyTestDriver
from tests.jobs.ads.money import Ledger, deposit

pytestmark = pytest.mark.servers

Rows = list[dict[str, Any]]
PARTITIONS = 2
START = datetime(2024, 1, 15, 10, tzinfo=UTC)
NOW_MS = int(datetime(2024, 1, 16, tzinfo=UTC).timestamp() * 1000)


def rfc3339(seconds: float) -> str:
    return (START + timedelta(seconds=seconds)).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def run(job: Any, inputs: Mapping[str, Rows], *outputs: str, **how: Any) -> dict[str, Rows]:
    with TopologyTestDriver(job, partitions=PARTITIONS, **how) as driver:
        for topic, rows in inputs.items():
            for row in rows:
                key = row.get("device_id") or row.get("advertiser_id") or row.get("campaign_id")
                driver.input(topic).pipe(row, key=key)
        return {topic: [record.value for record in driver.output(topic).read()] for topic in outputs}


def topic(rows: Rows, since_ms: int = 0) -> Topic:
    def read() -> Iterator[tuple[int, dict[str, Any]]]:
        return (((murmur2((row.get("device_id") or "").encode()) & 0x7FFFFFFF) % PARTITIONS, row) for row in rows)

    return Topic(read, since_ms)


@pytest.fixture
def lived(ledger: Ledger) -> dict[str, Rows]:
    """An hour of a platform: clicks of few devices on few ads, some of them late, and all that follows."""
    chance = random.Random(7)
    ledger.post(deposit(1, 300_000), deposit(2, 5_000, "B"))
    events: Rows = []
    for n in range(400):
        place = chance.randrange(3)
        events.append(
            {
                "event_id": f"e{n}",
                "event_type": chance.choice(["CLICK", "CLICK", "IMPRESSION"]),
                "timestamp": rfc3339(n * 9 - chance.choice([0, 0, 0, 5, 20, 200])),
                "device_id": chance.choice(["d1", "d2", "d3", None]),
                "session_id": f"s{chance.randrange(3)}",
                "user_id": None,
                "ad_id": f"ad{place}",
                "campaign_id": f"c{place}",
                "advertiser_id": "AAB"[place],
                "product_id": f"p{place}",
                "placement": "HOME",
                "category": "x",
                "actual_price": chance.choice([700, 1200]),
            }
        )
    conversions = [
        {
            "timestamp": rfc3339(600 + n * 90),
            "device_id": chance.choice(["d1", "d4", None]),
            "session_id": f"s{chance.randrange(4)}",
            "order_id": f"o{n % 35}",
            "product_id": f"p{chance.randrange(3)}",
            "revenue_amount": 50_000 + n,
            "conversion_type": chance.choice(["PURCHASE", "SIGNUP"]),
            "attribution_window": chance.choice([None, 1, 24]),
        }
        for n in range(40)
    ]
    found: dict[str, Rows] = {"ad-events": events, "conversion-events": conversions}
    at = {"connections": {"ledger": ledger.url}}
    found |= run(clicks, {"ad-events": events}, "ad-clicks")
    found |= run(duplicates, {"ad-clicks": found["ad-clicks"]}, "invalid-clicks", "compensation-events")
    found |= run(ledger_job, {"ad-clicks": found["ad-clicks"]}, "ad-ledger", **at)
    refunds = {"compensation-events": found["compensation-events"]}
    found |= run(compensation, refunds, "refund-applied", **at)
    names = ("ad-clicks", "invalid-clicks", "conversion-events")
    found |= run(attribution, {name: found[name] for name in names}, "conversion-attributions", "late-clicks")
    names = ("ad-events", "ad-clicks", "invalid-clicks", "ad-ledger", "refund-applied")
    found |= run(net_performance, {name: found[name] for name in names}, "ad-performance-net")
    return found


def look(rows: Mapping[str, Rows], url: str) -> dict[str, Finding]:
    of = {name: topic(values) for name, values in rows.items()}
    names = ("conversion-attributions", "conversion-events", "ad-clicks", "invalid-clicks", "late-clicks")
    found = [*apart(of["ad-clicks"], of["invalid-clicks"]), *credited(*(of[name] for name in names))]
    return {f.rule: f for f in [*found, *netted(of["ad-performance-net"], url)]}


def test_what_the_jobs_wrote_is_clean(lived: dict[str, Rows], ledger: Ledger) -> None:
    assert len(lived["invalid-clicks"]) > 20
    assert sum(row["click_event_id"] is not None for row in lived["conversion-attributions"]) > 10
    assert {r["status"] for r in lived["ad-ledger"]} == {"POSTED", "UNBILLED"}
    assert [f for f in look(lived, ledger.url).values() if f.broken] == []


def changed(name: str, value: Callable[[dict[str, Any]], Any], of: Callable[[dict[str, Any]], bool]) -> Any:
    """Damages the newest row that fits."""

    def damage(rows: Rows) -> None:
        at = max(i for i, row in enumerate(rows) if of(row))
        rows[at] = rows[at] | {name: value(rows[at])}

    return damage


DAMAGE: dict[str, tuple[str, Callable[[Rows], None]]] = {
    "between clicks that count, of a device and an ad, are 300 s (F18)": ("invalid-clicks", lambda rows: rows.pop(3)),
    "a duplicate has a click that counts less than 300 s away (F18)": (
        "invalid-clicks",
        lambda rows: rows.append(rows[0] | {"event_id": "x", "ad_id": "ad9"}),
    ),
    "a credited click is in the window before its conversion (F19)": (
        "conversion-attributions",
        changed("click_time", lambda _: rfc3339(-90_000), lambda row: row["click_event_id"] is not None),
    ),
    "a credited click is valid, and the last of the best tier (F19)": (
        "conversion-attributions",
        changed("click_event_id", lambda _: "e0", lambda row: row["click_event_id"] not in (None, "e0")),
    ),
    "no row has more revenue than its conversion (F19)": (
        "conversion-attributions",
        changed("revenue_amount", lambda _: "1000000.00", lambda row: True),
    ),
    "net is at most gross (F20)": (
        "ad-performance-net",
        changed("click_count_net", lambda row: row["click_count"] + 1, lambda row: True),
    ),
    "the net spend of five minutes is charges less refunds (F20)": (
        "ad-performance-net",
        changed("total_spend_net", lambda row: str(float(row["total_spend_net"]) - 1), lambda row: True),
    ),
}


@pytest.mark.parametrize("rule", DAMAGE)
def test_damage_is_found(lived: dict[str, Rows], ledger: Ledger, rule: str) -> None:
    name, damage = DAMAGE[rule]
    damage(lived[name])
    found = look(lived, ledger.url)
    assert set(found) == set(DAMAGE)
    assert found[rule].broken > 0
    assert found[rule].example


def test_what_is_not_kept_any_more_breaks_nothing(lived: dict[str, Rows]) -> None:
    half = rfc3339(1800)
    since = int(datetime.fromisoformat(half).timestamp() * 1000)
    kept = {name: topic([r for r in rows if r.get("timestamp", half) >= half], since) for name, rows in lived.items()}
    names = ("conversion-attributions", "conversion-events", "ad-clicks", "invalid-clicks", "late-clicks")
    found = [*apart(kept["ad-clicks"], kept["invalid-clicks"]), *credited(*(kept[name] for name in names))]
    assert [f for f in found if f.broken] == []


def campaigns() -> Rows:
    chance = random.Random(3)
    rows = []
    for n in range(120):
        event = {
            "event_id": f"v{n}",
            "event_type": chance.choice(["CAMPAIGN_CREATED", "CAMPAIGN_UPDATED", "CAMPAIGN_STATUS_CHANGED"]),
            "timestamp": rfc3339(n * 60 - chance.choice([0, 0, 500])),
            "campaign_id": f"c{chance.randrange(30)}",
            "status": chance.choice(["ACTIVE"] * 4 + ["PAUSED"]),
        }
        if event["event_type"] == "CAMPAIGN_STATUS_CHANGED":
            event["reason"] = chance.choice([None, "BUDGET", "BALANCE"])
        else:
            event |= {
                "advertiser_id": "A",
                "product_id": f"p{n % 3}",
                "placement": chance.choice(["HOME", "SEARCH"]),
                "category": "x",
                "bid_price": chance.choice([50, 500, 900, 1500]),
                "approval_status": chance.choice(["APPROVED", "APPROVED", "REJECTED"]),
                "effective_from": chance.choice([None, rfc3339(0), rfc3339(0), rfc3339(10**7)]),
            }
        rows.append(event)
    return rows


def test_lists_of_the_ranking_are_clean_and_damage_is_found() -> None:
    events = campaigns()
    lists = run(ranking, {"campaign-events": events}, "rtb-ranking", wall_clock="2024-01-16T00:00:00Z")["rtb-ranking"]
    assert [f for f in ranked(topic(lists), topic(events), NOW_MS) if f.broken] == []
    rules = [f.rule for f in ranked(topic(lists), topic(events), NOW_MS)]
    last = {(told["placement"], told["category"]): told for told in lists}
    place, told = next((p, t) for p, t in last.items() if t["total_campaigns"] > 1)
    lines = json.loads(told["ranking_list"])
    for rule, wrong in {
        rules[0]: lines[::-1],
        rules[1]: [lines[0] | {"actual_price": "99999"}, *lines[1:]],
        rules[2]: [*lines, lines[0]],
        rules[3]: [
            *lines,
            lines[-1] | {"campaign_id": next(e for e in events if e["status"] == "PAUSED")["campaign_id"]},
        ],
        rules[4]: lines[1:],
    }.items():
        bent = told | {"ranking_list": json.dumps(wrong), "total_campaigns": len(wrong)}
        found = {f.rule: f for f in ranked(topic([*lists, bent]), topic(events), NOW_MS)}
        assert found[rule].broken, (rule, place)
