"""Message classes without `protoc`: made of descriptors."""

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, duration_pb2, message_factory, timestamp_pb2

_F = descriptor_pb2.FieldDescriptorProto


def _file(name: str, *, first: str | None, shared: str | None = None) -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(name=name, package="shop", syntax="proto3")
    file.dependency.extend(["google/protobuf/timestamp.proto", "google/protobuf/duration.proto"])
    if first is not None:
        file.message_type.add(name=first).field.add(name="id", number=1, type=_F.TYPE_STRING, label=_F.LABEL_OPTIONAL)
    if shared is not None:
        file.dependency.append(shared)
    return file


def _click(file: descriptor_pb2.FileDescriptorProto, *, region: bool) -> None:
    message = file.message_type.add(name="Click")
    plain = {"id": _F.TYPE_STRING, "n": _F.TYPE_INT64, "score": _F.TYPE_DOUBLE, "price": _F.TYPE_STRING}
    for number, (name, kind) in enumerate(plain.items(), 1):
        message.field.add(name=name, number=number, type=kind, label=_F.LABEL_OPTIONAL)
    times = {"at": ".google.protobuf.Timestamp", "took": ".google.protobuf.Duration"}
    for number, (name, kind) in enumerate(times.items(), 5):
        message.field.add(name=name, number=number, type=_F.TYPE_MESSAGE, type_name=kind, label=_F.LABEL_OPTIONAL)
    kind = message.enum_type.add(name="Kind")
    for number, label in enumerate(("WEB", "APP")):
        kind.value.add(name=label, number=number)
    message.field.add(name="kind", number=7, type=_F.TYPE_ENUM, type_name=".shop.Click.Kind", label=_F.LABEL_OPTIONAL)
    if region:
        message.field.add(name="region", number=8, type=_F.TYPE_STRING, label=_F.LABEL_OPTIONAL)
    inner = message.nested_type.add(name="Inner")
    inner.field.add(name="x", number=1, type=_F.TYPE_INT32, label=_F.LABEL_OPTIONAL)
    message.field.add(
        name="inner", number=9, type=_F.TYPE_MESSAGE, type_name=".shop.Click.Inner", label=_F.LABEL_OPTIONAL
    )


def _classes(file: descriptor_pb2.FileDescriptorProto, *names: str, before: Any = None) -> list[Any]:
    pool = descriptor_pool.DescriptorPool()
    for known in (timestamp_pb2, duration_pb2):
        pool.AddSerializedFile(known.DESCRIPTOR.serialized_pb)
    if before is not None:
        pool.Add(before)
    pool.Add(file)
    return [message_factory.GetMessageClass(pool.FindMessageTypeByName(f"shop.{name}")) for name in names]


_old = _file("click.proto", first="Other")
_click(_old, region=False)
OTHER, CLICK, INNER = _classes(_old, "Other", "Click", "Click.Inner")

_new = _file("click.proto", first=None)
_click(_new, region=True)
(CLICK_V2,) = _classes(_new, "Click")
"""With one more field, and at another place of its file."""

_shared = descriptor_pb2.FileDescriptorProto(name="money.proto", package="shop", syntax="proto3")
_shared.message_type.add(name="Money").field.add(name="units", number=1, type=_F.TYPE_INT64, label=_F.LABEL_OPTIONAL)
_bill = _file("bill.proto", first=None, shared="money.proto")
_bill.message_type.add(name="Bill").field.add(
    name="total", number=1, type=_F.TYPE_MESSAGE, type_name=".shop.Money", label=_F.LABEL_OPTIONAL
)
(BILL,) = _classes(_bill, "Bill", before=_shared)
