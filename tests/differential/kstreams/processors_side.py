"""Processors and the Processor API's own topology, of the cases' language on adstream."""

from collections.abc import Callable
from typing import Any, Literal

import adstream as ads
from tests.differential.kstreams.functions import fn, plain
from tests.differential.kstreams.scripts import Script, store

Json = Any


def some(failed: ads.ErrorHandlerContext) -> Literal["continue", "fail"]:
    """As `Handlers.java`."""
    mine = failed.topic is not None and failed.topic.startswith("in")
    return "continue" if mine and failed.offset is not None and failed.offset % 2 == 0 else "fail"


class Processors:
    """Nodes of a builder (`adstream_side.py`)."""

    app: ads.App
    case: Json
    seen: list[Json]
    caching: bool
    serdes: Callable[[Json], dict[str, Any]]
    partitioner: Callable[[Json], Callable[..., Any] | None]

    def begin(self) -> None:
        """What a case declares beside its nodes."""
        options = self.case.get("options", {})
        said: dict[str, Any] = {stage: options.get(stage, "fail") for stage in ("processing", "deserialization")}
        handlers = {"some": some, "told": self.told}
        self.app.on_error(**{stage: handlers.get(word, word) for stage, word in said.items()})
        for spec in self.case.get("stores", ()):
            self.app.add_state_store(store(spec))

    def told(self, failed: ads.ErrorHandlerContext) -> Literal["continue"]:
        """As `Handlers.java`."""
        mine = failed.topic is not None and failed.topic.startswith("in")
        place = f"{failed.topic}/{failed.partition}/{failed.offset}" if mine else failed.topic and "internal"
        told = [place, failed.timestamp, *(name for name, _ in failed.headers)]
        told += [failed.source_raw_key, failed.source_raw_value] if mine and not self.caching else [None, None]
        key = None
        if failed.record is not None:
            key = failed.record.key
            told += [failed.record.value, failed.record.timestamp, *(name for name, _ in failed.record.headers)]
        self.seen.append(["handler", plain(key), plain(told)])
        return "continue"

    def script(self, node: Json, *, fixed: bool = False) -> Callable[[], Script]:
        def see(key: Any, value: Any) -> None:
            self.seen.append([node["id"], plain(key), plain(value)])

        return lambda: Script(node["script"], see, fixed)

    def _process(self, node: Json, on: Any) -> Any:
        return on.process(self.script(node), *(node.get("stores") or ()), name=node.get("name"))

    def _process_values(self, node: Json, on: Any) -> Any:
        return on.process_values(self.script(node, fixed=True), *(node.get("stores") or ()))

    def _add_source(self, node: Json) -> None:
        self.app.add_source(node["id"], *node["topics"], **self.serdes(node))

    def _add_processor(self, node: Json, *_: Any) -> None:
        self.app.add_processor(node["id"], self.script(node), *node["in"])

    def _add_sink(self, node: Json, *_: Any) -> None:
        topic: Any = node.get("topic")
        topics: list[str] = []
        if topic is None:
            f = fn(node["topic_fn"])
            topics = [name for name, said in self.case["topics"].items() if said.get("out")]
            topic = lambda key, value: f(key, value)  # noqa: E731
        partitioner = self.partitioner(node)
        self.app.add_sink(node["id"], topic, *node["in"], topics=topics, partitioner=partitioner, **self.serdes(node))

    def _add_store(self, node: Json, *_: Any) -> None:
        self.app.add_state_store(store(node["store"]), *node["in"])

    def _add_connection(self, node: Json, *_: Any) -> None:
        self.app.connect_processor_and_state_stores(node["in"][0], *node["stores"])

    def _add_read_only_store(self, node: Json) -> None:
        self.app.add_read_only_state_store(
            store(node["store"]), node["topic"], self.script(node), name=node["id"], **self.serdes(node)
        )

    def _add_global_store(self, node: Json) -> None:
        self.app.add_global_store(
            store(node["store"]), node["topic"], self.script(node), name=node["id"], **self.serdes(node)
        )
