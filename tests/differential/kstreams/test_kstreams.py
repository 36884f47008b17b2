"""adstream does what Kafka Streams does, record for record: on the recorded cases, and on fresh ones.

`open.txt` names the recorded cases that still differ, or whose operators adstream does not have yet. It may only become
shorter.
"""

import json
from collections import Counter
from pathlib import Path

import pytest

from tests.differential.kstreams.adstream_side import DISTURBANCES
from tests.differential.kstreams.original import read_goldens, written
from tests.differential.kstreams.run import difference, logged, ours, tell

OPEN = Path(__file__).with_name("open.txt")


def test_the_recorded_cases() -> None:
    goldens = read_goldens()
    still_open = set(OPEN.read_text().split())
    assert still_open <= {case["name"] for case, _ in goldens}, "a name in open.txt is that of no case"
    compared: Counter[str] = Counter()
    wrong = []
    for case, theirs in goldens:
        if case["name"] in still_open:
            continue
        mine = ours(case)
        kind = difference(case, mine, theirs)
        if kind is not None:
            wrong.append(f"{case['name']}: {kind}\n{tell(case, mine, theirs)}\n{json.dumps(case)}")
        compared[case["family"]] += written(theirs)
    assert not wrong, "\n".join(wrong)
    assert compared.total() > 0


@pytest.mark.parametrize("disturb", DISTURBANCES)
def test_what_breaks_and_starts_again_changes_nothing(disturb: str) -> None:
    """Restored state, and state undone, is what would have been: the records are the same, one by one."""
    still_open = set(OPEN.read_text().split())
    cases = [(logged(case), theirs) for case, theirs in read_goldens() if case["name"] not in still_open]
    wrong = []
    for case, theirs in cases[::2]:
        mine = ours(case, disturb)
        kind = difference(case, mine, theirs, once=False)
        if kind is not None:
            wrong.append(f"{case['name']}: {kind}\n{tell(case, mine, theirs)}\n{json.dumps(case)}")
    assert not wrong, "\n".join(wrong)
    assert len(cases) > 50
