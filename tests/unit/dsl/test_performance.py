"""The job `ads.performance` as a plan; what it computes is tested against `adstream.jobs.ads.truth`."""

from adstream.jobs.ads.performance import AdEvent, performance


def test_the_plan():
    built = performance.build()
    by_op: dict[str, list[dict]] = {}
    for node in built.plan["nodes"]:
        by_op.setdefault(node["op"], []).append(node)
    assert built.callables == ()
    assert {op: len(found) for op, found in by_op.items()} == {
        "source": 1,
        "require": 1,
        "deduplicate": 1,
        "filter": 1,
        "aggregate": 2,
        "with_columns": 3,
        "to_stream": 2,
        "to_topic": 2,
        "sink": 2,
    }
    source = by_op["source"][0]
    assert (source["topic"], source["timestamp"], source["key"]) == ("ad-events", "timestamp", ["device_id"])
    assert [f["name"] for f in source["fields"] if not f["nullable"]] == ["event_id", "event_type", "timestamp"]
    assert [reason for reason, _ in by_op["require"][0]["rules"]] == ["no_event_id", "bad_price", "bad_revenue"]
    assert by_op["filter"][0]["reason"] == "no_campaign"
    gross, products = by_op["aggregate"]
    assert (gross["name"], gross["keys"]) == ("gross", ["campaign_id", "product_id", "placement"])
    assert gross["window"] == {
        "kind": "tumbling",
        "size_ms": 300_000,
        "grace_ms": 10_000,
        "retention_ms": 90_000_000,
    }
    assert (products["inputs"], products["keys"], products["window"]) == ([[gross["id"], 0]], ["product_id"], None)


def test_what_is_written():
    sql, redis = (n for n in performance.build().plan["nodes"] if n["op"] == "sink")
    assert sql["options"] == {"table": "ad_performance_metrics_realtime", "connection": "sql"}
    assert sql["key"] == ["campaign_id", "product_id", "placement", "metric_time"]
    assert sql["columns"] == [
        "campaign_id",
        "product_id",
        "placement",
        "metric_time",
        "impression_count",
        "click_count",
        "conversion_count",
        "total_spend",
        "total_revenue",
        "ctr",
        "cvr",
        "roas",
        "ctr_undefined",
        "updated_at",
    ]
    assert redis["options"] == {"template": "product-metrics:{product_id}", "connection": "redis"}
    assert redis["columns"] == ["product_id", "impressions", "clicks", "conversions", "ctr", "cvr"]


def test_the_topics():
    final, late = (n for n in performance.build(grace="30s").plan["nodes"] if n["op"] == "to_topic")
    assert (final["topic"], final["key"]) == ("ad-performance", ["campaign_id", "product_id", "placement"])
    assert "metric_time" in final["columns"]
    assert late["topic"] == "ad-performance-late"
    assert late["columns"] == list(AdEvent.__adstream_schema__.types)


def test_its_lines_are_the_jobs():
    assert {n["line"].split(":")[0] for n in performance.build().plan["nodes"]} == {"performance.py"}
