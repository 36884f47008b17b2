"""Who may import whom: reads every import of the package and says where an arrow points upwards.

Layers keep a program understandable only while they are true, so they are checked, not described. A module
may import its own unit and the units of lower rows; units of one row do not see each other; `_core`, the
extension, is open to all but the jobs. Imports inside functions and under `TYPE_CHECKING` count as well. Jobs
see the public `adstream` and other jobs, nothing else: what they lack is a gap in the public interface. On
the Rust side, `rust/core` must not know Python, the wall clock or chance.

The checker has to prove that it looked: it counts what it read, fails on nothing, and `--canary` shows it one
violation of each kind, each of which it must name.
"""

import argparse
import ast
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

FACADE = "adstream"  # the package itself, python/adstream/__init__.py
LAYERS = [
    ["errors"],
    ["interfaces"],
    ["formats"],
    ["dsl", "logs", "targets"],
    ["runtime"],
    ["testing"],
    [FACADE],
    ["serve"],
    ["cli", "__main__"],
]
EXTENSION, JOBS = "_core", "jobs"
RANK = {unit: rank for rank, row in enumerate(LAYERS) for unit in row}
SEES_JOBS = {"cli", "__main__"}

CORE_MUST_NOT_KNOW = {
    r"\bpyo3\b": "Python",
    r"\b(SystemTime|Instant)\b": "the wall clock",
    r"\brand\b": "chance",
}
RUST_COMMENT = re.compile(r"//.*")


def allowed(importer: str, imported: str) -> bool:
    if importer == imported:
        return True
    if importer == JOBS:
        return imported == FACADE
    if imported == EXTENSION:
        return True
    if imported == JOBS:
        return importer in SEES_JOBS
    return RANK[imported] < RANK[importer]


def unit_of(module: str) -> str:
    """`adstream.dsl.expr` belongs to `dsl`, `adstream` to the façade."""
    return module.split(".")[1] if "." in module else FACADE


def module_of(path: Path, package: Path) -> tuple[str, bool]:
    """The dotted name of a file, and whether it is a package's `__init__`."""
    parts = list(path.relative_to(package.parent).with_suffix("").parts)
    is_package = parts[-1] == "__init__"
    return ".".join(parts[:-1] if is_package else parts), is_package


def imports(tree: ast.AST, module: str, is_package: bool, units: set[str]) -> Iterator[tuple[int, str]]:
    """(line, unit) of every import of ours. `from adstream import dsl` imports `dsl`, not the façade."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = module.split(".")
                parts = parts[: len(parts) - node.level + is_package]
                base = ".".join([*parts, base] if base else parts)
            submodules = [alias.name for alias in node.names] if base == FACADE else []
            names = [f"{base}.{name}" if name in units else base for name in submodules] or [base]
        else:
            continue
        for name in names:
            if name == FACADE or name.startswith(FACADE + "."):
                yield node.lineno, unit_of(name)


def check_python(package: Path) -> tuple[int, int, list[str]]:
    """(files read, imports judged, violations)."""
    files = sorted(package.rglob("*.py"))
    units = {*RANK, EXTENSION, JOBS} - {FACADE}
    units |= {path.stem for path in package.iterdir()} - {"__init__", "__pycache__"}
    judged, found = 0, []
    for path in files:
        module, is_package = module_of(path, package)
        importer = unit_of(module)
        if importer not in RANK and importer != JOBS:
            found.append(f"{path}: `{importer}` has no layer\nhint: give it one in tools/layers.py")
            continue
        for line, imported in imports(ast.parse(path.read_text(), path), module, is_package, units):
            judged += 1
            if imported not in RANK and imported not in (EXTENSION, JOBS):
                found.append(f"{path}:{line}: `{imported}` has no layer\nhint: give it one in tools/layers.py")
            elif not allowed(importer, imported):
                found.append(f"{path}:{line}: `{importer}` must not import `{imported}`")
    return len(files), judged, found


def check_core(source: Path) -> tuple[int, list[str]]:
    """(files read, violations). Comments may name what the code must not."""
    files = sorted(source.rglob("*.rs"))
    found = []
    for path in files:
        for number, text in enumerate(path.read_text().splitlines(), start=1):
            code = RUST_COMMENT.sub("", text)
            for pattern, what in CORE_MUST_NOT_KNOW.items():
                if match := re.search(pattern, code):
                    found.append(f"{path}:{number}: the core must not know {what}: `{match[0]}`")
    return len(files), found


def check(root: Path) -> int:
    python_files, judged, found = check_python(root / "python" / "adstream")
    rust_files, found_in_core = check_core(root / "rust" / "core" / "src")
    found += found_in_core
    for violation in found:
        print(violation)
    read = f"{python_files} Python files, {judged} imports, {rust_files} Rust files"
    print(f"layers: {read}, {len(found)} violations")
    if not python_files or not judged or not rust_files:
        print("layers: nothing to inspect means that the checker looked in the wrong place")
        return 1
    return 1 if found else 0


# What the checker must name, by file and source; and what it must let pass.
VIOLATIONS = {
    "python/adstream/dsl/up.py": "from adstream.runtime import worker",
    "python/adstream/dsl/aside.py": "from adstream import targets",
    "python/adstream/logs/relative.py": "from ..testing.driver import Driver",
    "python/adstream/runtime/hidden.py": "def f():\n    import adstream.cli.main",
    "python/adstream/runtime/public.py": "from adstream import App",
    "python/adstream/testing/jobs.py": "from adstream.jobs import ads",
    "python/adstream/jobs/private.py": "from adstream.dsl.expr import col",
    "python/adstream/jobs/core.py": "from adstream import _core",
    "python/adstream/errors.py": "from . import interfaces",
    "python/adstream/utils.py": "x = 1",
    "rust/core/src/binding.rs": "use pyo3::prelude::*;",
    "rust/core/src/clock.rs": "use std::time::{Duration, Instant};",
    "rust/core/src/dice.rs": "let n: u8 = rand::random();",
}
CLEAN = {
    "python/adstream/__init__.py": "from .dsl import App\nfrom .runtime import Worker",
    "python/adstream/interfaces.py": "import json\nfrom .errors import Error",
    "python/adstream/dsl/__init__.py": "from .. import _core\nfrom . import expr\nfrom ..errors import Error",
    "python/adstream/jobs/good.py": "from adstream import App\nfrom adstream.jobs import ads",
    "python/adstream/cli/main.py": "from adstream.jobs import ads\nimport adstream, adstream.serve",
    "rust/core/src/lib.rs": "//! Knows no pyo3, no rand, no Instant.\nfn operand() {}",
}


def canary() -> int:
    """Plant each violation alone among clean files: its file is named, and no clean file ever is."""
    for planted in [None, *VIOLATIONS]:
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            for name, source in (CLEAN | ({planted: VIOLATIONS[planted]} if planted else {})).items():
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                (root / name).write_text(source)
            found = check_python(root / "python" / "adstream")[2] + check_core(root / "rust" / "core" / "src")[1]
            wanted = [str(root / planted)] if planted else []
            if [violation.split(":")[0] for violation in found] != wanted:
                print(f"layers: with {planted or 'nothing'} planted, the checker found {found}")
                return 1
    print(f"layers: canary: {len(VIOLATIONS)} planted violations caught, {len(CLEAN)} clean files let pass")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--canary", action="store_true", help="check the checker")
    return canary() if parser.parse_args().canary else check(Path(__file__).parents[1])


if __name__ == "__main__":
    sys.exit(main())
