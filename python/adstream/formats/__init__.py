"""Formats whose code comes from elsewhere: Avro, Protobuf, JSON Schema with a schema registry, Arrow.

A *codec* is an object that the core calls like any function of a user: a writer makes bytes of a value, a reader a value of
bytes. It is made when the topology is built and learns where it stands by `bound(topics, field)`; before a run it is handed a
registry by `connect`. Its libraries are extras of the package, imported when it is made.

    registry.py    the registry: Confluent's own client, its errors as ours
    codec.py       what codecs share: the wire format (a zero, the schema's id in four bytes), subjects, ids and their cache
    avro.py, protobuf.py, json_schema.py, arrow.py
    rows.py        a codec for streams of rows: payloads to JSON for the declared fields, and back
"""
