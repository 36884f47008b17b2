"""`make demo-ads`: the demo of the ads platform, with a Postgres and a Redis that are there as long as it runs.

`make demo` ends with it, too, where their programs are on the machine: it installs nothing.
"""

import subprocess
import sys

from . import Postgres, Redis
from .__main__ import missing_packages

WHERE_INSTALLED = "--where-installed"


def main() -> int:
    if WHERE_INSTALLED in sys.argv:
        sys.argv.remove(WHERE_INSTALLED)
        if missing := {"postgresql", "redis-server"}.intersection(missing_packages()):
            print(
                f"The whole ads platform needs {' and '.join(sorted(missing))}, too: `make demo-ads` installs and shows it."
            )
            return 0
    with Postgres() as postgres, Redis() as redis:
        given = ["--sql", postgres.create_database("demo"), "--redis", redis.url(), *sys.argv[1:]]
        process = subprocess.Popen([sys.executable, "-m", "adstream.cli", "demo", "ads", *given])
        while True:
            try:
                return process.wait()
            except KeyboardInterrupt:  # the terminal's reaches the demo, too, which ends by itself
                continue


if __name__ == "__main__":
    sys.exit(main())
