"""Patterns as text: `str(pattern)` writes it, `Pattern.parse` reads it. Flink's draft of such a language, made whole.

    pattern   = ["%MENDED"] ["%LONGEST"] [skip] chain
    skip      = "%NO_SKIP" | "%SKIP_TO_NEXT" | "%SKIP_PAST_LAST"
              | ("%SKIP_TO_FIRST" | "%SKIP_TO_LAST") "[" 'stage' ["," "throws"] "]"
    chain     = element { ("->" | "->>" | "!->" | "!" | "=>" | nothing) element }
    element   = (name ["=" Type] | "(" chain ")") { part }
    part      = "+" | "*" | "{" n ["," (n | "+")] ["within" span] "}" ["?"]
              | "(" expr ")" { "(" expr ")" | "or" "(" expr ")" } | "[" expr "]"
              | "?" | "optional" | "consecutive" | "combinations" | "within" ["previous"] span

`A B` (or `A => B`) is `next`, `A !B` `not_next`, `->` `followed_by`, `->>` `followed_by_any`, `!->` `not_followed_by`. `?` right
behind `}` is greedy, anywhere else optional. What stands in `[…]` is `until`. A parenthesis behind a stage is its
condition: a group that comes `next` is therefore written `=> (…)`. Keywords are of any case; a name that is one, or that is no
word, stands in backquotes.

In expressions `A.x` is field x of the first event of stage A; `sum(A.x)`, `count(A)`, `any(A: A.x > x)` and so on are what
`matched("A")` asks; before the colon the stage, behind it `A.x` is the taken event's field and `x` that of the event at hand.

Reading makes tokens, then descends; each stage is made by the calls of `Pattern` (`pattern_json.rebuilt`), so what they refuse
is refused here, with the place in the text. Writing is the reverse, with as few parentheses as reading needs; both know
the same table of functions. `tests/property/test_pattern_text.py` holds them to each other.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any

from adstream.dsl.durations import duration_ms, format_ms
from adstream.dsl.expr import Expr, callable_name, col, joined, lit
from adstream.dsl.faults import nearest
from adstream.dsl.pattern_json import LOOKS, expr_of, malformed, rebuilt, stage_names
from adstream.errors import TopologyError

if TYPE_CHECKING:
    from adstream.dsl.pattern import AfterMatchSkipStrategy, Pattern, _Stage

_TOKEN = re.compile(
    r"""(?P<space>\s+)
    | (?P<text>'(?:[^']|'')*')
    | (?P<quoted>`(?:[^`]|``)+`)
    | (?P<span>(?:[0-9]+(?:ms|[dhms]))+(?!\w))
    | (?P<number>[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?(?!\w))
    | (?P<name>[^\W\d]\w*)
    | (?P<sign>!->|->>|->|=>|<=|>=|!=|<>|==|//|[-+*/%=<>!?.,:()\[\]{}])""",
    re.VERBOSE | re.IGNORECASE,
)
_FLAGS = ("mended", "longest")
_SKIP = re.compile(r"\s*%(\w+)")
_SKIPS = {
    "no_skip": "no",
    "skip_to_next": "to_next",
    "skip_past_last": "past_last",
    "skip_past_last_event": "past_last",
    "skip_to_first": "to_first",
    "skip_to_last": "to_last",
}
_OF_STAGES = {"within", "consecutive", "combinations", "optional", "or"}
_RESERVED = _OF_STAGES | {"and", "not", "in", "is", "null", "true", "false"}
_THEN = {"->": "skip_till_next", "->>": "skip_till_any", "!->": "not_follow", "!": "not_next", "=>": "strict"}
_SIGNS = {"skip_till_next": "-> ", "skip_till_any": "->> ", "not_follow": "!-> ", "not_next": "!", "strict": ""}

_META = {"timestamp": "$timestamp", "offset": "$offset", "partition": "$partition", "key": "$key", "value": "$value"}
_META_OF = {column: name for name, column in _META.items()}
_OF_ONE = [
    "floor",
    "ceil",
    "abs",
    "str_lower",
    "str_upper",
    "str_len",
    "str_bytes",
    "str_strip",
    "dt_year",
    "dt_month",
    "dt_day",
    "dt_hour",
    "dt_minute",
    "dt_second",
    "dt_millisecond",
    "dt_weekday",
    "dt_epoch_ms",
]
_ARGUMENTS: dict[str, tuple[int, int]] = {
    **dict.fromkeys(_OF_ONE, (1, 1)),
    **dict.fromkeys(("str_starts_with", "str_ends_with", "str_contains", "fill_null", "add"), (2, 2)),
    "str_replace": (3, 3),
    **dict.fromkeys(("coalesce", "min_horizontal", "max_horizontal", "str_concat"), (1, 1000)),
    "when": (3, 1001),
}
"""Functions that are called as the core's operations are, and how many arguments they take, from and to."""
_SPECIAL = ("round", "cast", "str_slice", "dt_truncate", "decimal", "timestamp", "null")
_PYTHON = "python"

_FIRST_BOUND = {"not", "neg", "is_null", "is_not_null", "is_in"}
"""Their first argument is written as tightly as they bind."""
_OR, _AND, _NOT, _COMPARE, _ADD, _MUL, _UNARY, _ATOM = range(8)
_COMPARES = {"=": "eq", "==": "eq", "!=": "ne", "<>": "ne", "<": "lt", "<=": "le", ">": "gt", ">=": "ge"}
_INFIX = {
    "or": ("or", _OR),
    "and": ("and", _AND),
    **{op: (sign, _COMPARE) for sign, op in _COMPARES.items() if sign not in ("==", "<>")},
    "add": ("+", _ADD),
    "sub": ("-", _ADD),
    "mul": ("*", _MUL),
    "div": ("/", _MUL),
    "floordiv": ("//", _MUL),
    "mod": ("%", _MUL),
}
_OP = {sign: op for op, (sign, level) in _INFIX.items() if level >= _ADD}


# --- Writing --------------------------------------------------------------------------------------------------------------


def write(pattern: Pattern) -> str:
    """See `Pattern.__str__`."""
    skip, said = pattern._skip, ""
    flags = "".join(f"%{flag.upper()} " for flag in pattern._flags())
    if skip.kind != "no":
        said = "%SKIP_" + skip.kind.upper()
        if skip.stage is not None:
            said += f"[{_text(skip.stage)}{', throws' if skip.throws else ''}]"
        said += " "
    return flags + said + _chain_text(pattern)


def _chain_text(pattern: Pattern) -> str:
    parts = []
    for i, stage in enumerate(pattern._stages):
        sign = "" if i == 0 else _SIGNS[stage.contiguity]
        parts.append(("=> " if i > 0 and stage.group is not None and not sign else sign) + _stage_text(stage))
    return " ".join(parts)


def _stage_text(stage: _Stage) -> str:
    made = _name(stage.name) if stage.group is None else f"({_chain_text(stage.group)})"
    optional = stage.optional
    if stage.times is not None:
        low, high, window = stage.times
        braced = f" within {format_ms(window)}" if window is not None else ""
        if stage.looping and low == 1 and not braced and not stage.greedy:
            made += "*" if optional else "+"
            optional = False
        elif stage.looping:
            made += f"{{{low},+{braced}}}"
        elif optional and low == 1:
            made += f"{{0,{high}{braced}}}"
            optional = False
        else:
            made += f"{{{low}{braced}}}" if low == high else f"{{{low},{high}{braced}}}"
        made += "?" if stage.greedy else ""
    if stage.condition is not None:
        made += " " + _conditions_text(stage.condition)
    if stage.until is not None:
        made += f" [{condition_text(stage.until)}]"
    if optional:
        made += " optional" if made.endswith("}") else "?"
    made += {"strict": " consecutive", "skip_till_any": " combinations"}.get(stage.inner, "")
    if stage.within is not None:
        made += f" within {format_ms(stage.within)}"
    if stage.within_previous is not None:
        made += f" within previous {format_ms(stage.within_previous)}"
    return made


def _conditions_text(condition: Any) -> str:
    if not isinstance(condition, tuple):
        return f"({condition_text(condition)})"
    how, one, other = condition
    return f"{_conditions_text(one)}{' or ' if how == 'or' else ' '}{_conditions_text(other)}"


def condition_text(test: object) -> str:
    """One condition: an expression, or a function by its name."""
    return expression_text(test) if isinstance(test, Expr) else f"{_PYTHON}({_text(callable_name(test))})"


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def _name(name: str) -> str:
    plain = re.fullmatch(r"[^\W\d]\w*", name) and name.lower() not in _RESERVED
    return name if plain else "`" + name.replace("`", "``") + "`"


def expression_text(e: Expr) -> str:
    """An expression in the language of patterns."""
    return _write(e, None)[0]


def _wrap(e: Expr, level: int, taken: str | None) -> str:
    text, binds = _write(e, taken)
    return text if binds >= level else f"({text})"


def _write(e: Expr, taken: str | None) -> tuple[str, int]:
    """The text, and how tightly it binds. `taken`: the stage whose events are being asked."""
    a = e.args
    joins = e.op == "add" and any(arg.op == "lit" and isinstance(arg.value, str) for arg in a)
    if e.op in _INFIX and len(a) == 2 and not joins:
        sign, level = _INFIX[e.op]
        left = _wrap(a[0], level + 1 if level == _COMPARE else level, taken)
        joined_too = e.op in ("and", "or") and a[1].op == e.op
        right = _wrap(a[1], level if joined_too else level + 1, taken)
        # `x = null` is refused as a mistake.
        return f"{left} {sign} {'(null)' if right == 'null' and level == _COMPARE else right}", level
    # Each argument is written once: nested ones would double the work level by level.
    listed = [_wrap(arg, _OR, taken) for arg in (a[1:] if e.op in _FIRST_BOUND else a)]
    match e.op:
        case "col":
            return _column_text(e.name or "", taken), _ATOM
        case "lit":
            return _constant_text(e)
        case "not":
            return f"not {_wrap(a[0], _NOT, taken)}", _NOT
        case "neg":
            text = _wrap(a[0], _UNARY, taken)
            return f"-({text})" if a[0].op == "lit" and not text.startswith("(") else f"-{text}", _UNARY
        case "is_null" | "is_not_null":
            return f"{_wrap(a[0], _ADD, taken)} {e.op.replace('_', ' ')}", _COMPARE
        case "is_in":
            return f"{_wrap(a[0], _ADD, taken)} in ({', '.join(listed)})", _COMPARE
        case "round":
            return f"round({listed[0]}, {e.digits})", _ATOM
        case "cast":
            return f"cast({listed[0]}, {_text(e.dtype or '')})", _ATOM
        case "str_slice":
            length = "" if e.length is None else f", {e.length}"
            return f"str_slice({listed[0]}, {e.offset}{length})", _ATOM
        case "dt_truncate":
            return f"dt_truncate({listed[0]}, {format_ms(e.every_ms or 0)})", _ATOM
        case op if op in _ARGUMENTS:
            return f"{op}({', '.join(listed)})", _ATOM
    return f"{_PYTHON}({_text(repr(e))})", _ATOM


def _column_text(name: str, taken: str | None) -> str:
    if name in _META_OF:
        return f"{_META_OF[name]}()"
    if taken is not None and name.startswith("$element."):
        return f"{_name(taken)}.{_name(name.removeprefix('$element.'))}"
    if not name.startswith("$other.{"):
        return _name(name)
    asked = json.loads(name.removeprefix("$other."))
    stage, look = asked["stage"], asked["look"]
    if asked["of"] is None:
        return f"{look}({_name(stage)})"
    of = _answered(expr_of(asked["of"]))
    text = _write(of, stage)[0]
    if of.op == "col" and (of.name or "").startswith("$element."):
        return text if look == "first" else f"{look}({text})"
    return f"{look}({_name(stage)}: {text})"


def _answered(e: Expr) -> Expr:
    """What `matched` made a function of (taken event, event at hand), as it was said."""
    if e.op != "col":
        return Expr(e.op, tuple(map(_answered, e.args)), **{p: getattr(e, p) for p in _REST})
    name = e.name or ""
    if name.startswith("$other.") and not name.startswith("$other.{"):
        return col(name.removeprefix("$other."))
    return e if name.startswith("$") else col("$element." + name)


_REST = ("name", "dtype", "value", "digits", "every_ms", "offset", "length")


def _constant_text(e: Expr) -> tuple[str, int]:
    match e.value:
        case None:
            return (f"null({_text(e.dtype)})" if e.dtype else "null"), _ATOM
        case bool():
            return str(e.value).lower(), _ATOM
        case int() | float():
            return repr(e.value), _ATOM if not repr(e.value).startswith("-") else _UNARY
        case str():
            return _text(e.value), _ATOM
        case Decimal():
            return f"decimal('{e.value:f}')", _ATOM
        case datetime():
            return f"timestamp('{e.value.isoformat()}')", _ATOM
        case timedelta():
            ms = duration_ms(e.value, "literal", negative=True)
            return format_ms(ms), _ATOM if ms >= 0 else _UNARY
    raise AssertionError(e.value)


# --- Reading --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    """text, name, span, number, sign; end."""
    text: str
    at: int
    quoted: bool = False

    def word(self) -> str:
        """A keyword, or nothing that is one."""
        return self.text.lower() if self.kind == "name" and not self.quoted else ""


def read(text: str, type_field: str) -> Pattern:
    """See `Pattern.parse`."""
    if not isinstance(text, str):
        raise malformed(f"not a text: {text!r}", 'write `Pattern.parse("a (x > 1) -> b")`')
    try:
        return _Reader(text, type_field).pattern()
    except RecursionError:
        raise malformed(
            "groups or conditions are nested too deeply", "leave parentheses out, or write a list: `x in (1, 2)`"
        ) from None


class _Reader:
    def __init__(self, text: str, type_field: str) -> None:
        self._text, self._type_field = text, type_field
        self._skip: tuple[str, int] | None = None
        self._flags: list[str] = []
        start = 0
        while self._skip is None and (directive := _SKIP.match(text, start)) is not None:
            name, start = directive[1].lower(), directive.end()
            if name in _FLAGS and name not in self._flags:
                self._flags.append(name)
            else:
                self._skip = name, directive.start(1) - 1
        self._names: dict[str, int] = {}
        """Of stages, and where."""
        self._tokens = list(self._cut(start))
        self._next = 0
        self._asked: list[tuple[str, int]] = []
        """Stages that conditions look back at, and where."""
        self._taken: str | None = None

    def _cut(self, at: int) -> Iterator[_Token]:
        while at < len(self._text):
            found = _TOKEN.match(self._text, at)
            if found is None:
                what = self._text[at]
                hint = "close it with another one" if what in "'`" else "leave it out"
                if what == '"':
                    hint = "write texts as 'x' and names as `x`"
                elif what.isdigit():
                    hint = "write numbers as 5 or 1.5, spans as 10s or 1h30m; a name does not begin with a digit"
                raise self._error(at, f"`{what}` begins nothing", hint)
            kind, said = str(found.lastgroup), found[0]
            if kind == "quoted":
                yield _Token("name", said[1:-1].replace("``", "`"), at, quoted=True)
            elif kind == "text":
                yield _Token("text", said[1:-1].replace("''", "'"), at)
            elif kind != "space":
                yield _Token(kind, said, at)
            at = found.end()
        yield _Token("end", "", len(self._text))

    def _at(self, at: int) -> tuple[int, int]:
        """Line and column."""
        before = self._text[:at]
        return before.count("\n") + 1, at - (before.rfind("\n") + 1) + 1

    def _error(self, at: int, message: str, hint: str) -> TopologyError:
        line, column = self._at(at)
        shown = self._text.split("\n")[line - 1]
        start = max(0, column - 60)
        cut = shown[start : column + 40]
        return malformed(f"line {line}, column {column}: {message}\n    {cut}\n    {' ' * (column - 1 - start)}^", hint)

    # Tokens.

    @property
    def _token(self) -> _Token:
        return self._tokens[self._next]

    @property
    def _after(self) -> _Token:
        return self._tokens[min(self._next + 1, len(self._tokens) - 1)]

    def _step(self) -> _Token:
        token = self._token
        self._next = min(self._next + 1, len(self._tokens) - 1)
        return token

    def _is(self, *signs: str) -> bool:
        return self._token.kind == "sign" and self._token.text in signs

    def _took(self, *signs: str) -> bool:
        found = self._is(*signs)
        if found:
            self._step()
        return found

    def _took_word(self, word: str) -> bool:
        found = self._token.word() == word
        if found:
            self._step()
        return found

    def _wrong(self, wanted: str, hint: str) -> TopologyError:
        token = self._token
        found = "the text ends" if token.kind == "end" else f"`{token.text}`"
        return self._error(token.at, f"{found} where {wanted} is expected", hint)

    def _need(self, sign: str, hint: str) -> None:
        if not self._took(sign):
            raise self._wrong(f"`{sign}`", hint)

    def _need_name(self, what: str) -> str:
        if self._token.kind != "name":
            raise self._wrong(what, "write a word, or anything between backquotes")
        if self._token.word() in _RESERVED:
            raise self._wrong(what, f"`{self._token.text}` is a keyword: write it between backquotes")
        return self._step().text

    def _whole(self) -> int:
        token = self._token
        if token.kind != "number" or not token.text.isdigit():
            raise self._wrong("a whole number", "write `{2}`, `{1,3}` or `{2,+}`")
        return int(self._step().text)

    def _span(self) -> int:
        token = self._step()
        text = token.text.lower()
        if token.kind == "number" and self._token.word() in ("d", "h", "m", "s", "ms"):
            text += self._step().word()
        try:
            return duration_ms(text, "window")
        except TopologyError as error:
            raise self._error(token.at, _message(error), error.hint or "write `10s` or `1h30m`") from None

    # Patterns.

    def pattern(self) -> Pattern:
        skip = self._strategy()
        made = self._chain(skip)
        if self._token.kind != "end":
            raise self._wrong("a stage or the end", "write `A B`, `A -> B`, `A ->> B`, `A !-> B`")
        names = stage_names(made._stages)
        for stage, at in self._asked:
            if stage not in names:
                near = nearest(stage, names)
                raise self._error(
                    at,
                    f"there is no stage `{stage}`",
                    f"did you mean `{near}`?" if near else "name a stage of the pattern; a field with a dot is `a.b`",
                )
        for flag in self._flags:
            try:
                made = getattr(made, flag)()
            except TopologyError as error:
                raise self._error(0, _message(error), error.hint or "leave it out") from None
        return made

    def _strategy(self) -> AfterMatchSkipStrategy | None:
        from adstream.dsl.pattern import AfterMatchSkipStrategy

        if self._skip is None:
            return None
        name, at = self._skip
        if name not in _SKIPS:
            if name in _FLAGS:
                raise self._error(at, f"a second `%{name.upper()}`", "leave one out")
            near = nearest(name, (*_SKIPS, *_FLAGS)) or "no_skip"
            raise self._error(at, f"no skip strategy `%{name.upper()}`", f"did you mean `%{near.upper()}`?")
        kind = _SKIPS[name]
        if kind not in ("to_first", "to_last"):
            return AfterMatchSkipStrategy(kind)
        self._need("[", f"name the stage: `%{name.upper()}['s']`")
        if self._token.kind != "text":
            raise self._wrong("a stage's name", f"write `%{name.upper()}['s']`")
        stage, throws = self._step().text, False
        if self._took(","):
            if not self._took_word("throws"):
                raise self._wrong("`throws`", f"write `%{name.upper()}['s', throws]`, or leave the comma out")
            throws = True
        self._need("]", "close the bracket")
        return AfterMatchSkipStrategy(kind, stage, throws)

    def _chain(self, skip: AfterMatchSkipStrategy | None) -> Pattern:
        made = self._element(None, "strict", skip)
        while self._token.kind != "end" and not self._is(")"):
            if self._is(*_THEN):
                contiguity = _THEN[self._step().text]
            elif self._token.kind == "name":
                contiguity = "strict"
            elif self._is("("):
                raise self._wrong("a stage", "a group that comes next is written `=> (…)`")
            else:
                raise self._wrong("a stage", "write `A B`, `A -> B`, `A ->> B`, `A !B`, `A !-> B`")
            made = self._element(made, contiguity, skip)
        return made

    def _element(self, before: Pattern | None, contiguity: str, skip: AfterMatchSkipStrategy | None) -> Pattern:
        at = self._token.at
        said: dict[str, Any] = {"contiguity": contiguity}
        if self._took("("):
            if contiguity in ("not_next", "not_follow"):
                raise self._error(at, "a group cannot be negated", "negate a stage")
            said["group"] = self._chain(None)
            self._need(")", "close the group")
        else:
            said["name"] = self._need_name("a stage")
            said["at"] = self._at(at)
            if said["name"] in self._names:
                raise self._error(
                    at, f"the name `{said['name']}` is taken", "give each stage a name of its own, in groups, too"
                )
            self._names[said["name"]] = at
            if self._took("="):
                said["where"] = col(self._type_field) == self._need_name("a type")
        while self._part(said):
            pass
        try:
            return rebuilt(before, said, skip)
        except TopologyError as error:
            raise self._error(at, _message(error), error.hint or "leave it out") from None

    def _once(self, said: dict[str, Any], what: str, value: Any, at: int) -> None:
        if what in said:
            words = {
                "times": "quantifier",
                "inner": "`consecutive` or `combinations`",
                "within_previous": "`within previous`",
            }
            raise self._error(at, f"a second {words.get(what, f'`{what}`')} of one stage", "leave one out")
        said[what] = value

    def _part(self, said: dict[str, Any]) -> bool:
        token = self._token
        word = token.word() if token.word() in _OF_STAGES else ""
        if self._took("+", "*"):
            self._once(said, "times", (1, 1, None), token.at)
            said["looping"] = True
            if token.text == "*":
                self._once(said, "optional", True, token.at)
        elif self._took("{"):
            self._quantifier(said, token.at)
        elif self._took("("):
            made = self._expression()
            self._need(")", "close the condition; a group that comes next is written `=> (…)`")
            old = said.get("where")
            said["where"] = made if old is None else ("and", old, made)
        elif word == "or":
            self._step()
            if "where" not in said or not self._is("("):
                raise self._error(token.at, "`or` joins two conditions", "write `A (x > 1) or (y > 1)`")
            self._step()
            said["where"] = ("or", said["where"], self._expression())
            self._need(")", "close the condition")
        elif self._took("["):
            self._once(said, "until", self._expression(), token.at)
            self._need("]", "close the stop condition")
        elif self._took("?"):
            self._once(said, "optional", True, token.at)
        elif word in ("optional", "consecutive", "combinations"):
            self._step()
            kind, value = {
                "optional": ("optional", True),
                "consecutive": ("inner", "strict"),
                "combinations": ("inner", "skip_till_any"),
            }[word]
            self._once(said, kind, value, token.at)
        elif word == "within":
            self._step()
            previous = self._token.word() == "previous"
            if previous:
                self._step()
            self._once(said, "within_previous" if previous else "within", self._span(), token.at)
        else:
            return False
        return True

    def _quantifier(self, said: dict[str, Any], at: int) -> None:
        low = high = self._whole()
        looping = False
        if self._took(","):
            looping = self._took("+")
            high = low if looping else self._whole()
        window = self._span() if self._took_word("within") else None
        self._need("}", "close the quantifier")
        if low == 0 and (looping or high > 0):  # may be absent
            low, high = 1, max(high, 1)
            self._once(said, "optional", True, at)
        self._once(said, "times", (low, high, window), at)
        if looping:
            said["looping"] = True
        if self._took("?"):
            said["greedy"] = True

    # Expressions.

    def _expression(self) -> Expr:
        made = self._and()
        while self._took_word("or"):
            made = joined("or", made, self._and())
        return made

    def _and(self) -> Expr:
        made = self._not()
        while self._took_word("and"):
            made = joined("and", made, self._not())
        return made

    def _not(self) -> Expr:
        return Expr("not", (self._not(),)) if self._took_word("not") else self._compare()

    def _compare(self) -> Expr:
        left = self._sum()
        token = self._token
        if self._took(*_COMPARES):
            if self._token.word() == "null" and self._after.text != "(":
                raise self._wrong("a value", "nothing equals null: write `x is null`")
            made = Expr(_COMPARES[token.text], (left, self._sum()))
        elif token.word() == "is":
            self._step()
            no = self._took_word("not")
            if not self._took_word("null"):
                raise self._wrong("`null`", "write `x is null` or `x is not null`")
            made = Expr("is_not_null" if no else "is_null", (left,))
        elif token.word() == "in" or (token.word() == "not" and self._after.word() == "in"):
            no = self._took_word("not")
            self._step()
            made = self._within(left)
            made = Expr("not", (made,)) if no else made
        else:
            if self._is("=>"):
                raise self._wrong("an operator", "write `>=`")
            return left
        if self._is(*_COMPARES):
            raise self._wrong("the end of a comparison", "join two comparisons by `and`: `a < b and b < c`")
        return made

    def _within(self, left: Expr) -> Expr:
        """A list, or a range: `[a:b)` is from a on, up to b and without it."""
        opening = self._token
        if not self._took("(", "["):
            raise self._wrong("a list or a range", "write `x in ('a', 'b')` or `x in [1:5)`")
        if opening.text == "(" and self._took(")"):
            return Expr("is_in", (left,))
        listed = [self._sum()]
        if self._took(":"):
            high = self._sum()
            closing = self._token
            if not self._took(")", "]"):
                raise self._wrong("`)` or `]`", "close the range: `]` with its end, `)` without it")
            low = Expr("ge" if opening.text == "[" else "gt", (left, listed[0]))
            return Expr("and", (low, Expr("le" if closing.text == "]" else "lt", (left, high))))
        while self._took(","):
            listed.append(self._sum())
        self._need("]" if opening.text == "[" else ")", "close the list; a range is `[low:high)`")
        if any(e.op != "lit" or e.value is None for e in listed):
            raise self._error(opening.at, "a list is of constants", "write `x = a or x = b`")
        return Expr("is_in", (left, *listed))

    def _sum(self) -> Expr:
        made = self._product()
        while self._is("+", "-"):
            sign, other = self._step().text, self._product()
            if sign == "+" and any(e.op == "lit" and isinstance(e.value, str) for e in (made, other)):
                flat = (made.args if made.op == "str_concat" else (made,), (other,))
                made = Expr("str_concat", (*flat[0], *flat[1]))
            else:
                made = Expr(_OP[sign], (made, other))
        return made

    def _product(self) -> Expr:
        made = self._signed()
        while self._is("*", "/", "//", "%"):
            made = Expr(_OP[self._step().text], (made, self._signed()))
        return made

    def _signed(self) -> Expr:
        if not self._took("-"):
            return self._atom()
        if self._token.kind in ("number", "span"):
            return self._constant("-")
        return Expr("neg", (self._signed(),))

    def _constant(self, sign: str = "") -> Expr:
        token = self._step()
        try:
            match token.kind:
                case "span":
                    ms = duration_ms(sign + token.text.lower(), "literal", negative=True)
                    return lit(timedelta(milliseconds=ms))
                case "number":
                    text = sign + token.text
                    return lit(int(text) if token.text.isdigit() else float(text))
            return lit(token.text)
        except (TopologyError, OverflowError) as error:
            message = _message(error) if isinstance(error, TopologyError) else str(error)
            raise self._error(token.at, message, "write a smaller one") from None

    def _atom(self) -> Expr:
        token = self._token
        if token.kind in ("number", "span", "text"):
            return self._constant()
        if self._took("("):
            made = self._expression()
            self._need(")", "close the parenthesis")
            return made
        if token.word() in ("true", "false"):
            self._step()
            return lit(token.word() == "true")
        calls = not token.quoted and self._after.kind == "sign" and self._after.text == "("
        if token.kind == "name" and calls and (token.word() not in _RESERVED or token.word() == "null"):
            self._step()
            self._step()
            made = self._call(token)
            self._need(")", f"close `{token.text}(…`")
            return made
        if self._took_word("null"):
            return lit(None)
        if self._token.kind != "name":
            raise self._wrong("a value", "write a field's name, a number, `'text'`, or a function of them")
        name = self._need_name("a value")
        if not self._took("."):
            return col(name)
        field = self._need_name("a field")
        return self._reached(name, field, token.at)

    def _reached(self, stage: str, field: str, at: int) -> Expr:
        from adstream.dsl.pattern import element, matched

        if self._taken is None:
            self._asked.append((stage, at))
            return matched(stage).first(field)
        if stage != self._taken:
            hint = f"here `{self._taken}.x` is the taken event's field and `x` that of the event at hand"
            raise self._error(at, f"what is asked of `{self._taken}` cannot look at `{stage}`, too", hint)
        return element(field)

    def _call(self, token: _Token) -> Expr:
        name, empty = token.word(), self._is(")")
        if name in LOOKS:
            return self._look(name)
        if name in _META and empty:
            return col(_META[name])
        if name == _PYTHON:
            raise self._error(
                token.at,
                f"the function {self._token.text} is Python: the text has its name only",
                "write the condition as an expression, or add it to the pattern by `.where(…)`",
            )
        if name in _SPECIAL:
            return self._special(name, token)
        if name not in _ARGUMENTS:
            near = nearest(name, (*_ARGUMENTS, *LOOKS, *_META, *_SPECIAL))
            hint = f"did you mean `{near}`?" if near else f"there are: {', '.join(sorted(_ARGUMENTS))}"
            raise self._error(token.at, f"there is no function `{token.text}`", hint)
        args = [] if empty else [self._expression()]
        while self._took(","):
            args.append(self._expression())
        low, high = _ARGUMENTS[name]
        if not low <= len(args) <= high or (name == "when" and len(args) % 2 == 0):
            how = "when(condition, value, …, otherwise)" if name == "when" else f"{name} takes {low}"
            raise self._error(token.at, f"`{name}` with {len(args)} values", how)
        return Expr(name, tuple(args))

    def _look(self, look: str) -> Expr:
        from adstream.dsl.pattern import element, matched

        at = self._token.at
        if self._taken is not None:
            raise self._error(at, f"`{look}` inside another look back", "ask one stage at a time")
        stage = self._need_name("a stage")
        self._asked.append((stage, at))
        if self._took(":"):
            self._taken = stage
            of: Expr | None = self._expression()
            self._taken = None
        elif self._took("."):
            of = element(self._need_name("a field"))
            if not self._is(")"):
                raise self._wrong("`)`", f"write what is more than a field as `{look}({stage}: {stage}.x * 2)`")
        elif look == "count":
            of = None
        else:
            raise self._wrong("`.` or `:`", f"write `{look}({stage}.field)` or `{look}({stage}: {stage}.x > 1)`")
        return matched(stage)._look(look, of)

    def _special(self, name: str, token: _Token) -> Expr:
        from adstream.dsl.typing_ import resolve

        args = [self._expression()]
        while self._took(","):
            args.append(self._expression())
        values = [e.value if e.op == "lit" else None for e in args]
        try:
            match name, values:
                case "round", [_]:
                    return args[0].round()
                case "round", [_, int(digits)]:
                    return args[0].round(digits)
                case "cast", [_, str(dtype)]:
                    return args[0].cast(dtype)
                case "str_slice", [_, int(offset)]:
                    return args[0].str.slice(offset)
                case "str_slice", [_, int(offset), int(length)]:
                    return args[0].str.slice(offset, length)
                case "dt_truncate", [_, timedelta() as every]:
                    return args[0].dt.truncate(every)
                case "decimal", [str(text)]:
                    return lit(Decimal(text))
                case "timestamp", [str(text)]:
                    return lit(datetime.fromisoformat(text))
                case "null", [str(dtype)]:
                    return lit(None, type=resolve(dtype, "null", operation="null").type)
        except TopologyError as error:
            raise self._error(token.at, _message(error), error.hint or "see docs/patterns.md") from None
        except (ValueError, InvalidOperation):
            raise self._error(token.at, f"no {name}: {values[0]!r}", "see docs/patterns.md") from None
        raise self._error(token.at, f"`{name}` of other values than it takes", _FORMS[name])


def _message(error: TopologyError) -> str:
    """Without code, hint and the place in the program: a place in the text is told instead."""
    text = str(error).partition("\nhint: ")[0].removesuffix(f" [{error.code}]")
    where = " ".join(part for part in (error.operation, f"at {error.line}" if error.line else None) if part)
    return text.removeprefix(f"{where}: ")


_FORMS: Mapping[str, str] = {
    "round": "write `round(x, 2)`",
    "cast": "write `cast(x, 'int')`",
    "str_slice": "write `str_slice(x, 0, 3)`",
    "dt_truncate": "write `dt_truncate(x, 5m)`",
    "decimal": "write `decimal('1.20')`",
    "timestamp": "write `timestamp('2030-01-01T00:00:00+00:00')` or `timestamp()`",
    "null": "write `null('int')`",
}
