"""Lines as records: every line once, from any position, and no other file taken for the one that was read."""

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adstream.errors import ConfigError, FatalError
from adstream.interfaces import Outcome, Reader, TopicSpec
from adstream.logs.embedded import EmbeddedLog
from adstream.logs.files import FilesLog

CONTENT = st.lists(st.sampled_from([b"", b"{}", b'{"a":1}', b"\r", b"{}\r", b"x" * 40]), max_size=30)


def rest(reader: Reader, rows: int = 100) -> list[tuple[int, bytes | None]]:
    found = []
    while (read := reader.read("in", 0, rows)) is not None:
        found += [(offset, value) for offset, _, _, value, _ in read.records()]
    assert reader.at_end("in", 0)
    return found


@given(lines=CONTENT, end=st.booleans(), rows=st.integers(1, 9), start=st.integers(0, 30))
@settings(max_examples=150, deadline=None)
def test_each_line_once(lines: list[bytes], end: bool, rows: int, start: int, tmp_path_factory) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path_factory.mktemp("files") / "a.jsonl"
    path.write_bytes(b"\n".join(lines) + (b"\n" if end and lines else b""))
    log = FilesLog(EmbeddedLog(), {"in": [path]})
    begins = [sum(len(line) + 1 for line in lines[:i]) for i in range(len(lines) + 1)]
    content = path.read_bytes()
    last = log.end_offsets([("in", 0)], committed=True)["in", 0]
    assert last == len(content) + (bool(content) and not content.endswith(b"\n"))
    start = min(begins[min(start, len(lines))], last)
    log.writer("w").commit([], {("in", 0): start}, "g", None)
    assert log.committed("g", [("in", 0)]) == {("in", 0): start}
    reader = log.reader()
    reader.add("in", 0, start)
    wanted = [(at, line.removesuffix(b"\r")) for at, line in zip(begins, lines, strict=False)]
    assert rest(reader, rows) == [(at, line) for at, line in wanted if at >= start and line]
    reader.close()


def opened(path: Path, position: int | None = None) -> FilesLog:
    log = FilesLog(EmbeddedLog(), {"in": [path]})
    if position is not None:
        log.writer("w").commit([], {("in", 0): position}, "g", None)
    return log


@pytest.mark.parametrize("newline", [True, False])
def test_lines_that_were_appended_are_read_next_time(tmp_path: Path, newline: bool) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"a":1}\n{"a":2}' + b"\n" * newline)
    log = opened(path)
    reader = log.reader()
    reader.add("in", 0, 0)
    with path.open("ab") as file:
        file.write(b"\n" * (not newline) + b'{"a":3}\n')
    assert rest(reader) == [(0, b'{"a":1}'), (8, b'{"a":2}')]
    position = log.end_offsets([("in", 0)], committed=True)["in", 0]
    again = opened(path, position)
    assert again.committed("g", [("in", 0)]) == {("in", 0): 16}
    reader = again.reader()
    reader.add("in", 0, position)
    assert rest(reader) == [(16, b'{"a":3}')]


@pytest.mark.parametrize(
    "now",
    [b"", b'{"a":1}\n', b'{"a":1}\n{"b":22}\n', b'{"a":1}\n{"a":2}, it went on\n', b'{"a":1}\n{"a":2}x\n'],
)
def test_a_file_that_is_not_the_one_read_before_is_refused(tmp_path: Path, now: bytes) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(now)
    with pytest.raises(ConfigError, match=r"a\.jsonl` is not the file that was read before, up to byte 16"):
        opened(path, 16).committed("g", [("in", 0)])


def test_a_file_that_is_cut_while_it_is_read_is_an_error_and_no_crash(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"a":1}\n' * 500_000)
    log = opened(path)
    reader = log.reader()
    reader.add("in", 0, 0)
    assert reader.read("in", 0, 10) is not None
    os.truncate(path, 1_000_000)
    with pytest.raises(FatalError, match=r"cannot be read on: it was cut or written anew .* byte 1000000"):
        rest(reader)
    with pytest.raises(FatalError, match="replaced or cut"):
        reader.add("in", 0, 80)


def test_a_file_that_is_replaced_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"{}\n{}\n")
    reader = opened(path).reader()
    (tmp_path / "b").write_bytes(b"{}\n{}\n{}\n")
    os.replace(tmp_path / "b", path)
    with pytest.raises(FatalError, match="replaced or cut"):
        reader.add("in", 0, 3)
    path.unlink()
    with pytest.raises(FatalError, match="cannot be read on: No such file"):
        reader.add("in", 0, 3)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"\x1f\x8b\x08\x00", r"is compressed \(gzip\)"), (b"\x28\xb5\x2f\xfdxx", r"is compressed \(zstd\)")],
)
def test_compressed_files_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        opened(tmp_path / "a")


def test_what_is_no_file_of_lines_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(ConfigError, match="is not a regular file"):
            opened(path)


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
    assert writer.commit([("out", 0, read)], {("in", 0): 4}, "g", None) is Outcome.COMMITTED
    assert reader.read("out", 0, 10) is not None
    assert log.committed("g", [("in", 0), ("in", 1)]) == {("in", 0): 4, ("in", 1): None}
    assert log.covers(["in"])
    assert not log.covers(["in", "out"])
    assert log.start_offsets([("in", 1), ("out", 0)]) == {("in", 1): 0, ("out", 0): 0}
    reader.close()


def test_no_file_is_an_error_that_names_the_pattern(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no file `.*none\.jsonl` for topic `in`"):
        FilesLog(EmbeddedLog(), {"in": [tmp_path / "none.jsonl"]})
