"""The command line: `adstream run | replay | doctor | pause | resume | reset | upgrade | describe | topics | generate | dlq |
demo | bench | version`.

    commands    what there is: names, arguments and texts of every command
    quick       `describe` without typer
    failing     which error is which exit code
    options     the options that commands share; flags, environment and TOML become one `Chosen`
    jobs        `ads.performance` or `module:attr` -> a topology
    logs        a URL -> a log
    everything else: one command each, imported when it is called

Exit codes: 0 done (also after SIGTERM and Ctrl-C), 1 the run cannot go on, 2 something was asked or set wrongly, 3 and 4
it stopped itself, 5 its drain timed out (`failing.py`).
"""

from __future__ import annotations

import os
import sys


def main() -> None:
    """The entry point. `version` and a plain `describe` are answered without loading typer (a third of the time)."""
    if sys.argv[1:] in (["version"], ["--version"]):
        from adstream.cli.version import versions

        print(versions())
        return
    if sys.argv[1:2] == ["describe"]:
        from adstream.cli.quick import describe

        try:
            code = describe(sys.argv[2:])
            sys.stdout.flush()
        except BrokenPipeError:  # `| head` has enough; Python would say so once more when it ends
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            code = 1
        if code is not None:
            sys.exit(code)
    try:
        from adstream.cli.commands import app

        app(prog_name="adstream")
    except KeyboardInterrupt:  # before typer is there to heed it
        sys.exit(130)
