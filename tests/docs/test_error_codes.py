"""docs/errors.md knows every error code and every reason of a dead letter that the sources can give, and no other."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "errors.md").read_text()

RAISES = {"fault", "wrong", "TopologyError"}
"""Python calls that take a code: the keyword `code`, or the first argument of the first two."""
PASSED_ON = {"faults.py", "typing_.py", "driver.py"}
"""Files that hand on a code they were given."""
RUST = re.compile(r"\b(?:PlanError|Fatal)::new\(\s*(\"[^\"]*\"|[^,\"]*)")
CODE = re.compile(r"[a-z]+(?:_[a-z]+)+")
FLOW_REASON = re.compile(r'(?:Failure::Bad|\.fault)\(\s*"(\w+)"|"((?:malformed|unwritable)_(?:key|value)|bad_type)"')
REASON = re.compile(r'"(null_payload|malformed_json|missing_field|bad_field|ahead_of_clock|missing_timestamp)[:"]')


def python_codes() -> tuple[set[str], list[str]]:
    """Codes, and calls whose code cannot be read off."""
    found: set[str] = set()
    unread: list[str] = []
    for path in sorted((ROOT / "python" / "adstream" / "dsl").glob("*.py")):
        for call in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id in RAISES):
                continue
            named = [k.value for k in call.keywords if k.arg == "code"]
            [code] = named or (call.args[:1] if call.func.id != "TopologyError" else [ast.Constant(None)])
            if isinstance(code, ast.Constant) and isinstance(code.value, str):
                found.add(code.value)
            elif path.name not in PASSED_ON and not (isinstance(code, ast.Name) and code.id == "code"):
                unread.append(f"{path.name}:{call.lineno}")
    return found, unread


def rust_codes() -> tuple[set[str], list[str]]:
    found: set[str] = set()
    unread: list[str] = []
    for path in sorted((ROOT / "rust").rglob("*.rs")):
        for match in RUST.finditer(path.read_text()):
            if match[1].startswith('"'):
                found.add(match[1].strip('"'))
            else:
                unread.append(f"{path.name}: {match[0]}")
    return found, unread


def reasons() -> set[str]:
    core = ROOT / "rust" / "core" / "src"
    named = re.findall(r'ERR_\w+ => "(\w+)"', (core / "column.rs").read_text())
    text = "".join(path.read_text() for path in sorted(core.rglob("*.rs")))
    flow = {reason for pair in FLOW_REASON.findall(text) for reason in pair if reason}
    assert len(flow) > 8, flow
    flow |= set(re.findall(r'Err\(\("(\w+)", format', (core / "cep" / "matcher.rs").read_text()))
    flow |= set(re.findall(r'Err\(\("(\w+)",', (core / "flow" / "rules.rs").read_text()))
    return {*named, *REASON.findall(text), *flow}


def rows(heading: str) -> set[str]:
    """The names in the first column of the tables under a heading, to the next heading of its level."""
    section = re.search(rf"^## {heading}\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert section, heading
    cells = re.findall(r"^\| (`[^|]*`) \|", section[1], re.MULTILINE)
    return {name.partition(":")[0] for cell in cells for name in re.findall(r"`([^`]+)`", cell)}


def test_every_code_is_on_the_page_and_no_other():
    python, unread_python = python_codes()
    rust, unread_rust = rust_codes()
    assert (unread_python, unread_rust) == ([], [])
    assert len(python) > 20, python
    assert len(rust) > 20, rust
    assert all(CODE.fullmatch(code) or code == "renamed" for code in python | rust)
    documented = rows("Topology errors") | rows("Fatal errors")
    assert documented - (python | rust) == set(), "on the page, not in the sources"
    assert (python | rust) - documented == set(), "in the sources, not on the page"


def test_every_reason_is_on_the_page_and_no_other():
    found = reasons()
    assert len(found) > 8, found
    assert rows("Reasons of dead letters") == found
