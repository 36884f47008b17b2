"""One file per scenario: `measure(bench)` takes what it needs from `harness.Bench` and notes its figures there."""
