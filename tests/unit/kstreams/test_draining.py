"""Whatever keeps records for a time lets go of them: what is alive stays the same in number, and in the end nothing is.

`benches/scenarios/flat.py` does the same with ten million records and looks at the memory of the process.
"""

import pytest

from benches.scenarios.flat import KINDS, LEFT, run


@pytest.mark.parametrize("kind", KINDS)
def test_stores_drain(kind: str) -> None:
    """Each of 12,000 keys lives for six seconds of 72, and is kept for fifteen at most."""
    found = run(kind, 120_000, commit_rows=5_000)
    assert 500 < found["most"] < 12_000, found
    assert found["left"] <= LEFT, found
