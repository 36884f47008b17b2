"""Patterns do what they do in Flink CEP: fresh random cases beside the real one in every run, and those that once differed."""

import os
import time

import pytest

from tests.differential.cep import adstream_side, generate
from tests.differential.cep.run import compare

COUNT = 120
FOUND = (175,)
"""Seeds that once found something."""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_it_is_what_flink_does() -> None:
    first = int(os.environ.get("SEED", time.time())) * 1000
    result = compare(range(first, first + COUNT))
    assert result.counts.total() == COUNT
    assert result.counts["with matches"] > COUNT / 5, result.counts
    assert result.through_text >= COUNT / 3
    assert result.on_rows >= COUNT / 4
    assert result.in_processing_time >= COUNT / 10
    assert not result.differences, "\n".join(result.differences)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", FOUND)
def test_what_once_differed(seed: int) -> None:
    result = compare(range(seed, seed + 1))
    assert not result.differences, "\n".join(result.differences)


@pytest.mark.parametrize("seed", range(1, 41))
def test_restarts_batches_and_the_form_of_conditions_do_not_show(seed: int) -> None:
    case = generate.case(seed)
    plain = adstream_side.play(case)
    assert adstream_side.play(case, native=False) == plain
    on_rows = adstream_side.play(case, form="rows")
    assert on_rows == plain or ("rejected" in on_rows and "rejected" in plain)
    if "rejected" not in plain:
        assert adstream_side.play(case, form="rows", commit_every=3, pipelined=True) == plain
        assert adstream_side.play(case, restart=True) == plain
        assert adstream_side.play(case, commit_every=3, pipelined=True) == plain
        assert adstream_side.play(case, commit_every=5, restart=seed % 2 == 0) == plain
