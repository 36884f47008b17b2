"""`adstream describe`: the topology as it will run, without any server."""

from __future__ import annotations

import json

from adstream._core import Plan
from adstream.cli.jobs import prepare
from adstream.cli.options import JobOptions


def describe(job: str, options: JobOptions, *, as_json: bool) -> None:
    _, built = prepare(job, options)
    plan = json.loads(Plan(built.json, built.callables).describe())
    if as_json:
        about = {node.id: {"rung": node.rung, "about": node.about} for node in built.nodes}
        for sub in plan["subtopologies"]:
            for node in sub["nodes"]:
                node.update(about.get(node["id"], {}))
        settings = {name: _plain(value) for name, value in built.settings.items()}
        print(json.dumps({"settings": settings, **plan}, ensure_ascii=False, indent=2))
        return
    print(built.describe())
    if built.settings:
        print("settings " + ", ".join(f"{name}={value}" for name, value in built.settings.items()))
    for sub in plan["subtopologies"]:
        print(f"\nsub-topology {sub['id']}{', with state' if sub['stateful'] else ''}")
        for source in sub["sources"]:
            print(f"  <- {source['topic']}  ({_KINDS.get(source['kind'], source['kind'])})")
        print(f"     {' → '.join(node['name'] for node in sub['nodes'])}")
        for output in sub["outputs"]:
            print(f"  -> {output['topic']}  ({_KINDS.get(output['kind'], output['kind'])})")
    for sink in plan["sinks"]:
        options_ = ", ".join(f"{name}={value}" for name, value in sink["options"].items())
        print(f"\nsink {sink['name']}  {sink['kind']} ({options_})\n  <- {sink['topic']}")
        print(f"     key {', '.join(sink['key'])}")


def _plain(value: object) -> object:
    return value if isinstance(value, bool | int | float | str | None) else str(value)


_KINDS = {
    "user": "yours",
    "edge": "internal: a shuffle",
    "sink": "internal: rows for a sink",
    "changelog": "internal: its state",
    "dead_letters": "dead letters",
}
