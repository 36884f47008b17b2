"""A job of keys and values for tests on real servers: two streams joined, the pairs counted by shop behind a repartition
topic, in all and per ten seconds, each count told. Whatever happens, each shop's counts must be 1, 2, 3 …, once."""

import adstream as ads
from adstream import col


@ads.topology(name="records-job")
def job(app: ads.App, prefix: str, edition: str = "first") -> None:
    """`edition`: `first`; `renamed`, where a store has another name; `extended`, where there is one more."""
    orders = app.stream(f"{prefix}-orders", key=ads.serdes.string)
    payments = app.stream(f"{prefix}-payments", key=ads.serdes.string)
    windows = ads.JoinWindows.of_time_difference_and_grace("1s", "24h")
    pairs = orders.join(payments, ads.joined(prefix="paid_"), windows, name="pairs")
    shops = pairs.select_key(col("shop")).group_by_key("by-shop")
    counts = shops.count(ads.Materialized("counts", caching=False)).to_stream()
    if edition == "extended":
        shops.windowed_by(ads.tumbling("1m", grace="24h")).count("per-minute")
    counts.to(f"{prefix}-counts", key=ads.serdes.string, value=ads.serdes.int64)
    how = ads.Materialized("by-time" if edition == "renamed" else "per-window", caching=False)
    per_window = shops.windowed_by(ads.tumbling("10s", grace="24h")).count(how)
    per_window.to_stream().to(f"{prefix}-windows", value=ads.serdes.int64)
