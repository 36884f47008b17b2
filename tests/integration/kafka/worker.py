"""A worker for tests that kill it: takes leases, commits one number per turn for its tasks, and says what it
does.

    python -m tests.integration.kafka.worker BOOTSTRAP GROUP TOPIC SINK SLOT [hang]

With `hang` it stops inside its second commit, transaction open.
"""

from __future__ import annotations

import sys
import time

from adstream.logs.kafka import KafkaLog
from tests.integration.kafka.conftest import SESSION_MS
from tests.logs.conformance import Member, output


def main() -> None:
    bootstrap, group, topic, sink, slot, *rest = sys.argv[1:]
    log = KafkaLog(bootstrap, session_ms=SESSION_MS)
    writer = log.writer(slot)
    member = Member(log.leases(group, topic))
    number = 0

    def step(name: str) -> None:
        if rest and number == 1 and name == "commit":
            time.sleep(0.2)  # lets the offsets and outputs reach the broker
            print("hanging", flush=True)
            time.sleep(600)

    while True:
        member.turn()
        if not member.tasks:
            time.sleep(0.01)
            continue
        offsets = {(sink, task): number + 1 for task in member.tasks}
        outputs = [output(sink, [number], task) for task in sorted(member.tasks)]
        outcome = writer.commit(outputs, offsets, group, member.leases.fence(), step)
        print(outcome.name, flush=True)
        number += 1
        time.sleep(0.05)


if __name__ == "__main__":
    main()
