"""`adstream version`. Imports next to nothing: this is what people time."""

from __future__ import annotations

import os
import sys

import adstream
from adstream import _core


def versions() -> str:
    python = ".".join(map(str, sys.version_info[:3]))
    lines = {"adstream": adstream.__version__, "core": _core.__version__, "librdkafka": _librdkafka(), "python": python}
    return "\n".join(f"{name:<10}  {version}" for name, version in lines.items())


def _librdkafka() -> str:
    """Asks the library inside the confluent-kafka wheel, without importing that package (a tenth of a second)."""
    import ctypes

    for folder in sys.path:
        libraries = os.path.join(folder, "confluent_kafka.libs")
        if not os.path.isdir(libraries):
            continue
        for name in sorted(os.listdir(libraries)):
            if name.startswith("librdkafka"):
                version = ctypes.CDLL(os.path.join(libraries, name)).rd_kafka_version_str
                version.restype = ctypes.c_char_p
                return bytes(version()).decode()
    try:
        import confluent_kafka
    except ImportError:
        return "none"
    return str(confluent_kafka.libversion()[0])
