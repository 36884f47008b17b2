"""How long a command takes to answer: wall milliseconds, the median of ten, beside a bare `python -c pass`."""

from __future__ import annotations

import sys
from pathlib import Path

from benches.harness import Bench, median_ms, spare


def measure(bench: Bench) -> None:
    spare()
    times = 3 if bench.quick else 10
    python = sys.executable
    bench.note("python -c pass", median_ms([python, "-c", "pass"], times), "ms")
    bench.note("import adstream", median_ms([python, "-c", "import adstream"], times), "ms")
    command = Path(python).with_name("adstream")
    if not command.exists():
        bench.say("there is no command `adstream` beside this Python: not measured")
        return
    version, describe = [str(command), "version"], [str(command), "describe", "ads.performance"]
    bench.note("adstream version", median_ms(version, times), "ms", target=150, better="less")
    bench.note("adstream describe ads.performance", median_ms(describe, times), "ms", target=500, better="less")
