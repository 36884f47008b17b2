"""Bytes of keys and values are those of Java's serialisers, for edges and for some thousand random values; read back, they are
the values."""

import json
import math
import random
import struct
import subprocess
import uuid
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

import adstream as ads
from tests.differential.jvm import command

pytestmark = pytest.mark.servers

S = ads.serdes
SEED = random.randrange(1 << 32)
ALPHABET = 'aZ09 \t\n"\\/éß漢字\U0001f600\x00\x1f\x7f'


def windowed(serde: Any, chance: random.Random) -> tuple[Any, str]:
    key, start = "".join(chance.choices("aé漢 ", k=chance.randrange(6))), chance.choice((0, 5, chance.getrandbits(40)))
    end = start + 10 if serde == "time" else start + chance.choice((0, 1, chance.getrandbits(30)))
    return ads.Windowed(key, start, end), f"{start} {end} {key}"


def text(chance: random.Random) -> str:
    return "".join(chance.choices(ALPHABET, k=chance.randrange(8)))


def tree(chance: random.Random, depth: int = 0) -> Any:
    """Of what both write alike. Jackson writes characters beyond U+FFFF as two escapes and other control characters with capital
    hex digits, and floats with another exponent: the same JSON in other bytes."""
    kinds = [None, True, False, chance.randint(-(2**63), 2**63 - 1), chance.randint(-9, 9), text_of_json(chance)]
    if depth < 3 and chance.random() < 0.5:
        inner = [tree(chance, depth + 1) for _ in range(chance.randrange(4))]
        return inner if chance.random() < 0.5 else {text_of_json(chance) + str(i): v for i, v in enumerate(inner)}
    return chance.choice(kinds)


def text_of_json(chance: random.Random) -> str:
    return "".join(chance.choices('aZ0 \t\n\r\b\f"\\/é漢\x7f', k=chance.randrange(8)))


def cases(chance: random.Random) -> list[tuple[str, Any, Any, str]]:
    """(name in Java, serde, value, value as text)."""
    found: list[tuple[str, Any, Any, str]] = []
    for value in ["", "a", "é漢\U0001f600", *(text(chance) for _ in range(300))]:
        found.append(("string", S.string, value, json.dumps(value)))
    for bits, serde in ((16, S.int16), (32, S.int32), (64, S.int64)):
        edges = [0, 1, -1, 2 ** (bits - 1) - 1, -(2 ** (bits - 1))]
        for n in [*edges, *(chance.getrandbits(bits) - 2 ** (bits - 1) for _ in range(300))]:
            found.append((f"int{bits}", serde, n, str(n)))
    for _ in range(300):
        x = struct.unpack(">d", chance.randbytes(8))[0]
        found += [("float64", S.float64, x, repr(x))] if math.isfinite(x) else []
        y = struct.unpack(">f", chance.randbytes(4))[0]
        found += [("float32", S.float32, y, repr(y))] if math.isfinite(y) else []
    for x in (0.0, -0.0, 5e-324, 1.7976931348623157e308, 0.1, 1e16):
        found.append(("float64", S.float64, x, repr(x)))
    for flag in (True, False):
        found.append(("boolean", S.boolean, flag, str(flag).lower()))
    for _ in range(100):
        name = str(uuid.UUID(bytes=chance.randbytes(16)))
        found.append(("uuid", S.uuid, chance.choice((name, name.upper())), name))
        raw = chance.randbytes(chance.randrange(9))
        found.append(("bytes", S.bytes, raw, raw.hex()))
    for scale in (0, 2, 9, 38):
        numbers = [0, 1, -1, 127, 128, -128, -129, 255, 256, 32767, -32768, 10**38 - 1, 1 - 10**38]
        for n in [*numbers, *(chance.randint(-(10 ** chance.randint(1, 38)), 10**20) for _ in range(200))]:
            value = Decimal(n).scaleb(-scale) if abs(n) < 10**28 else Decimal(digits(n, scale))
            found.append(("decimal", S.decimal(scale), value, digits(n, scale)))
    for _ in range(500):
        value = tree(chance)
        if value is not None:
            found.append(("json", S.json, value, json.dumps(value)))
    for kind, serde in (
        ("time_windowed", S.time_windowed(S.string, "10ms")),
        ("session_windowed", S.session_windowed(S.string)),
    ):
        for _ in range(100):
            value, written = windowed(kind.partition("_")[0], chance)
            found.append((kind, serde, value, written))
    items: dict[str, tuple[Any, list[Any]]] = {
        "int16": (S.int16, [0, -1, 2**15 - 1]),
        "int32": (S.int32, [0, -1, 2**31 - 1]),
        "int64": (S.int64, [0, -1, 2**63 - 1]),
        "float32": (S.float32, [0.0, -1.5]),
        "float64": (S.float64, [0.0, 0.1, -1.5]),
        "uuid": (S.uuid, [str(uuid.UUID(int=7)), str(uuid.UUID(int=2**128 - 1))]),
        "string": (S.string, ["", "a", "é漢"]),
    }
    for name, (serde, some) in items.items():
        for _ in range(60):
            value = chance.choices([*some, None], k=chance.choice([0, 1, 1, 2, 3, 7]))
            found.append(("list", S.list(serde), value, f"{name} {json.dumps(value)}"))
    return found


def digits(n: int, scale: int) -> str:
    whole = f"{abs(n):0{scale + 1}d}"
    point = len(whole) - scale
    return f"{'-' if n < 0 else ''}{whole[:point]}{'.' if scale else ''}{whole[point:]}"


def test_bytes_are_javas() -> None:
    found = cases(random.Random(SEED))
    lines = "".join(f"{name}\t{text}\n" for name, _, _, text in found)
    with command("Vectors", [Path(__file__).with_name("Vectors.java")]) as start:
        done = subprocess.run(start, input=lines.encode(), capture_output=True, timeout=100)
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    answers = done.stdout.decode().splitlines()
    assert len(answers) == len(found) > 3000, (len(answers), SEED)
    for (name, serde, value, written), java in zip(found, answers, strict=True):
        ours = serde.serialize(value)
        assert ours is not None
        assert ours.hex() == java, (name, value, written, SEED)
        back = serde.deserialize(ours)
        assert back == (value.lower() if name == "uuid" else value), (name, value, SEED)


@pytest.mark.parametrize(
    ("serde", "bytes_"),
    [(S.int16, b"\1"), (S.int64, b"1234"), (S.boolean, b"\2"), (S.void, b"x"), (S.uuid, b"short"), (S.decimal(2), b"")],
)
def test_what_java_refuses_is_refused(serde: Any, bytes_: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        serde.deserialize(bytes_)


@pytest.mark.parametrize(
    "bytes_",
    [
        b"",
        b"\2",
        b"\1",
        b"\1\0\0\0\1",
        b"\1\0\0\0\1\0\0\0\5ab",
        b"\1\x7f\xff\xff\xff",
        b"\1\xff\xff\xff\xff",
        b"\0\0\0\0\0\0\0\0\0",
    ],
)
def test_lists_that_are_none_are_refused(bytes_: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        S.list(S.string).deserialize(bytes_)


def test_a_list_of_lists() -> None:
    value = [[1, None], None, []]
    serde = S.list(S.list(S.int32))
    assert serde.deserialize(serde.serialize(value)) == value
    with pytest.raises(ValueError, match="int32 cannot write"):
        serde.serialize([["one"]])
    with pytest.raises(ads.TopologyError, match="must be a serde"):
        S.list("string")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("serde", "value"),
    [
        (S.decimal(2), Decimal("0.125")),
        (S.decimal(2), 0.5),
        (S.decimal(0), Decimal("1e38")),
        (S.void, 1),
        (S.int16, 1 << 15),
    ],
)
def test_what_does_not_fit_is_refused(serde: Any, value: Any) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        serde.serialize(value)


def test_a_decimal_is_exact_and_whole_numbers_are_decimals() -> None:
    assert S.decimal(2).serialize(3) == S.decimal(2).serialize(Decimal("3.00")) == b"\x01\x2c"
    assert S.decimal(2).serialize(Decimal("3.500")) == S.decimal(2).serialize(Decimal("3.5"))
    assert S.decimal(2).deserialize(b"\xff") == Decimal("-0.01")
    with pytest.raises(ads.TopologyError, match="bad_decimal"):
        S.decimal(39)
