"""Asks the real Kafka Streams what it does: `python -m tests.differential.streams.record --seed N --count M`.

What it did is written to `goldens/`, one file per family of scenarios, in place of what was there.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from tests.differential import jvm
from tests.differential.streams.scenarios import Scenario, Step, generate

SOURCE = Path(__file__).with_name("Recorder.java")
GOLDENS = Path(__file__).with_name("goldens")
RUN_TIMEOUT_S = 600.0


def record(scenarios: list[Scenario]) -> dict[str, list[Step]]:
    """What the real Kafka Streams does with each scenario, by id. Raises where there is no JVM or it fails."""
    with tempfile.TemporaryDirectory() as scratch:
        asked, told = Path(scratch, "scenarios.jsonl"), Path(scratch, "steps.jsonl")
        asked.write_text("".join(_line(s.to_json()) for s in scenarios))
        with jvm.command("Recorder", [SOURCE], str(asked), str(told)) as command:
            jvm.run(command, RUN_TIMEOUT_S)
        results = [json.loads(line) for line in told.read_text().splitlines()]
    return {result["id"]: steps(result["steps"]) for result in results}


def steps(plain: list[list[Any]]) -> list[Step]:
    """From `[[dropped, results], …]`."""
    return [Step(dropped, [tuple(r) for r in results]) for dropped, results in plain]


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
