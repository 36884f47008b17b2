"""What the platform's topics say, looked at from outside: by rules of its own, which share nothing with what decides.

    F14  ranking      each eligible campaign is in one list, once, and no other is; scores go down; reserve <= price <= bid
    F18  duplicates   between two clicks that count, of a device and an ad, are 300 s; a duplicate has one that counts near it
    F19  attribution  one click a row: in the window, valid, the last one of the best tier; no revenue that was not made
    F20  performance  net is at most gross; the net spend of five minutes is the ledger's charges less their refunds

Jobs are behind one another while they run, so these hold when all have read what there is. What a topic does not keep any more
cannot be looked at, and what depends on that is left out. Memory: the clicks of the topics.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from typing import Any, NamedTuple

from adstream.jobs.ads.audit import Finding

WINDOW_MS = 300_000
GRACE_MS = 30_000
"""How long `ads.duplicates` waits for clicks out of order, unless it is told otherwise."""
RESERVE = Decimal(100)
"""Of `ads.ranking`, unless it is told otherwise, where no list tells."""
TIERS = ("device", "session", "user")
HOLDS = ("BUDGET", "BALANCE")
TOPICS: Mapping[str, tuple[str, ...]] = {
    "ads.ranking": ("rtb-ranking", "campaign-events"),
    "ads.duplicates": ("ad-clicks", "invalid-clicks"),
    "ads.attribution": ("conversion-attributions", "conversion-events", "ad-clicks", "invalid-clicks", "late-clicks"),
    "ads.net_performance": ("ad-performance-net",),
}
"""Job -> what is read to look at what it says."""
BEHIND: Mapping[str, tuple[str, ...]] = {
    "ads.net_performance": ("ads.clicks", "ads.duplicates", "ads.ledger", "ads.compensation")
}
"""Job -> who else must have read all, for what it says to be so,"""
ASIDE = ("campaign-events", "budget-resumes")
"""but what moves no money. The ledger itself writes there, so it has always something to read."""


class Topic(NamedTuple):
    """The records of a topic."""

    read: Callable[[], Iterator[tuple[int, dict[str, Any]]]]
    """Partition and value of each, in the order of each partition."""
    since_ms: int = 0
    """Of all that was from then on, nothing is missing. 0: nothing at all is."""


def ranked(lists: Topic, campaigns: Topic, now_ms: int) -> Iterator[Finding]:
    """F14."""
    newest: dict[tuple[str, str], dict[str, Any]] = {}
    for _, told in lists.read():
        newest[told["placement"], told["category"]] = told
    found: dict[str, list[tuple[str, str]]] = defaultdict(list)
    lines = {place: json.loads(told["ranking_list"]) for place, told in newest.items()}
    whole = {place for place, told in newest.items() if len(lines[place]) == told["total_campaigns"]}
    ends = {Decimal(lines[place][-1]["actual_price"]) for place in whole if lines[place]}
    reserve = min(ends, default=RESERVE)  # what the last of a list pays
    unordered, unpriced = [], []
    for place, shown in lines.items():
        scores = [Decimal(line["score"]) for line in shown]
        unordered += [place for a, b in pairwise(scores) if a < b]
        for line in shown:
            found[line["campaign_id"]].append(place)
            if not reserve <= Decimal(line["actual_price"]) <= Decimal(line["bid_price"]):
                unpriced.append(place)
    yield _finding("scores of a list go down (F14)", unordered)
    yield _finding("a price is at least the reserve and at most the bid (F14)", unpriced)
    yield _finding("a campaign is in one list, once (F14)", [c for c, places in found.items() if len(places) > 1])
    known = _eligible(campaigns, now_ms, reserve)
    where = {c: places[0] for c, places in found.items()}
    wrong = [c for c, place in where.items() if c in known and known[c] != place]
    yield _finding("no campaign is in a list that is not eligible there (F14)", wrong)
    full = whole if lists.since_ms else whole | (set(known.values()) - newest.keys())
    missing = [c for c, place in known.items() if c not in where and place is not None and place in full]
    yield _finding("each eligible campaign is in a list (F14)", missing)


def _eligible(campaigns: Topic, now_ms: int, reserve: Decimal) -> dict[str, tuple[str, str] | None]:
    """Where each campaign is to be; None: nowhere. Without those of which that cannot be said."""
    newest: dict[tuple[str, str], tuple[tuple[int, str], dict[str, Any]]] = {}
    unsure = set()
    for _, event in campaigns.read():
        campaign, order = event.get("campaign_id"), (_ms(event["timestamp"]), event.get("event_id") or "")
        full = event["event_type"] != "CAMPAIGN_STATUS_CHANGED"
        held = not full and event.get("reason") in HOLDS
        if not campaign or not _taken(event, full) or order[0] > now_ms:
            unsure.add(campaign)
            continue
        for what, said in (
            ("hold", held),
            ("terms", full),
            ("status", full or (not held and event.get("status") is not None)),
        ):
            before = newest.get((campaign, what), ((-1, ""), {}))[0]
            if said and before[0] == order[0] and not (before[1] and order[1]):
                unsure.add(campaign)  # the bytes decide
            if said and before < order:
                newest[campaign, what] = order, event
    found: dict[str, tuple[str, str] | None] = {}
    for (campaign, what), (order, event) in newest.items():
        begins = _ms(event["effective_from"]) if event.get("effective_from") else 0
        if what != "terms" or campaign in unsure or order[0] < campaigns.since_ms or abs(begins - now_ms) < 5_000:
            continue
        status = newest[campaign, "status"][1].get("status")
        held = (campaign, "hold") in newest and newest[campaign, "hold"][1].get("status") == "PAUSED"
        good = status == "ACTIVE" and event.get("approval_status") == "APPROVED" and not held and begins <= now_ms
        good = good and Decimal(str(event["bid_price"])) >= reserve
        found[campaign] = (event["placement"], event["category"]) if good else None
    return found


def _taken(event: Mapping[str, Any], full: bool) -> bool:
    """Whether an event was not refused, for all that is known here."""
    ids = ("event_id", "campaign_id", "advertiser_id", "product_id")
    if event.get("status") not in (None, "PENDING", "ACTIVE", "PAUSED", "DELETED"):
        return False
    if any(len(str(event.get(name) or "").encode()) > 256 for name in ids):
        return False
    return not full or bool(event.get("placement") and event.get("category") and event.get("bid_price"))


def apart(clicks: Topic, invalid: Topic) -> Iterator[Finding]:
    """F18."""
    duplicates: dict[str, tuple[tuple[str, str], int]] = {}
    for _, click in invalid.read():
        duplicates[click["event_id"]] = (click["device_id"], click["ad_id"]), _ms(click["timestamp"])
    kept: dict[tuple[str, str], dict[str, tuple[int, bool]]] = defaultdict(dict)
    newest: dict[int, int] = {}  # by partition
    judged: dict[int, int] = {}
    of: dict[tuple[str, str], int] = {}
    for partition, click in clicks.read():
        at, key = _ms(click["timestamp"]), (click.get("device_id") or "", click.get("ad_id") or "")
        in_time = at > newest.get(partition, at) - GRACE_MS
        newest[partition] = max(newest.get(partition, at), at)
        if all(key):
            judged[partition] = max(judged.get(partition, at), at)
            of[key] = partition
            if click["event_id"] not in duplicates:
                kept[key].setdefault(click["event_id"], (at, in_time))
    since = max(clicks.since_ms, invalid.since_ms)
    close = []
    for key, found in kept.items():
        # Two that came late may both count, and what is not behind the newest by the grace is not judged yet.
        until = judged[of[key]] - GRACE_MS
        sure = sorted((at, id) for id, (at, in_time) in found.items() if in_time and since <= at < until)
        close += [b[1] for a, b in pairwise(sure) if b[0] - a[0] < WINDOW_MS]
    alone = []
    for id, (key, at) in duplicates.items():
        near = any(abs(at - t) < WINDOW_MS for t, _ in kept.get(key, {}).values())
        if not near and at >= since + (WINDOW_MS if since else 0):
            alone.append(id)
    yield _finding("between clicks that count, of a device and an ad, are 300 s (F18)", close)
    yield _finding("a duplicate has a click that counts less than 300 s away (F18)", alone)


def credited(rows: Topic, conversions: Topic, clicks: Topic, invalid: Topic, late: Topic) -> Iterator[Finding]:
    """F19."""
    newest: dict[tuple[str, str], dict[str, Any]] = {}
    for _, row in rows.read():
        newest[row["order_id"], row["product_id"]] = row
    left_out = {click["event_id"] for topic in (invalid, late) for _, click in topic.read()}
    lasts: dict[tuple[str, str, str], list[tuple[int, str]]] = defaultdict(list)
    since = max(topic.since_ms for topic in (clicks, invalid, late))
    for _, click in clicks.read():
        at = _ms(click["timestamp"])
        if click.get("product_id") and click["event_id"] not in left_out:
            for tier in TIERS:
                if click.get(f"{tier}_id"):
                    lasts[click["product_id"], tier, click[f"{tier}_id"]].append((at, click["event_id"]))
    for found in lasts.values():
        found.sort()
    asked: dict[tuple[str, str, int], list[dict[str, Any]]] = defaultdict(list)
    for _, event in conversions.read():
        if event.get("order_id") and event.get("product_id"):
            asked[event["order_id"], event["product_id"], _ms(event["timestamp"])].append(event)
    outside, not_best, too_much = [], [], []
    for (order, product), row in newest.items():
        at = _ms(row["conversion_time"])
        events = asked.get((order, product, at), [])
        if not events or any(event != events[0] for event in events):  # it is not kept any more, or one of several
            continue
        event = events[0]
        window = min(event.get("attribution_window") or 24, 24) * 3_600_000
        credited = row["click_event_id"]
        if credited is not None and not 0 <= at - _ms(row["click_time"]) <= window:
            outside.append(order)
        best = None
        for tier in TIERS:
            if best is None and event.get(f"{tier}_id"):
                of_tier = lasts.get((product, tier, event[f"{tier}_id"]), [])
                place = bisect_right(of_tier, (at, "\U0010ffff")) - 1
                if place >= 0 and of_tier[place][0] >= at - window:
                    best = of_tier[place][1]
        if at - window >= since and best != credited:
            not_best.append(order)
        made = Decimal(str(event.get("revenue_amount") or 0)) if event["conversion_type"] == "PURCHASE" else Decimal(0)
        if Decimal(str(row["revenue_amount"])) > made:
            too_much.append(order)
    yield _finding("a credited click is in the window before its conversion (F19)", outside)
    yield _finding("a credited click is valid, and the last of the best tier (F19)", not_best)
    yield _finding("no row has more revenue than its conversion (F19)", too_much)


def netted(rows: Topic, url: str) -> Iterator[Finding]:
    """F20. `url`: of the ledger."""
    import psycopg

    newest: dict[tuple[Any, ...], dict[str, Any]] = {}
    for _, row in rows.read():
        newest[row["campaign_id"], row["product_id"], row["placement"], row["metric_time"]] = row
    more, told = [], defaultdict[tuple[str, int], Decimal](Decimal)
    for key, row in newest.items():
        spend, net = Decimal(str(row["total_spend"])), Decimal(str(row["total_spend_net"]))
        if net > spend or row["click_count_net"] > row["click_count"]:
            more.append(key[0])
        told[key[0], _ms(row["metric_time"])] += net
    query = (
        "SELECT c.campaign_id, (floor(extract(epoch FROM c.at) / 300) * 300000)::bigint,"
        " ads_ledger.major(sum(CASE p.kind WHEN 'CHARGE' THEN p.amount ELSE -p.amount END)::bigint, max(s.exponent))"
        " FROM ads_ledger.posting p JOIN ads_ledger.posting c ON c.id = coalesce(p.ref, p.id) AND c.kind = 'CHARGE',"
        " ads_ledger.setting s WHERE p.kind IN ('CHARGE', 'REFUND') AND c.campaign_id IS NOT NULL GROUP BY 1, 2"
    )
    with psycopg.connect(url) as link:
        booked = {(campaign, at): spent for campaign, at, spent in link.execute(query)}
    places = {place for place in told.keys() | booked.keys() if place[1] >= rows.since_ms}
    wrong = [c for c, at in places if told.get((c, at), Decimal(0)) != booked.get((c, at), Decimal(0))]
    yield _finding("net is at most gross (F20)", more)
    yield _finding("the net spend of five minutes is charges less refunds (F20)", wrong)


def _finding(rule: str, broken: Iterable[Any]) -> Finding:
    found = sorted(map(str, broken))
    return Finding(rule, len(found), found[0] if found else None)


def _ms(text: str) -> int:
    return (datetime.fromisoformat(text) - datetime.fromtimestamp(0, UTC)) // timedelta(milliseconds=1)
