"""`adstream describe` without typer: its import, which brings pydantic, takes longer than all the rest of the command.

Only what is written plainly is answered here; help, abbreviations and mistakes are typer's.
"""

from __future__ import annotations

from collections.abc import Sequence

from adstream.cli import describing
from adstream.cli.failing import exit_code, tell
from adstream.cli.options import JobOptions, parse


def describe(arguments: Sequence[str]) -> int | None:
    """The exit code; None: typer is to answer."""
    parsed = parse(JobOptions, [a for a in arguments if a != "--json"])
    if parsed is None or len(parsed[0]) != 1:
        return None
    try:
        describing.describe(parsed[0][0], parsed[1], as_json="--json" in arguments)
    except Exception as error:
        code = exit_code(error)
        if code is None:
            raise
        tell(error)
        return code
    return 0
