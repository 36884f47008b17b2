"""adstream next to the real Kafka Streams: `python -m tests.differential.streams.compare --seed N --count M`.

Prints the steps of each scenario up to the first that differs, beyond what `comparable` allows for.
"""

import argparse

from tests.differential.streams import adstream_side
from tests.differential.streams.record import record
from tests.differential.streams.scenarios import Result, Scenario, Step, generate


def comparable(scenario: Scenario, steps: list[Step], *, times: bool = False) -> list[tuple[int, list[tuple]]]:
    """Without what may differ; why it may is said in test_streams.py. `times`: those of regrouped tables, too."""
    return [(step.dropped, _comparable(scenario, step.results, times)) for step in steps]


def _comparable(scenario: Scenario, results: list[Result], times: bool) -> list[tuple]:
    if scenario.then is not None:
        newest: dict[tuple[str, int | None], Result] = {}
        for result in results:
            newest.pop(result[:2], None)
            newest[result[:2]] = result
        return list(newest.values())
    if scenario.by == "kg":
        return sorted(results, key=lambda result: (result[1] or 0, result[0]))
    if scenario.regroup is not None and not times:
        return [result[:3] for result in results]
    return list(results)


def difference(scenario: Scenario, ours: list[Step], theirs: list[Step], *, times: bool = False) -> str | None:
    """The first step that differs and what led to it, as text; None if there is none."""
    if comparable(scenario, ours, times=times) == comparable(scenario, theirs, times=times):
        return None
    lines = [str({name: value for name, value in scenario.to_json().items() if name != "records"})]
    for event, our, their in zip(scenario.records, ours, theirs, strict=True):
        lines.append(f"    {event} -> {our}")
        if comparable(scenario, [our], times=times) != comparable(scenario, [their], times=times):
            lines.append(f"    Kafka Streams: {their}")
            break
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--count", type=int, required=True)
    arguments = parser.parse_args()
    scenarios = generate(arguments.seed, arguments.count)
    recorded = record(scenarios)
    found = [difference(s, adstream_side.run(s), recorded[s.id]) for s in scenarios]
    differences = [text for text in found if text is not None]
    print(*differences, f"{len(differences)} of {len(scenarios)} scenarios differ", sep="\n")
    raise SystemExit(bool(differences))


if __name__ == "__main__":
    main()
