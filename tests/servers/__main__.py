"""`python -m tests.servers`: put what the servers need on this machine, as far as it is missing.

Programs come by apt-get, which takes root; jars by Maven.
"""

import os
import subprocess

from . import kafka, postgres, redis, registry
from .server import ServerError, find_program


def missing_packages() -> list[str]:
    """The Debian packages whose program is not on this machine."""
    missing = []
    for program, package in (kafka.PACKAGES | postgres.PACKAGES | redis.PACKAGES).items():
        try:
            find_program(program, *postgres.program_folders())
        except ServerError:
            missing.append(package)
    return missing


def main() -> None:
    if packages := missing_packages():
        print("installing", *packages, flush=True)
        environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        # One stale source is not fatal to the update: whether it mattered, the install decides.
        for command in (["apt-get", "update", "-q"], ["apt-get", "install", "-yq", *packages]):
            status = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL).returncode
        if status != 0:
            raise SystemExit(f"apt-get could not install {' '.join(packages)}")
    if still_missing := missing_packages():
        raise SystemExit(f"apt-get installed {packages}, yet these are still missing: {still_missing}")
    print(f"Kafka {kafka.VERSION}: {kafka.install()}")
    print(f"Apicurio Registry {registry.VERSION}: {registry.install()}")


if __name__ == "__main__":
    main()
