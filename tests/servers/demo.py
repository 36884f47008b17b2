"""`make demo-ads`: the demo of the ads platform, with a Postgres and a Redis that are there as long as it runs."""

import subprocess
import sys

from . import Postgres, Redis


def main() -> int:
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
