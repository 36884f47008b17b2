"""The original: cases run on the real Kafka Streams, in one JVM.

with Original() as kafka:
    result = kafka.run(case)

python -m tests.differential.kstreams.original --seed 1 --count 408      record the goldens anew
"""

import argparse
import gzip
import json
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

from tests.differential import jvm
from tests.differential.kstreams.families import FAMILIES
from tests.differential.kstreams.generate import Case, generate

Result = dict[str, Any]

SOURCES = sorted(Path(__file__).with_name("java").glob("*.java"))
GOLDENS = Path(__file__).with_name("goldens")
# Cases that are sent before the first answer is read. They fit into the pipes' buffers together with their answers.
AHEAD = 4


class Original:
    """A JVM that runs cases until the context ends. With `functions=True` it evaluates user functions instead; `live`: it
    runs them as applications on the broker there (`live.py`)."""

    def __init__(self, *, functions: bool = False, live: str | None = None) -> None:
        self._main = "Recorder" if live is None else "Live"
        self._arguments = [live] if live is not None else ["functions"] if functions else []

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            command = stack.enter_context(jvm.command(self._main, SOURCES, *self._arguments, log="OFF"))
            self._complaints = stack.enter_context(tempfile.TemporaryFile("w+"))
            self._process = stack.enter_context(
                subprocess.Popen(
                    command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._complaints, encoding="utf-8"
                )
            )
            stack.callback(self._process.kill)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def run(self, asked: Any) -> Any:
        [told] = self.run_all([asked])
        return told

    def run_all(self, asked: Iterable[Any]) -> Iterator[Any]:
        """The answers, in order."""
        waiting = 0
        for one in asked:
            self._send(one)
            waiting += 1
            if waiting == AHEAD:
                yield self._receive()
                waiting -= 1
        for _ in range(waiting):
            yield self._receive()

    def _send(self, one: Any) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(one, ensure_ascii=False) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._died() from None

    def _receive(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise self._died()
        return json.loads(line)

    def _died(self) -> RuntimeError:
        self._complaints.seek(0)
        return RuntimeError(f"the recorder died\n{self._complaints.read()[-4000:]}")


def record(cases: list[Case]) -> list[Result]:
    """What the original does with each case."""
    with Original() as original:
        return list(original.run_all(cases))


def write_goldens(recorded: Iterable[tuple[Case, Result]]) -> None:
    texts = dict.fromkeys(FAMILIES, "")
    for case, result in recorded:
        line = {"case": case, "result": result}
        texts[case["family"]] += json.dumps(line, ensure_ascii=False, separators=(",", ":")) + "\n"
    GOLDENS.mkdir(exist_ok=True)
    for old in GOLDENS.glob("*.gz"):
        old.unlink()
    for family, text in texts.items():
        # No time within: the same goldens are the same bytes.
        (GOLDENS / f"{family}.jsonl.gz").write_bytes(gzip.compress(text.encode(), mtime=0))


def read_goldens() -> list[tuple[Case, Result]]:
    goldens = []
    for path in sorted(GOLDENS.glob("*.jsonl.gz")):
        for line in gzip.decompress(path.read_bytes()).decode().splitlines():
            golden = json.loads(line)
            goldens.append((golden["case"], golden["result"]))
    return goldens


def written(result: Result) -> int:
    """How many records came out."""
    return sum(len(records) for step in result.get("steps", ()) for records in step.get("out", {}).values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--count", type=int, required=True)
    arguments = parser.parse_args()
    cases = generate(arguments.seed, arguments.count)
    recorded = list(zip(cases, record(cases), strict=True))
    write_goldens(recorded)
    came: Counter[str] = Counter()
    for case, result in recorded:
        came[case["family"]] += written(result)
    print(f"{len(recorded)} cases; records that came out, by family: {dict(came)}")


if __name__ == "__main__":
    main()
