"""All versions of a key, asked of a table with a history: what `MultiVersionedKeyQuery` says on the real Kafka Streams."""

import json
import random
import subprocess
from pathlib import Path
from typing import Any

import pytest

import adstream as ads
from adstream.testing import TopologyTestDriver
from tests.differential.jvm import command

SOURCES = [Path(__file__).with_name("java") / "Versions.java"]
CASES = 150


def case(chance: random.Random) -> Any:
    """Within its history: of what lies behind it, segments of the original's may still have some."""
    top = chance.choice([5, 20, 60])
    puts = [
        [chance.choice("ab"), chance.choice([None, 1, 2, 3]), chance.randint(0, top)]
        for _ in range(chance.randint(0, 12))
    ]
    asks = []
    for _ in range(6):
        first, last = sorted(chance.randint(0, top + 5) for _ in range(2))
        bounds = [chance.choice([first, None]), chance.choice([last, None])]
        asks.append([chance.choice("ab"), *bounds, chance.random() < 0.5])
    return {"history": 1_000, "puts": puts, "asks": asks}


def ours(asked: Any) -> Any:
    @ads.topology(name="app")
    def topology(app: ads.App) -> None:
        kept = ads.Materialized("kept", history=f"{asked['history']}ms")
        app.table("in", kept, key=ads.serdes.string, value=ads.serdes.int64)

    with TopologyTestDriver(topology, partitions=2) as driver:
        for key, value, at in asked["puts"]:
            driver.input("in").pipe(value, key=key, at=at)
        kept = driver.store("kept")
        return [
            [list(version) for version in kept.versions(key, first, last, reverse=reverse)]
            for key, first, last, reverse in asked["asks"]
        ]


@pytest.mark.servers
@pytest.mark.timeout(300)
def test_versions_are_those_of_the_original() -> None:
    seed = random.SystemRandom().randrange(2**32)
    cases = [case(random.Random(f"{seed}/{number}")) for number in range(CASES)]
    with command("Versions", SOURCES, log="OFF") as start:
        told = subprocess.run(
            start, input="".join(f"{json.dumps(one)}\n" for one in cases), capture_output=True, text=True, check=True
        ).stdout.splitlines()
    assert len(told) == CASES
    found = 0
    for one, answer in zip(cases, told, strict=True):
        theirs = json.loads(answer)
        assert ours(one) == theirs, f"seed {seed}: {json.dumps(one)}"
        found += sum(map(len, theirs))
    assert found > CASES
