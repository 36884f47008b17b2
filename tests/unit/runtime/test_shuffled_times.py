"""Records that tasks of a worker put through one shuffle stand there by their times, not one task's before the other's."""

import json

import adstream as ads
from adstream import col
from adstream._core import Plan, RawBatch
from adstream.interfaces import TopicSpec
from adstream.logs.embedded import EmbeddedLog
from adstream.runtime import launch
from adstream.runtime.settings import Settings

PARTITIONS, ROWS, EVERY_MS = 4, 500, 200


@ads.topology(name="test")
def job(app: ads.App) -> None:
    shops = app.stream("in", key=ads.serdes.string).group_by(col("shop"), "by-shop")
    windows = shops.windowed_by(ads.tumbling("1s", grace="4s"))
    windows.aggregate(n=ads.count()).to_stream().to("out")


def test_catching_up_makes_no_record_late() -> None:
    log = EmbeddedLog()
    log.create_topics([TopicSpec("in", PARTITIONS), TopicSpec("out", PARTITIONS)])
    rows = [(n, n * EVERY_MS, b"k", b'{"shop":"s%d"}' % (n % 3), []) for n in range(ROWS)]
    given = [("in", p, RawBatch(rows)) for p in range(PARTITIONS)]
    log.writer("producer").commit(given, {}, "g", None)  # type: ignore[arg-type]
    built = job.build()
    # A generation is far longer than the grace, a turn shorter.
    settings = Settings(create_topics=True, commit_interval_ms=500, batch_rows_max=10, buffer_rows_max=10)
    launch.run(Plan(built.json, built.callables), settings, log, stop_at_end=True)
    reader, newest = log.reader(), {}
    for partition in range(PARTITIONS):
        reader.add("out", partition, 0)
        while (batch := reader.read("out", partition, 1000)) is not None:
            newest.update({key: json.loads(value or b"")["n"] for _, _, key, value, _ in batch.records()})
    assert sum(newest.values()) == PARTITIONS * ROWS
