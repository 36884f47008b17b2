"""The wheel: one for every CPython from 3.11 on, and where it is installed nobody needs Rust."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.timeout(900)  # a build of all there is, if none of it is at hand


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    maturin = Path(sys.executable).with_name("maturin")
    subprocess.run([maturin, "build", "--release", "--locked", "--quiet", "--out", out], cwd=ROOT, check=True)
    [built] = out.glob("*.whl")
    return built


def test_it_is_for_the_stable_abi_and_says_its_types(wheel: Path) -> None:
    assert "-cp311-abi3-" in wheel.name
    names = zipfile.ZipFile(wheel).namelist()
    assert {"adstream/py.typed", "adstream/_core.pyi", "adstream/_core.abi3.so"} <= set(names)
    assert not [name for name in names if name.split("/")[0] not in ("adstream", *_info(names))]


def _info(names: list[str]) -> set[str]:
    return {name.split("/")[0] for name in names if ".dist-info/" in name}


def test_it_runs_in_a_clean_environment_without_rust(wheel: Path, tmp_path: Path) -> None:
    place = tmp_path / "venv"
    venv.create(place, with_pip=True)
    # Nothing of this checkout, of its environment, or of a toolchain.
    clean = {"PATH": f"{place}/bin:/usr/bin:/bin", "HOME": str(tmp_path), "LANG": "C.UTF-8"}
    clean |= {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "SSL_", "REQUESTS_"))}
    pip = [place / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "--only-binary", ":all:", wheel], cwd=tmp_path, env=clean, check=True)

    def run(*arguments: str) -> str:
        command = [place / "bin" / "adstream", *arguments]
        done = subprocess.run(command, cwd=tmp_path, env=clean, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "adstream" in run("version")
    assert "ad-events" in run("describe", "ads.performance")
    assert "equal" in run("demo", "--events", "2000").lower()
