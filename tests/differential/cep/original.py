"""The real Flink CEP: its operator in the harness of Flink's own tests, in a process of `FlinkCep.java`."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.differential.jvm import COMPILE_TIMEOUT_S, run
from tests.servers.kafka import DOWNLOAD_TIMEOUT_S, QUICK_JVM
from tests.servers.server import find_program

HERE = Path(__file__).parent
POM, SOURCE = HERE / "pom.xml", HERE / "FlinkCep.java"
VERSION = ElementTree.parse(POM).findtext(".//{*}flink.version")
JARS = HERE.parents[2] / ".cache" / f"flink-{VERSION}" / "lib"
TIMEOUT_S = 600.0


def install() -> Path:
    """The jars, from Maven Central unless they are there."""
    if not JARS.exists():
        JARS.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=JARS.parent) as scratch:
            shutil.copy(POM, Path(scratch, "pom.xml"))
            options = [f"-DoutputDirectory={scratch}/lib", "-DincludeScope=runtime"]
            goal = "dependency:copy-dependencies"
            run([find_program("mvn"), "-q", "-B", "-f", f"{scratch}/pom.xml", goal, *options], DOWNLOAD_TIMEOUT_S)
            if not JARS.exists():  # another process may have been quicker
                Path(scratch, "lib").rename(JARS)
    return JARS


def classes(*sources: Path) -> Path:
    """The folder of the compiled sources."""
    jars = install()
    digest = hashlib.sha256(b"\0".join(source.read_bytes() for source in sources)).hexdigest()[:16]
    compiled = jars.parent / f"classes-{digest}"
    if not compiled.exists():
        with tempfile.TemporaryDirectory(dir=jars.parent) as scratch:
            built = Path(scratch, "classes")
            command = [find_program("javac"), "-cp", f"{jars}/*", "-d", str(built), *map(str, sources)]
            run(command, COMPILE_TIMEOUT_S)
            if not compiled.exists():
                built.rename(compiled)
    return compiled


def play(cases: Sequence[Any]) -> list[dict[str, Any]]:
    """What each case does there: `rejected`, `failed`, or `found`, `gone`, `late` and `left`."""
    command = [find_program("java"), *QUICK_JVM, "-cp", f"{classes(SOURCE)}{os.pathsep}{JARS}/*", "FlinkCep"]
    text = "".join(json.dumps(case) + "\n" for case in cases)
    done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=TIMEOUT_S)
    if done.returncode != 0:
        raise RuntimeError(f"FlinkCep failed\n{done.stderr[-4000:]}")
    return [json.loads(line) for line in done.stdout.splitlines()]
