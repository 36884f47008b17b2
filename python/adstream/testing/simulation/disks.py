"""The state directories of a cluster's machines, and what happens to them while a process is down: real files, which are
lost, damaged, or replaced by a copy of long ago.

Has a chance of its own, so that a seed's other troubles do not depend on it. Half of the seeds have such directories;
in some of these all workers are on one machine.
"""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory


class Disks:
    def __init__(self, seed: int) -> None:
        self._rng = Random(f"{seed} disks")
        self.used = self._rng.random() < 0.5
        self.every_ms = self._rng.choice((1, 50, 500))
        self._shared = self._rng.random() < 0.3
        self.stores = self.used and Random(f"{seed} stores").random() < 0.6
        """Whether stores of keys and values are there, too."""
        self._folder = TemporaryDirectory(prefix="adstream-sim-")
        self._copies = 0

    def state_dir(self, slot: int) -> str:
        """Where the workers of this slot keep their snapshots and stores; empty: nowhere."""
        return str(self._machine(slot)) if self.used else ""

    def restart(self, slot: int, counts: Counter[str]) -> None:
        """A process of this slot is about to start: what has become of its directory meanwhile?"""
        machine, rng = self._machine(slot), self._rng
        if not (self.used and machine.exists()):
            return
        copies = sorted(Path(self._folder.name).glob(f"{machine.name}-copy-*"))
        files = sorted(path for path in machine.rglob("*") if path.is_file() and path.stat().st_size)
        match rng.randrange(8):
            case 0:
                counts["disks lost"] += 1
                shutil.rmtree(machine)
            case 1 if copies:
                counts["disks old"] += 1
                shutil.rmtree(machine)
                shutil.copytree(rng.choice(copies), machine)
            case 2 | 3 if files:
                counts["disks damaged"] += 1
                path = rng.choice(files)
                data = bytearray(path.read_bytes())
                match rng.randrange(4):
                    case 0:
                        path.unlink()
                    case 1:
                        path.write_bytes(data[: rng.randrange(len(data) + 1)])
                    case 2:
                        at = rng.randrange(len(data))
                        path.write_bytes(bytes(data[:at]) + bytes(min(4096, len(data) - at)) + bytes(data[at + 4096 :]))
                    case _:
                        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
                        path.write_bytes(bytes(data))
            case 4 | 5:
                self._copies += 1
                shutil.copytree(machine, machine.with_name(f"{machine.name}-copy-{self._copies}"))

    def close(self) -> None:
        self._folder.cleanup()

    def _machine(self, slot: int) -> Path:
        return Path(self._folder.name) / f"machine-{0 if self._shared else slot}"
