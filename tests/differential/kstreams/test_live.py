"""What a real Kafka Streams application and adstream write on one broker is the same, byte for byte, by partition."""

import os
import random

import pytest

from tests.differential.kstreams.live import PARTITIONS, Live, chained, live_cases
from tests.differential.kstreams.original import Original
from tests.servers import Kafka

pytestmark = [pytest.mark.servers, pytest.mark.slow]


@pytest.mark.timeout(900)
def test_applications_on_a_broker(kafka: Kafka) -> None:
    """`ADSTREAM_TEST_LIVE` says how many; each takes some seconds."""
    count = int(os.environ.get("ADSTREAM_TEST_LIVE", 12))
    seed = random.SystemRandom().randrange(2**32)
    with Original(live=kafka.bootstrap) as original:
        live = Live(kafka, original)
        wrong = [told for case in live_cases(seed, count) if (told := live.difference(case)) is not None]
        live.close()
    assert not wrong, "\n".join([f"python -m tests.differential.kstreams.live --seed {seed} --count {count}", *wrong])
    assert live.runs == count + live.unsteady
    assert live.unsteady <= 1
    assert live.failed.total() <= count / 4, live.failed
    assert live.partitions[PARTITIONS] > 0
    assert live.records > 3 * count


@pytest.mark.timeout(900)
def test_applications_in_a_row(kafka: Kafka) -> None:
    """Either may be the original's or ours: each reads what the other writes. `ADSTREAM_TEST_CHAINS` says how many."""
    count = int(os.environ.get("ADSTREAM_TEST_CHAINS", 5))
    seed = random.SystemRandom().randrange(2**32)
    with Original(live=kafka.bootstrap) as original:
        live = Live(kafka, original)
        wrong = [told for pair in chained(seed, count) if (told := live.chain(*pair)) is not None]
        live.close()
    assert not wrong, "\n".join(
        [f"python -m tests.differential.kstreams.live --chains --seed {seed} --count {count}", *wrong]
    )
    assert live.runs >= count
    assert live.unsteady <= 1
    assert live.failed.total() <= count / 2, live.failed
    assert live.records > count
