"""Lines as records: every line once, from any position, whatever the size of reads and blocks."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adstream.errors import ConfigError
from adstream.interfaces import Outcome, TopicSpec
from adstream.logs import files
from adstream.logs.embedded import EmbeddedLog
from adstream.logs.files import FilesLog

CONTENT = st.lists(st.sampled_from([b"", b"{}", b'{"a":1}', b"\r", b"x" * 40]), max_size=30)


@given(lines=CONTENT, end=st.booleans(), block=st.integers(1, 50), rows=st.integers(1, 9), start=st.integers(0, 30))
@settings(max_examples=150, deadline=None)
def test_each_line_once(lines: list[bytes], end: bool, block: int, rows: int, start: int, tmp_path_factory) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path_factory.mktemp("files") / "a.jsonl"
    path.write_bytes(b"\n".join(lines) + (b"\n" if end and lines else b""))
    before, files.BLOCK_BYTES = files.BLOCK_BYTES, block
    try:
        log = FilesLog(EmbeddedLog(), {"in": [path]})
        count = log.end_offsets([("in", 0)], committed=True)["in", 0]
        start = min(start, count)
        reader = log.reader()
        reader.add("in", 0, start)
        found = []
        while (read := reader.read("in", 0, rows)) is not None:
            found += [(offset, value) for offset, _, _, value, _ in read.records()]
        assert reader.at_end("in", 0)
        wanted = [(i, line) for i, line in enumerate(lines) if i >= start and line not in (b"", b"\r")]
        assert found == wanted
        reader.close()
    finally:
        files.BLOCK_BYTES = before


def test_files_are_partitions_and_the_rest_is_the_inner_log(tmp_path: Path) -> None:
    for name in ("b", "a"):
        (tmp_path / f"{name}.jsonl").write_text(f'"{name}"\n')
    inner = EmbeddedLog()
    inner.create_topics([TopicSpec("out", 3)])
    log = FilesLog(inner, {"in": [tmp_path / "*.jsonl"]}, timestamp_ms=7)
    assert log.partitions(["in", "out", "none"]) == {"in": 2, "out": 3}
    assert log.create_topics([TopicSpec("in", 2), TopicSpec("more", 1)]) == ["more"]
    reader = log.reader()
    reader.add("in", 0, 0)
    reader.add("out", 0, 0)
    reader.wait(30)  # lines are there
    read = reader.read("in", 0, 10)
    assert read is not None
    assert read.records() == [(0, 7, None, b'"a"', [])]
    writer = log.writer("w")
    assert writer.commit([("out", 0, read)], {("in", 0): 1}, "g", None) is Outcome.COMMITTED
    assert reader.read("out", 0, 10) is not None
    assert log.committed("g", [("in", 0), ("in", 1)]) == {("in", 0): 1, ("in", 1): None}
    assert log.start_offsets([("in", 1), ("out", 0)]) == {("in", 1): 0, ("out", 0): 0}
    reader.close()


def test_no_file_is_an_error_that_names_the_pattern(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no file `.*none\.jsonl` for topic `in`"):
        FilesLog(EmbeddedLog(), {"in": [tmp_path / "none.jsonl"]})
