"""Patterns on rows: what is selected of a match, types, what is refused. What they find: `tests/differential/cep`."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any

import pytest

import adstream as ads
from adstream import Pattern, TopologyError, col, element, matched
from adstream.testing import TopologyTestDriver


class Payment(ads.Record):
    card: str | None
    shop: str
    at: datetime
    amount: Annotated[Decimal, ads.decimal(10, 2)] | None
    units: int


def at_second(second: int) -> str:
    return (datetime(2024, 1, 1, tzinfo=UTC) + timedelta(seconds=second)).strftime("%Y-%m-%dT%H:%M:%SZ")


SMALL = Pattern.begin("small").where(col("amount") < 1).one_or_more()
PROBE = SMALL.followed_by("large").where(col("amount") > matched("small").sum("amount") * 100).within("10m")
w = matched("small")


def build(app: ads.App, *, by: tuple[str, ...] = ("card",), **chosen: Any) -> ads.RowMatches:
    rows = app.stream("payments", schema=Payment, timestamp="at")
    found = rows.group_by(*by).match(PROBE, max_delay="0s", skip=ads.AfterMatchSkipStrategy.skip_past_last_event())
    found.select(**chosen).to("alerts")
    return found


def play(events: list[tuple[str | None, int, str | None]], **options: Any) -> tuple[TopologyTestDriver, list[Any]]:
    @ads.topology(name="fraud")
    def fraud(app: ads.App) -> None:
        found = build(app, **options)
        found.timed_out.select(card=ads.key(), n=w.count()).to("probes")
        found.late.to("late")

    driver = TopologyTestDriver(fraud, partitions=1)
    for card, second, amount in events:
        at = at_second(second)
        payment = {"card": card, "shop": "s", "at": at, "amount": amount, "units": second}
        driver.input("payments").pipe(payment)
    return driver, driver.output("alerts").read()


EVENTS: list[tuple[str | None, int, str | None]] = [
    ("a", 1, "0.50"),
    ("b", 1, "0.10"),
    (None, 2, "0.10"),
    ("a", 3, None),
    ("a", 4, "0.25"),
    ("a", 5, "20.00"),
    ("a", 6, "75.01"),
    ("a", 700, "9.00"),
    ("b", 701, "9.00"),
]


def test_what_a_match_says_has_its_types_and_runs_without_python() -> None:
    driver, found = play(
        EVENTS,
        user=ads.key(),
        card=col("card"),
        n=w.count(),
        total=w.sum("amount"),
        usual=w.mean("amount"),
        ratio=matched("large").first("amount") - w.max("amount"),
        units=w.sum(element("units") * 2),
        mean=w.mean("units"),
        first=w.first("at"),
        last=w.last("shop"),
        any=w.any(element("units") > 3),
        all=w.all(element("units") > 3),
        values=w.values("amount"),
    )
    assert [r.value for r in found] == [
        {
            "user": "a",
            "card": "a",
            "n": 2,
            "total": "0.75",
            "usual": "0.375000",
            "ratio": "74.51",
            "units": 10,
            "mean": 2.5,
            "first": "2024-01-01T00:00:01.000Z",
            "last": "s",
            "any": True,
            "all": False,
            "values": ["0.50", "0.25"],
        }
    ]
    assert found[0].timestamp == 1_704_067_206_000
    assert [r.value for r in driver.output("probes").read()] == [{"card": "b", "n": 1}]
    assert sum(c.get("filtered:null_key", 0) for c in driver.counters().values()) == 1
    for node in driver.built.plan["nodes"]:
        assert node.get("rung") != "callable", node
    assert all(not callable(getattr(fn, "fn", None)) for fn in driver.built.callables)
    driver.close()


def test_what_is_selected_is_rows_again() -> None:
    @ads.topology(name="fraud")
    def fraud(app: ads.App) -> None:
        found = build(app, card=col("card"), n=w.count())
        again = found.select(card=col("card"), n=w.count())
        assert again.schema == {"card": "str", "n": "int"}
        again.filter(col("n") > 1).group_by("card").aggregate(alerts=ads.count()).to("counts")

    with TopologyTestDriver(fraud, partitions=1) as driver:
        for _, second, amount in [e for e in EVENTS if e[0] == "a"]:
            at = at_second(second)
            driver.input("payments").pipe({"card": "a", "shop": "s", "at": at, "amount": amount, "units": 1})
        assert [r.value for r in driver.output("counts").read()] == [{"card": "a", "alerts": 1}]


def test_several_columns_group_and_late_rows_are_rows() -> None:
    driver, found = _several()
    assert found == [{"card": "a", "shop": "s", "n": 1}]
    assert [r.value["units"] for r in driver.output("late").read()] == [8]
    driver.close()


def _several() -> tuple[TopologyTestDriver, list[Any]]:
    @ads.topology(name="fraud")
    def fraud(app: ads.App) -> None:
        found = build(app, by=("card", "shop"), card=col("card"), shop=col("shop"), n=w.count())
        found.late.to("late")

    driver = TopologyTestDriver(fraud, partitions=1)
    for second, amount in ((1, "0.50"), (9, "60.00"), (8, "60.00"), (900, None)):
        at = at_second(second)
        driver.input("payments").pipe({"card": "a", "shop": "s", "at": at, "amount": amount, "units": second})
    return driver, [r.value for r in driver.output("alerts").read()]


def test_records_select_by_expressions_too() -> None:
    text = ads.serdes.string

    @ads.topology(name="fraud")
    def fraud(app: ads.App) -> None:
        a = Pattern.begin("a").where(col("t") == "a").times(2)
        found = app.stream("in", key=text).group_by_key().match(a, max_delay="0s")
        found.select(ads.struct(who=ads.key(), sum=matched("a").sum("n"), all=matched("a").values("n"))).to(
            "out", key=text
        )

    with TopologyTestDriver(fraud, partitions=1) as driver:
        for i, letter in enumerate("axa-"):
            driver.input("in").pipe({"t": letter, "n": i}, key="k", at=i)
        assert [r.value for r in driver.output("out").read()] == [{"who": "k", "sum": 2, "all": [0, 2]}]


A = Pattern.begin("a")


@pytest.mark.parametrize(
    ("pattern", "chosen", "code", "told"),
    [
        (A.where(col("amuont") > 1), {}, "unknown_column", "did you mean `amount`?"),
        (A.where(col("amount")), {}, "not_a_condition", "not bool"),
        (A.where(col("shop") > 1), {}, "type_mismatch", ""),
        (A.where(matched("a").sum("shop") > 1), {}, "type_mismatch", "there is no sum of str"),
        (A.where(matched("a").any(element("units"))), {}, "not_a_condition", "not bool"),
        (A.where(matched("a").first("nobody") == 1), {}, "unknown_column", "no column `nobody`"),
        (
            A.where(ads.timestamp() > ads.lit(datetime(2024, 1, 1, tzinfo=UTC))),
            {},
            "unknown_column",
            "cannot be asked inside",
        ),
        (A, {"n": col("units")}, "bad_argument", 'ads.matched("stage").first("units")'),
        (A, {"n": col("unist")}, "unknown_column", "did you mean `units`?"),
        (A, {"n": matched("a").all(element("units") > col("units"))}, "unknown_column", "a match is over"),
        (A, {"n": 5}, "bad_argument", "ads.lit"),
        (A, {"$n": matched("a").count()}, "reserved_name", "$n"),
        (A, {"n": matched("a").mean("at")}, "type_mismatch", "there is no mean of timestamp"),
    ],
)
def test_what_cannot_be_is_refused_when_the_topology_is_built(
    pattern: Pattern, chosen: dict[str, Any], code: str, told: str
) -> None:
    def build(app: ads.App) -> None:
        found = app.stream("p", schema=Payment).group_by("card").match(pattern, max_delay="0s")
        found.select(**(chosen or {"n": matched("a").count()})).to("out")

    with pytest.raises(TopologyError) as refused:
        ads.topology(name="fraud")(build).build()
    assert refused.value.code == code
    assert told in str(refused.value)
    assert refused.value.line is None or "test_pattern_rows" in refused.value.line


def _moved(idle: str | None) -> TopologyTestDriver:
    @ads.topology(name="moved")
    def build(app: ads.App) -> None:
        payments = app.stream("payments", Payment)
        small_then_large = (
            Pattern.begin("small").where(col("amount") < 2).followed_by("large").where(col("amount") > 50)
        )
        found = payments.group_by("card").match(small_then_large, max_delay="5s", idle=idle)
        found.select(card=col("card")).to("found")
        found.late.to("late")

    return TopologyTestDriver(build, partitions=2, wall_clock=1_700_000_000_000)


def _pay(driver: TopologyTestDriver, partition: int, second: int, amount: str) -> None:
    payment = {"card": "a", "shop": "s", "at": at_second(second), "amount": amount, "units": 1}
    driver.input("payments").pipe(payment, partition=partition, at=at_second(second))


def test_behind_a_shuffle_time_is_where_the_slowest_partition_is() -> None:
    with _moved(idle=None) as driver:
        _pay(driver, 0, 0, "1.00")
        _pay(driver, 0, 100, "1.00")  # partition 1 has not spoken: nothing is certain yet
        _pay(driver, 1, 1, "99.00")  # 99 s behind, and not late: by its own partition's time it is not
        assert driver.output("found").read() == []
        _pay(driver, 1, 100, "1.00")
        assert [r.value for r in driver.output("found").read()] == [{"card": "a"}]
        _pay(driver, 1, 94, "1.00")
        assert [r.value["amount"] for r in driver.output("late").read()] == ["1.00"]


def test_an_idle_partition_is_not_waited_for() -> None:
    with _moved(idle="30s") as driver:
        driver.advance_wall_clock("1s")
        _pay(driver, 0, 0, "1.00")
        _pay(driver, 0, 1, "99.00")
        driver.advance_wall_clock("20s")
        _pay(driver, 0, 40, "5.00")
        assert driver.output("found").read() == []
        driver.advance_wall_clock("11s")  # partition 1 has been silent for 31 s
        assert [r.value for r in driver.output("found").read()] == [{"card": "a"}]
        _pay(driver, 1, 34, "5.00")  # behind where time is
        assert len(driver.output("late").read()) == 1
        _pay(driver, 1, 36, "5.00")
        assert driver.output("late").read() == []
