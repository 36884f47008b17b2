"""What a topic's records hold: fields with types, taken from a class.

    class AdEvent(ads.Record):
        event_id: str = ads.content_id()                         absent: xxh3-128 of the payload, in hex
        event_type: Literal["IMPRESSION", "CLICK"]               anything else is a dead letter
        timestamp: datetime                                      RFC 3339; Annotated[datetime,
            ads.epoch("ms")]
        price: Annotated[Decimal, ads.decimal(10, 2)] | None     absent or null: null
        genre: str | None = ads.field(path="data.genre")         inside another object

A field that is not `| None` is required: a record without it, or with a value that has not its type, is a
dead letter (`missing_field:<name>`, `bad_field:<name>`). The same can be said by a `pyarrow.Schema`, a
dataclass, a pydantic model or a msgspec Struct; they are recognised by their shape, so none of these
libraries is imported here.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, dataclass_transform, get_type_hints

from adstream.dsl.faults import fault, user_frame
from adstream.dsl.typing_ import Resolved, TimeFormat, check_text, resolve

CONTENT_ID = "content_id"


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a record."""

    name: str
    type: str
    nullable: bool
    path: tuple[str, ...]
    time: TimeFormat | None = None
    default: str | None = None

    def to_plan(self) -> dict[str, Any]:
        node: dict[str, Any] = {
            "name": self.name,
            "type": self.type,
            "nullable": self.nullable,
            "path": list(self.path),
        }
        if self.time is not None:
            node["unit"] = self.time.unit
            if self.time.zone is not None:
                node["zone"] = self.time.zone
        if self.default is not None:
            node["default"] = self.default
        return node


@dataclass(frozen=True, slots=True)
class Schema:
    """The fields of a topic's records, in order."""

    name: str
    fields: tuple[Field, ...]

    @property
    def types(self) -> dict[str, str]:
        return {field.name: field.type for field in self.fields}


@dataclass(frozen=True, slots=True)
class FieldOptions:
    """What `field()` and `content_id()` say about a field."""

    path: str | None = None
    default: str | None = None


def field(*, path: str) -> Any:
    """A field that lies elsewhere in the JSON: `genre: str | None = ads.field(path="data.genre")`."""
    if not isinstance(path, str) or not all(path.split(".")):
        raise fault("bad_path", f"not a path: {path!r}", operation="field", hint='write keys with dots: "data.genre"')
    return FieldOptions(path=path)


def content_id() -> Any:
    """Where the field is absent: xxh3-128 of the payload's bytes, in hex; equal payloads, equal ids."""
    return FieldOptions(default=CONTENT_ID)


@dataclass_transform(kw_only_default=True, field_specifiers=(field, content_id))
class Record:
    """Base of classes that say what a topic holds; see the head of this module.

    Keys that no field names are not looked at, and not carried on.

    Args:
        rename: how the JSON spells the fields' names: `camel` for `eventType`; by default as they are.

    Raises:
        TopologyError: `unknown_type`, `decimal_without_scale`, `bad_option` and others, at the class.
    """

    __adstream_schema__: ClassVar[Schema]

    def __init_subclass__(cls, *, rename: str | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        base: Schema | None = getattr(cls, "__adstream_schema__", None)
        if rename not in (None, "camel"):
            raise fault("bad_option", f"rename={rename!r}", operation=cls.__name__, hint='write rename="camel"')
        known = {f.name: f for f in base.fields} if base else {}
        known |= {f.name: f for f in _class_fields(cls, rename, own=True)}
        cls.__adstream_schema__ = Schema(cls.__name__, _checked(cls.__name__, tuple(known.values())))

    def __init__(self, **values: Any) -> None:
        fields = self.__adstream_schema__.fields
        unknown = values.keys() - {f.name for f in fields}
        missing = [f.name for f in fields if f.name not in values and not f.nullable and f.default is None]
        if unknown or missing:
            wrong = [f"unexpected {sorted(unknown)}"] if unknown else []
            wrong += [f"missing {missing}"] if missing else []
            raise TypeError(f"{type(self).__name__}: {', '.join(wrong)}")
        for f in fields:
            setattr(self, f.name, values.get(f.name))

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and vars(other) == vars(self)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in vars(self).items())})"


def schema_of(source: object, *, operation: str) -> Schema:
    """The schema that a class or a `pyarrow.Schema` describes.

    Raises:
        TopologyError: `not_a_schema`, or what is wrong with a field.
    """
    if isinstance(source, Schema):
        return source
    if isinstance(source, type):
        declared: Schema | None = getattr(source, "__adstream_schema__", None)
        if declared is not None:
            return declared
        if dataclasses.is_dataclass(source):
            return _of_class(source, {}, operation)
        if isinstance(getattr(source, "model_fields", None), dict):
            return _of_class(source, _pydantic_names(source), operation)
        if hasattr(source, "__struct_fields__"):
            encoded = zip(source.__struct_fields__, source.__struct_encode_fields__, strict=True)  # type: ignore[attr-defined]
            return _of_class(source, dict(encoded), operation)
    elif type(source).__module__.split(".")[0] == "pyarrow" and type(source).__name__ == "Schema":
        return _of_arrow(source, operation)
    raise fault(
        "not_a_schema",
        f"{source!r} does not describe a record",
        operation=operation,
        hint="write a class: `class Event(ads.Record): …`",
    )


def _of_class(cls: type, names: Mapping[str, str], operation: str) -> Schema:
    fields = _class_fields(cls, None, own=False, names=names, operation=operation)
    return Schema(cls.__name__, _checked(cls.__name__, fields))


def _class_fields(
    cls: type,
    rename: str | None,
    *,
    own: bool,
    names: Mapping[str, str] | None = None,
    operation: str | None = None,
) -> tuple[Field, ...]:
    # Classes are often written inside functions, where only the frame knows the names that annotations use.
    frame = user_frame() if own else None
    try:
        hints = get_type_hints(cls, localns=dict(frame.f_locals) if frame else None, include_extras=True)
    except NameError as error:
        raise fault(
            "unknown_type",
            f"an annotation of `{cls.__name__}` names nothing: {error}",
            operation=operation or cls.__name__,
            hint="import it or define it before the class",
        ) from None
    chosen = inspect.get_annotations(cls) if own else hints
    fields = []
    for name in chosen:
        hint = hints[name]
        if name.startswith("__") or getattr(hint, "__origin__", None) is ClassVar or hint is ClassVar:
            continue
        resolved = resolve(hint, f"{cls.__name__}.{name}", operation=operation or cls.__name__)
        fields.append(_field(cls, name, resolved, rename, names or {}))
        if own and isinstance(cls.__dict__.get(name), FieldOptions):
            delattr(cls, name)
    return tuple(fields)


def _field(cls: type, name: str, resolved: Resolved, rename: str | None, names: Mapping[str, str]) -> Field:
    options = [m for m in resolved.metadata if isinstance(m, FieldOptions)]
    given = cls.__dict__.get(name)
    if isinstance(given, FieldOptions):
        options.append(given)
    elif issubclass(cls, Record) and given is not None:
        raise fault(
            "bad_default",
            f"`{cls.__name__}.{name}` = {given!r}: defaults are not filled in",
            operation=cls.__name__,
            hint="write `| None`, and `.fill_null(…)` where a value is needed",
        )
    path: tuple[str, ...] = (names.get(name) or (_camel(name) if rename == "camel" else name),)
    default = None
    for option in options:
        path = tuple(option.path.split(".")) if option.path else path
        default = option.default or default
    if default == CONTENT_ID and resolved.type != "str":
        raise fault(
            "bad_default",
            f"`{cls.__name__}.{name}`: a content id is text, not {resolved.type}",
            operation=cls.__name__,
            hint=f"write `{name}: str = ads.content_id()`",
        )
    return Field(name, resolved.type, resolved.nullable, path, resolved.time, default)


def _checked(name: str, fields: tuple[Field, ...]) -> tuple[Field, ...]:
    if not fields:
        raise fault("empty_schema", f"`{name}` has no fields", operation=name, hint="annotate at least one")
    return fields


def _camel(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(part.capitalize() for part in rest)


def _pydantic_names(model: Any) -> dict[str, str]:
    names = {}
    for name, info in model.model_fields.items():
        alias = getattr(info, "validation_alias", None) or getattr(info, "alias", None)
        if isinstance(alias, str):
            names[name] = alias
    return names


_ARROW = {
    "bool": "bool",
    **dict.fromkeys(("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32"), "int"),
    **dict.fromkeys(("halffloat", "float", "double"), "float"),
    **dict.fromkeys(("string", "large_string", "string_view"), "str"),
    **dict.fromkeys(("duration[s]", "duration[ms]"), "duration"),
}
_ARROW_DECIMAL = re.compile(r"decimal(?:32|64|128)\(([0-9]+), ([0-9]+)\)")
_ARROW_TIME = re.compile(r"timestamp\[(?:s|ms|us|ns)(, tz=[^\]]+)?\]")
_ARROW_DICTIONARY = re.compile(r"dictionary<values=(?:large_)?string, .*>")


def _of_arrow(source: Any, operation: str) -> Schema:
    fields = []
    for arrow in source:
        text = str(arrow.type)
        dtype = _ARROW.get(text)
        time = None
        if match := _ARROW_DECIMAL.fullmatch(text):
            dtype = check_text(f"decimal({match[1]},{match[2]})", arrow.name, operation=operation)
        elif match := _ARROW_TIME.fullmatch(text):
            if match[1] is None:
                raise fault(
                    "naive_datetime",
                    f"`{arrow.name}` has no time zone: {text}",
                    operation=operation,
                    hint='write `pa.timestamp("ms", tz="UTC")`',
                )
            dtype, time = "timestamp", TimeFormat("rfc3339")
        elif _ARROW_DICTIONARY.fullmatch(text):
            dtype = "str"
        if dtype is None:
            raise fault(
                "unknown_type",
                f"`{arrow.name}` has a type that adstream does not know: {text}",
                operation=operation,
                hint="use bool, integers, floats, strings, decimal128, timestamps with a zone, durations in ms",
            )
        fields.append(Field(arrow.name, dtype, bool(arrow.nullable), (arrow.name,), time))
    return Schema("pyarrow.Schema", _checked("pyarrow.Schema", tuple(fields)))


def row_of(value: object, names: tuple[str, ...]) -> dict[str, Any]:
    """What a function returned (a dict, or an object with attributes), as a dict of exactly these names."""
    if isinstance(value, Mapping):
        return {name: value.get(name) for name in names}
    return {name: getattr(value, name) for name in names}
