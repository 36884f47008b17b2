"""Asks the real Kafka Streams what it does: `python -m tests.differential.streams.record --seed N --count M`.

What it did is written to `goldens/`, one file per family of scenarios, in place of what was there.
"""

import argparse
import hashlib
import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from tests.differential.streams.scenarios import Scenario, Step, generate
from tests.servers.kafka import JARS, QUICK_JVM, install
from tests.servers.server import find_program

SOURCE = Path(__file__).with_name("Recorder.java")
GOLDENS = Path(__file__).with_name("goldens")
COMPILE_TIMEOUT_S = 120.0
RUN_TIMEOUT_S = 600.0


def record(scenarios: list[Scenario]) -> dict[str, list[Step]]:
    """What the real Kafka Streams does with each scenario, by id. Raises where there is no JVM or it fails."""
    classes = _compile()
    with tempfile.TemporaryDirectory() as scratch:
        asked, told = Path(scratch, "scenarios.jsonl"), Path(scratch, "steps.jsonl")
        asked.write_text("".join(_line(s.to_json()) for s in scenarios))
        _run(
            [
                find_program("java"),
                *QUICK_JVM,
                "-Dorg.apache.logging.log4j.level=ERROR",
                f"-Djava.io.tmpdir={scratch}",
                "-cp",
                f"{classes}{os.pathsep}{JARS}/*",
                "Recorder",
                str(asked),
                str(told),
            ],
            RUN_TIMEOUT_S,
        )
        results = [json.loads(line) for line in told.read_text().splitlines()]
    return {result["id"]: steps(result["steps"]) for result in results}


def steps(plain: list[list[Any]]) -> list[Step]:
    """From `[[dropped, results], …]`."""
    return [Step(dropped, [tuple(r) for r in results]) for dropped, results in plain]


def _compile() -> Path:
    """The folder of the compiled recorder: one per text of the source and version of Kafka."""
    jars = install()
    digest = hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:16]
    classes = jars.parent / f"recorder-{digest}"
    if not classes.exists():
        with tempfile.TemporaryDirectory(dir=jars.parent) as scratch:
            built = Path(scratch, "classes")
            _run([find_program("javac"), "-cp", f"{jars}/*", "-d", str(built), str(SOURCE)], COMPILE_TIMEOUT_S)
            if not classes.exists():  # another process may have been quicker
                built.rename(classes)
    return classes


def _run(command: list[str], timeout_s: float) -> None:
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout_s)
    if done.returncode != 0:
        raise RuntimeError(f"{command[0]} failed\n{(done.stdout + done.stderr)[-4000:]}")


def _line(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")) + "\n"


def write_goldens(scenarios: list[Scenario], recorded: dict[str, list[Step]]) -> None:
    texts: dict[str, str] = {}
    for scenario in scenarios:
        plain = [[step.dropped, step.results] for step in recorded[scenario.id]]
        texts[scenario.family] = texts.get(scenario.family, "") + _line(scenario.to_json() | {"steps": plain})
    GOLDENS.mkdir(exist_ok=True)
    for old in GOLDENS.glob("*.jsonl"):
        old.unlink()
    for family, text in texts.items():
        (GOLDENS / f"{family}.jsonl").write_text(text)


def read_goldens() -> list[tuple[Scenario, list[Step]]]:
    goldens = []
    for path in sorted(GOLDENS.glob("*.jsonl")):
        for line in path.read_text().splitlines():
            golden = json.loads(line)
            told = steps(golden.pop("steps"))
            golden["records"] = [tuple(r) for r in golden["records"]]
            goldens.append((Scenario(**golden), told))
    return goldens


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--count", type=int, required=True)
    arguments = parser.parse_args()
    scenarios = generate(arguments.seed, arguments.count)
    write_goldens(scenarios, record(scenarios))


if __name__ == "__main__":
    main()
