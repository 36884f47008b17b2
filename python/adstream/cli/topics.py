"""`adstream topics check|create`."""

from __future__ import annotations

import json

import typer

from adstream import Built
from adstream._core import Plan
from adstream.cli.jobs import prepare
from adstream.cli.logs import open_log
from adstream.cli.options import JobOptions
from adstream.errors import ConfigError
from adstream.interfaces import Log, TopicSpec
from adstream.runtime.assignment import Assignment, enumerate_tasks
from adstream.runtime.settings import Settings

EXIT_MISSING = 2


def check(job: str, options: JobOptions) -> None:
    chosen, built = prepare(job, options)
    log = open_log(chosen.settings)
    try:
        found = log.partitions([*_topics(built), f"{built.app}-tasks"])
        inputs = [topic for topic in _inputs(built) if topic not in found]
        if inputs:
            names = ", ".join(f"`{topic}`" for topic in inputs)
            raise ConfigError(
                f"there is no input topic {names}",
                option="topics",
                hint="`adstream topics create JOB --inputs PARTITIONS`",
            )
        assignment = _assignment(built, chosen.settings, log)
        _show(built, assignment, found)
        missing = [spec.name for spec in assignment.topics if spec.name not in found]
    finally:
        log.close()
    if missing:
        typer.echo(f"\n{len(missing)} topics are missing: `adstream topics create {job}` makes them", err=True)
        raise typer.Exit(EXIT_MISSING)


def create(job: str, options: JobOptions, input_partitions: int) -> None:
    chosen, built = prepare(job, options)
    log = open_log(chosen.settings)
    try:
        before = log.partitions([*_topics(built), f"{built.app}-tasks"])
        if input_partitions:
            missing = [topic for topic in _inputs(built) if topic not in before]
            log.create_topics([TopicSpec(topic, input_partitions) for topic in missing])
        assignment = _assignment(built, chosen.settings, log)
        log.create_topics(assignment.topics)
        _show(built, assignment, before, missing="created")
    finally:
        log.close()


def _assignment(built: Built, settings: Settings, log: Log) -> Assignment:
    description = json.loads(Plan(built.json, built.callables).describe())
    found = log.partitions([*_topics(built), f"{built.app}-tasks"])
    return enumerate_tasks(description, found, edge_partitions=settings.edge_partitions or None, create_topics=True)


def _topics(built: Built) -> list[str]:
    topics: list[str] = json.loads(Plan(built.json, built.callables).describe())["topics"]
    return topics


def _inputs(built: Built) -> list[str]:
    return [node["topic"] for node in built.plan["nodes"] if node["op"] == "source"]


def _show(built: Built, assignment: Assignment, found: dict[str, int], missing: str = "missing") -> None:
    rows = [(topic, assignment.partitions[topic], "input") for topic in assignment.user_sources]
    rows += [(spec.name, spec.partitions, "needed") for spec in assignment.topics]
    width = max(len(name) for name, _, _ in rows)
    for name, partitions, _ in rows:
        state = "there" if name in found else missing
        typer.echo(f"{name:<{width}}  {partitions:>4} partitions  {state}")
