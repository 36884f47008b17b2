"""`KStream.print`: the lines of Kafka Streams' `Printed`."""

from pathlib import Path

import pytest

import adstream as ads
from adstream.errors import TopologyError
from adstream.testing import TopologyTestDriver

TEXT = ads.serdes.string


def run(build, *records: tuple[str | None, str | None]) -> list[str]:  # type: ignore[no-untyped-def]
    """What is dead afterwards."""
    with TopologyTestDriver(ads.topology(name="app")(build), partitions=1, commit_every=1) as driver:
        for key, value in records:
            driver.input("in").pipe(value, key=key, at=1)
        return [letter.reason for letter in driver.dead_letters("in")]


def test_a_line_for_each_record_and_nothing_comes_out(capsys: pytest.CaptureFixture[str]) -> None:
    def build(app: ads.App) -> None:
        words = app.stream("in", key=TEXT, value=TEXT)
        words.map_values(str.upper).named("loud").print()
        words.print(label="words")
        words.print(label="mapped", mapper=lambda key, value: f"{value}!")

    assert run(build, ("a", "one"), (None, "two")) == []
    assert capsys.readouterr().out.splitlines() == [
        "[loud]: a, ONE", "[words]: a, one", "[mapped]: one!",
        "[loud]: None, TWO", "[words]: None, two", "[mapped]: two!",
    ]  # fmt: skip


def test_a_file_is_emptied_by_the_first_record_and_not_by_who_only_describes(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    path.write_text("older\n")

    def build(app: ads.App) -> None:
        app.stream("in", key=TEXT, value=TEXT).print(label="l", file=path)

    ads.topology(name="app")(build).describe()
    assert path.read_text() == "older\n"
    run(build, ("ä", "1"), ("b", "2"))
    assert path.read_bytes() == "[l]: ä, 1\n[l]: b, 2\n".encode()


def test_what_cannot_be_written_is_said_once_and_costs_no_record(caplog: pytest.LogCaptureFixture) -> None:
    def build(app: ads.App) -> None:
        app.stream("in", key=TEXT, value=TEXT).print(label="full", file="/dev/full")

    assert run(build, ("a", "1"), ("b", "2")) == []
    said = [r.getMessage() for r in caplog.records if "[full]" in r.getMessage()]
    assert said == ["records of [full] are not printed any more: [Errno 28] No space left on device"]


def test_a_mapper_that_raises_is_its_records_failure(capsys: pytest.CaptureFixture[str]) -> None:
    def build(app: ads.App) -> None:
        app.stream("in", key=TEXT, value=TEXT).print(mapper=lambda key, value: str(1 // int(value)))

    assert run(build, ("a", "0"), ("b", "1")) == ["callable_raised"]
    assert capsys.readouterr().out == "[source-1]: 1\n"


def test_a_directory_that_is_not_there_is_told_when_built(tmp_path: Path) -> None:
    with pytest.raises(TopologyError, match="there is no directory"):
        run(lambda app: app.stream("in").print(file=tmp_path / "nowhere" / "lines"))


def test_a_mapper_is_a_function() -> None:
    with pytest.raises(TopologyError, match="`mapper` must be a function"):
        run(lambda app: app.stream("in").print(mapper="x"))
