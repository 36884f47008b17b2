"""Sabotages of the source, each of which must turn the suite red: `make mutants`.

A test that cannot fail proves nothing. A *mutant* changes one place in a copy of the checkout, in a way that would lose,
double or misplace somebody's data; then the tests named with it must fail. One that survives is a hole in the tests,
to be closed there. First the same tests run on the copy as it is: they must pass, else their failing says nothing.

    copy the checkout ─▶ build ─▶ tests green? ─▶ for each mutant: replace ─▶ build, if Rust ─▶ tests red? ─▶ put back

What a mutant replaces must occur exactly once, so that it is noticed when the code moves on; a cheap test
(`tests/unit/test_mutants.py`) looks at that with every run of the suite.

Not to be confused with `tests/simulation/sabotage.py`: those bend a running worker from outside, source untouched, and
ask whether the *auditor of the simulator* is blind. Here the product's source is wrong, and the suite is asked.

    tools/mutants.py                       all
    tools/mutants.py NAME …                some
    tools/mutants.py --list                what there is
    tools/mutants.py --without-servers     those that need no Kafka
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[1]
PLACE = ROOT / "target" / "mutants"
"""The copy and its build; kept, so that the next run compiles no dependencies."""
PATIENCE_S = 600
"""Tests that do not end have failed, too."""
PLUGIN = "tools.mutants"
"""This file, in pytest: see `pytest_configure`."""

SIMULATED = {"SIM_SEED": "1", "SIM_COUNT": "75"}
FRESH = "tests/simulation/test_simulation.py::test_fresh_schedules"
ORACLE = "tests/property/test_batching.py::test_it_is_what_one_record_at_a_time_gives"


@dataclass(frozen=True)
class Mutant:
    """`new` in place of `old` in `file`; one of `tests` (arguments of pytest) must fail then."""

    name: str
    why: str
    """What it would do to users."""
    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    environment: dict[str, str] = field(default_factory=dict)
    servers: bool = False
    """Whether only tests against real servers notice."""

    @property
    def rust(self) -> bool:
        return self.file.endswith(".rs")

    def applied(self, text: str) -> str:
        """Raises ValueError when the place is not there, or is there twice."""
        found = text.count(self.old)
        if found != 1:
            raise ValueError(f"{self.name}: its text occurs {found} times in {self.file}, and must once")
        return text.replace(self.old, self.new)


MUTANTS = (
    Mutant(
        "grace_one_ms_longer",
        "a window takes a row that came one millisecond too late",
        "rust/core/src/window.rs",
        "self.end(start).saturating_add(self.grace_ms)",
        "self.end(start).saturating_add(self.grace_ms + 1)",
        ("tests/unit/test_acceptance_c2.py", "tests/truth"),
    ),
    Mutant(
        "grace_one_ms_shorter",
        "a row of the last millisecond is refused as late",
        "rust/core/src/window.rs",
        "self.end(start).saturating_add(self.grace_ms)",
        "self.end(start).saturating_add(self.grace_ms - 1)",
        ("tests/unit/test_acceptance_c2.py", "tests/truth"),
    ),
    Mutant(
        "window_one_ms_off",
        "an event of a window's first millisecond counts in the window before",
        "rust/core/src/window.rs",
        "let last = ts.div_euclid(*advance_ms) * advance_ms;",
        "let last = (ts - 1).div_euclid(*advance_ms) * advance_ms;",
        ("tests/unit/test_acceptance_c2.py",),
    ),
    Mutant(
        "group_lives_one_ms_longer",
        "a row that comes exactly a ttl after the last one of its group goes on where that one ended",
        "rust/core/src/state/lives.rs",
        "if to.saturating_add(ttl) > first {",
        "if to.saturating_add(ttl) >= first {",
        ("tests/unit/dsl/test_ttl.py", "tests/property/test_ttl.py"),
    ),
    Mutant(
        "closing_begins_anew",
        "after a crash between two commits of one closing, final rows are told twice",
        "rust/core/src/op/aggregate.rs",
        "let told = self.told.take().filter(|told| told.0 == start);",
        "let told = self.told.take().filter(|told| told.0 > start);",
        ("tests/property/test_closing.py",),
    ),
    Mutant(
        "lanes_share_a_clock",
        "the fastest partition makes the others late: what Kafka Streams does, and adstream promises not to",
        "rust/core/src/op/aggregate.rs",
        "Clocks { lane: self.clocks[lane as usize], slowest",
        "Clocks { lane: self.fastest(), slowest",
        (ORACLE,),
    ),
    Mutant(
        "windows_close_with_the_fastest_lane",
        "a final result is told while a slower partition still has rows for it",
        "rust/core/src/op/aggregate.rs",
        ".map(|(&clock, _)| clock).min();",
        ".map(|(&clock, _)| clock).max();",
        (ORACLE,),
    ),
    Mutant(
        "no_undo",
        "after an aborted commit the groups keep what it had added, and the retry adds it again",
        "rust/core/src/op/aggregate.rs",
        "        self.store.rollback();",
        "        self.store.committed();",
        ("tests/unit/testing/test_driver.py::test_crashes_change_nothing",),
    ),
    Mutant(
        "aborted_outputs_are_kept",
        "what an aborted generation wrote goes out with the next one, too",
        "rust/core/src/task.rs",
        "        self.outgoing.clear();\n        self.outputs.clear();",
        "        self.outgoing.clear();",
        ("tests/unit/testing/test_driver.py::test_crashes_change_nothing",),
    ),
    Mutant(
        "deduplicate_forgets_at_each_commit",
        "a copy that arrives after the next commit counts again after a restart",
        "rust/core/src/op/deduplicate.rs",
        "changelog.delta(Kind::Seen, count, &w.bytes);\n        }\n        self.seen",
        "let _ = changelog;\n        }\n        self.seen",
        ("tests/property/test_batching.py::test_restarts_do_not_show",),
    ),
    Mutant(
        "partials_carry_the_new_clock",
        "partials that take several frames: the first closes windows of which the others tell",
        "rust/core/src/op/edge.rs",
        "        let settled = self.out.settled;\n",
        "        let settled = clock;\n",
        ("tests/unit/test_clocks_of_frames.py",),
    ),
    Mutant(
        "late_rows_carry_the_new_clock",
        "where only late rows were sent to, nobody is told that the windows there have closed",
        "rust/core/src/op/edge.rs",
        "let clock = if kind == Kind::Late { self.settled } else { NO_TIME };",
        "let clock = if kind == Kind::Late { self.clock } else { NO_TIME };",
        ("tests/unit/test_clocks_of_frames.py",),
    ),
    Mutant(
        "tables_take_back_the_wrong_value",
        "what a key held between two commits is taken from totals that never had it",
        "rust/core/src/flow/table.rs",
        "let old = std::mem::take(&mut change.record.old);",
        "let old = std::mem::take(&mut change.record.value);",
        ("tests/unit/kstreams/test_tables.py",),
    ),
    Mutant(
        "records_are_undone_oldest_first",
        "after an abort a store keeps what the first of two lost commits had made of it",
        "rust/core/src/flow/store.rs",
        "in undone.into_iter().flat_map(|u| u.touched)",
        "in undone.into_iter().rev().flat_map(|u| u.touched)",
        ("tests/unit/kstreams/test_processors.py::test_a_crash_changes_nothing",),
    ),
    Mutant(
        "joins_reach_one_ms_less_far_back",
        "a click just within a view's span is not joined",
        "rust/core/src/flow/stream_join.rs",
        "record.ts.saturating_sub(back).max(0)",
        "record.ts.saturating_sub(back - 1).max(0)",
        ("tests/unit/dsl/test_row_joins.py::test_both_ends_of_a_span_belong_to_it",),
    ),
    Mutant(
        "scans_go_back_in_time",
        "a late row makes a group look older than it is, and it is forgotten too early",
        "rust/core/src/flow/scan.rs",
        "let time = before.map_or(ts, |before| before.max(ts));",
        "let time = ts;",
        ("tests/property/test_scans.py",),
    ),
    Mutant(
        "rolling_one_ms_longer",
        "a row counts in a window that it has just left",
        "rust/core/src/flow/rolling.rs",
        "let from = ts.saturating_sub(within).saturating_add(1);",
        "let from = ts.saturating_sub(within);",
        ("tests/property/test_rolling.py",),
    ),
    Mutant(
        "rows_leave_while_their_equals_may_come",
        "of rows of one time, those that come last leave last whatever they are ordered by",
        "rust/core/src/flow/in_order.rs",
        "let end = time_bytes(self.open_from());",
        "let end = time_bytes(self.open_from() + 1);",
        ("tests/property/test_in_order.py",),
    ),
    Mutant(
        "stores_keep_the_first_header_only",
        "headers beside a value are cut off",
        "python/adstream/dsl/store.py",
        "    return value, tuple(made)\n",
        "    return value, tuple(made[:1])\n",
        ("tests/unit/kstreams/test_stores.py",),
    ),
    Mutant(
        "patterns_wait_one_ms_longer",
        "an event exactly `within` after the first completes a match that is over",
        "rust/core/src/cep/matcher.rs",
        "now.saturating_sub(since) >= window",
        "now.saturating_sub(since) > window",
        ("tests/property/test_pattern_enumeration.py",),
    ),
    Mutant(
        "skipping_spares_who_begins_there",
        "behind a match, its own last event begins another one",
        "rust/core/src/cep/matcher.rs",
        "(inclusive && s == limit)",
        "(!inclusive && s == limit)",
        ("tests/unit/kstreams/test_pattern_text.py",),
    ),
    Mutant(
        "positions_one_too_high",
        "the record behind every commit is never read",
        "python/adstream/runtime/worker.py",
        "offsets = {tp: position for c in closed",
        "offsets = {tp: position + 1 for c in closed",
        ("tests/unit/runtime/test_worker.py",),
    ),
    Mutant(
        "positions_before_outputs",
        "a crash between the two loses what was read and not written",
        "python/adstream/runtime/commit.py",
        "        outcome = writer.commit(commit.outputs, commit.offsets, commit.group, commit.fence, step)",
        "        writer.commit([], commit.offsets, commit.group, commit.fence, step)\n"
        "        outcome = writer.commit(commit.outputs, {}, commit.group, commit.fence, step)",
        ("tests/unit/runtime/test_worker.py",),
    ),
    Mutant(
        "restore_to_the_stable_end",
        "while somebody else's transaction is open, a task begins without its last commits",
        "python/adstream/runtime/restore.py",
        "log.end_offsets([spec.changelog], committed=False)",
        "log.end_offsets([spec.changelog], committed=True)",
        ("tests/unit/runtime/test_worker.py::test_a_restore_that_waits_says_for_what", FRESH),
        SIMULATED,
    ),
    Mutant(
        "restore_to_where_the_reader_ends",
        "the same, by trusting the reader that there is nothing more",
        "python/adstream/runtime/restore.py",
        "                if read is None:\n                    break",
        "                if read is None:\n                    self.position = self.end\n                    break",
        (FRESH,),
        SIMULATED,
    ),
    Mutant(
        "zombies_are_not_fenced",
        "a worker that lost its tasks goes on committing for them",
        "python/adstream/runtime/worker.py",
        "commit = Commit(outputs, offsets, self._group, fence)",
        "commit = Commit(outputs, offsets, self._group, None)",
        ("tests/unit/runtime/test_worker.py", FRESH),
        SIMULATED,
    ),
    Mutant(
        "fence_without_a_second_look",
        "the token of a new membership blesses generations of tasks that were somebody else's in between",
        "python/adstream/runtime/worker.py",
        "        if self._follow_leases():\n            return True  #",
        "        if False:\n            return True  #",
        ("tests/unit/runtime/test_worker.py", FRESH),
        SIMULATED,
    ),
    Mutant(
        "embedded_log_fences_nobody",
        "in one process: a member that was expelled can commit",
        "python/adstream/logs/embedded.py",
        "if fence is not None and not (isinstance(fence, _Member) and fence.alive):",
        "if fence is not None and not isinstance(fence, _Member):",
        ("tests/unit/logs/test_embedded.py",),
    ),
    Mutant(
        "sink_rows_before_their_position",
        "a crash between the two, and a row that was replaced since goes back to what it was",
        "python/adstream/targets/sql.py",
        "                if values:\n                    refused = self._put(connection, values)",
        "            with self._transaction() as connection:\n                if values:\n"
        "                    refused = self._put(connection, values)",
        ("tests/unit/targets",),
    ),
    Mutant(
        "sinks_trust_themselves",
        "a zombie's old rows overwrite newer ones",
        "python/adstream/targets/sql.py",
        "at.partition == partition, at.position == expected)",
        "at.partition == partition)",
        ("tests/integration/targets/test_sql.py",),
    ),
    Mutant(
        "sink_goes_on_where_it_had_read",
        "rows that the target refused are never written",
        "python/adstream/targets/delivery.py",
        "            if part is not None and current:\n                part.stored = None",
        "            if part is not None and current:\n                part.stored, part.flush = flush.position, None",
        ("tests/unit/targets", FRESH),
        SIMULATED,
    ),
    Mutant(
        "changelog_forgets_too_early",
        "state that was not written again lately is gone after a restart",
        "python/adstream/runtime/trim.py",
        "self._marks[0][0] <= needed_from:",
        "self._marks[0][0] <= needed_from + 1:",
        ("tests/unit/runtime/test_trim.py",),
    ),
    Mutant(
        "readers_see_what_is_not_committed",
        "sinks write rows before their commit, and keep them when it is aborted",
        "python/adstream/logs/kafka_client.py",
        '"isolation.level": "read_committed",',
        '"isolation.level": "read_uncommitted",',
        ("tests/integration/kafka/test_conformance.py",),
        servers=True,
    ),
    Mutant(
        "kafka_fences_nobody",
        "on Kafka: offsets are committed by who has lost the membership",
        "python/adstream/logs/kafka_writer.py",
        "metadata = fence.metadata if fence is not None else self._no_member(group)",
        "metadata = self._no_member(group)",
        ("tests/integration/kafka/test_conformance.py", "tests/integration/kafka/test_leases.py"),
        servers=True,
    ),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--without-servers", action="store_true")
    given = parser.parse_args()
    chosen = [m for m in MUTANTS if not given.names or m.name in given.names]
    chosen = [m for m in chosen if not (m.servers and given.without_servers)]
    unknown = set(given.names) - {m.name for m in MUTANTS}
    if unknown:
        parser.error(f"there is no mutant {', '.join(sorted(unknown))}")
    if given.list:
        for m in chosen:
            print(f"{m.name:40} {m.why}")
        return 0
    return run(chosen)


def run(chosen: list[Mutant]) -> int:
    began = time.monotonic()
    checkout = PLACE / "checkout"
    for m in chosen:
        m.applied((ROOT / m.file).read_text())
    copy(ROOT, checkout)
    if (problem := build(checkout)) is not None:
        print(problem, "\nthe copy does not build", sep="")
        return 1
    built = time.monotonic()
    if not green(checkout, chosen):
        return 1
    print(f"without any mutant: built in {built - began:.0f} s, green in {time.monotonic() - built:.0f} s", flush=True)
    survived = []
    for m in sorted(chosen, key=lambda m: (m.rust, m.servers)):  # what takes long last
        since = time.monotonic()
        with changed(checkout, m):
            problem = build(checkout) if m.rust else None
            if problem is not None:
                print(problem, f"\n{m.name} does not build: it says nothing", sep="")
                return 1
            by = failing(checkout, m.tests, m.environment, servers=m.servers)
        if by is None:
            survived.append(m)
        print(
            f"{'SURVIVED' if by is None else 'killed':9} {m.name:38} {time.monotonic() - since:4.0f} s  {by or m.why}"
        )
        sys.stdout.flush()
    print(f"{len(chosen) - len(survived)} of {len(chosen)} killed in {time.monotonic() - began:.0f} s")
    return 1 if survived else 0


def copy(root: Path, checkout: Path) -> None:
    """What git knows or would take, as it lies here. Files that are the same are left alone: cargo goes by their times."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=root, check=True, capture_output=True, text=True).stdout.split("\0")
    wanted = {name for name in names if name and (root / name).is_file()}
    for name in sorted(wanted):
        source, target = root / name, checkout / name
        if not target.exists() or target.read_bytes() != source.read_bytes():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)
    for folder, _, files in os.walk(checkout):
        for path in (Path(folder, name) for name in files):
            if path.suffix not in (".so", ".pyc") and str(path.relative_to(checkout)) not in wanted:
                path.unlink()
    cache = checkout / ".cache"  # servers' programs
    if not cache.is_symlink():
        cache.symlink_to(root / ".cache")


def build(checkout: Path) -> str | None:
    """The extension, into the copy. None, or what went wrong."""
    target = PLACE / "target"
    # Quick to build, not quick to run: a mutant is one line, and its tests are few. With 16 units in place of 256 a line costs
    # 20 s of a core where it costs 12 so, and the tests are no faster for it.
    profile = {"LTO": "off", "OPT_LEVEL": "1", "INCREMENTAL": "true", "DEBUG": "0", "CODEGEN_UNITS": "256"}
    command = ["cargo", "build", "--release", "--locked", "--quiet", "-p", "adstream-py"]
    environment = {**os.environ, "CARGO_TARGET_DIR": str(target)}
    environment |= {f"CARGO_PROFILE_RELEASE_{name}": value for name, value in profile.items()}
    done = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        return done.stderr[-4000:]
    shutil.copy(target / "release" / "lib_core.so", checkout / "python" / "adstream" / "_core.new")
    (checkout / "python" / "adstream" / "_core.new").rename(checkout / "python" / "adstream" / "_core.abi3.so")
    return None


@contextmanager
def changed(checkout: Path, mutant: Mutant) -> Iterator[None]:
    path = checkout / mutant.file
    before = path.read_text()
    path.write_text(mutant.applied(before))
    try:
        yield
    finally:
        path.write_text(before)


def green(checkout: Path, chosen: list[Mutant]) -> bool:
    """Whether the tests pass without any mutant."""
    environment = {name: value for m in chosen for name, value in m.environment.items()}
    for servers in sorted({m.servers for m in chosen}):
        tests = dict.fromkeys(test for m in chosen if m.servers is servers for test in m.tests)
        by = failing(checkout, tuple(tests), environment, servers=servers, patience_s=3 * PATIENCE_S)
        if by is not None:
            print(f"without any mutant: {by}")
            return False
    return True


def failing(
    checkout: Path,
    tests: tuple[str, ...],
    environment: dict[str, str],
    *,
    servers: bool,
    patience_s: int = PATIENCE_S,
) -> str | None:
    """The first test that fails; None when all pass. Raises RuntimeError when none could be run."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "--no-header", "-p", "no:cacheprovider", "-p", PLUGIN]
    command += [*tests, "-m", "servers" if servers else "not servers"]
    path = os.pathsep.join(map(str, (checkout / "python", checkout)))
    process = subprocess.Popen(
        command,
        cwd=checkout,
        env={**os.environ, **environment, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        told, _ = process.communicate(timeout=patience_s)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return f"no end within {patience_s} s"
    if process.returncode == 0:
        return None
    found = re.search(r"^(?:FAILED|ERROR) (\S+)", told, re.MULTILINE)
    if found is None or process.returncode not in (1, 2):
        raise RuntimeError(f"pytest ended with {process.returncode}:\n{told[-4000:]}")
    return found[1]


def pytest_configure() -> None:
    """That a property fails is all that is asked: looking for its smallest example would take most of the time."""
    from hypothesis import Phase, settings

    settings.register_profile("mutants", phases=(Phase.explicit, Phase.generate))
    settings.load_profile("mutants")


if __name__ == "__main__":
    sys.exit(main())
