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


def _classes() -> Path:
    jars = install()
    classes = jars.parent / f"classes-{hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:16]}"
    if not classes.exists():
        with tempfile.TemporaryDirectory(dir=jars.parent) as scratch:
            built = Path(scratch, "classes")
            run([find_program("javac"), "-cp", f"{jars}/*", "-d", str(built), str(SOURCE)], COMPILE_TIMEOUT_S)
            if not classes.exists():
                built.rename(classes)
    return classes


def play(cases: Sequence[Any]) -> list[dict[str, Any]]:
    """What each case does there: `rejected`, `failed`, or `found`, `gone`, `late` and `left`."""
    command = [find_program("java"), *QUICK_JVM, "-cp", f"{_classes()}{os.pathsep}{JARS}/*", "FlinkCep"]
    text = "".join(json.dumps(case) + "\n" for case in cases)
    done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=TIMEOUT_S)
    if done.returncode != 0:
        raise RuntimeError(f"FlinkCep failed\n{done.stderr[-4000:]}")
    return [json.loads(line) for line in done.stdout.splitlines()]
