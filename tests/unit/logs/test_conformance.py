"""The embedded log does what any log must do, by the very checks that the real broker passes: in memory and in files."""

from collections.abc import Callable
from pathlib import Path

import pytest

from adstream.interfaces import Administered, Log
from adstream.logs.embedded import EmbeddedLog
from tests.logs import administration
from tests.logs.conformance import CHECKS


@pytest.mark.parametrize("kind", ["memory", "directory"])
@pytest.mark.parametrize("check", CHECKS.values(), ids=[name.removeprefix("check_") for name in CHECKS])
def test_embedded(check: Callable[[Log], None], kind: str, tmp_path: Path) -> None:
    log = EmbeddedLog(tmp_path if kind == "directory" else None, segment_bytes=4_096)
    check(log)
    log.close()


@pytest.mark.parametrize("kind", ["memory", "directory"])
@pytest.mark.parametrize("check", administration.CHECKS.values(), ids=administration.CHECKS)
def test_embedded_administration(check: Callable[[Administered], None], kind: str, tmp_path: Path) -> None:
    log = EmbeddedLog(tmp_path if kind == "directory" else None, segment_bytes=4_096)
    check(log)
    log.close()
