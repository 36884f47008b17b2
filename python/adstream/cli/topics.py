"""`adstream topics check|create`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import typer

from adstream import Built
from adstream._core import Plan
from adstream.cli.jobs import prepare
from adstream.cli.logs import open_log
from adstream.cli.options import JobOptions
from adstream.errors import ConfigError
from adstream.interfaces import TopicSpec
from adstream.runtime import manifest
from adstream.runtime.assignment import Assignment, enumerate_tasks, topic_kinds
from adstream.runtime.settings import Settings
from adstream.runtime.topic_settings import remarks

EXIT_WRONG = 2


def check(job: str, options: JobOptions) -> None:
    """Partition counts, settings, and whether the topology fits what is stored."""
    chosen, built = prepare(job, options)
    description = _description(built)
    kinds = topic_kinds(description)
    log = open_log(chosen.settings)
    try:
        found = log.partitions(list(kinds))
        inputs = [topic for topic in built.inputs if topic not in found]
        if inputs:
            names = ", ".join(f"`{topic}`" for topic in inputs)
            raise ConfigError(
                f"there is no input topic {names}",
                option="topics",
                hint="`adstream topics create JOB --inputs PARTITIONS`",
            )
        before = manifest.stored(log, built.app) if manifest.topology_topic(built.app).name in found else None
        if before is not None:
            manifest.check(built.app, before, manifest.signature(description, found))
        assignment = _assignment(description, chosen.settings, found)
        said = remarks(kinds, built.plan, log.topic_settings(list(found)))
    finally:
        log.close()
    _show(assignment, found)
    missing = [spec.name for spec in assignment.topics if spec.name not in found]
    for remark in said:
        typer.echo(f"{'wrong' if remark.wrong else 'note'}: {remark}", err=True)
    if missing:
        typer.echo(f"\n{len(missing)} topics are missing: `adstream topics create {job}` makes them", err=True)
    if missing or any(remark.wrong for remark in said):
        raise typer.Exit(EXIT_WRONG)


def create(job: str, options: JobOptions, input_partitions: int) -> None:
    chosen, built = prepare(job, options)
    description = _description(built)
    log = open_log(chosen.settings)
    try:
        before = log.partitions(list(topic_kinds(description)))
        if input_partitions:
            missing = [topic for topic in built.inputs if topic not in before]
            log.create_topics([TopicSpec(topic, input_partitions) for topic in missing])
        assignment = _assignment(description, chosen.settings, log.partitions(list(topic_kinds(description))))
        log.create_topics(assignment.topics)
        _show(assignment, before, missing="created")
    finally:
        log.close()


def _description(built: Built) -> Mapping[str, Any]:
    description: Mapping[str, Any] = json.loads(Plan(built.json, built.callables).describe())
    return description


def _assignment(description: Mapping[str, Any], settings: Settings, found: Mapping[str, int]) -> Assignment:
    return enumerate_tasks(description, found, edge_partitions=settings.edge_partitions or None, create_topics=True)


def _show(assignment: Assignment, found: Mapping[str, int], missing: str = "missing") -> None:
    rows = [(topic, assignment.partitions[topic]) for topic in assignment.user_sources]
    rows += [(spec.name, spec.partitions) for spec in assignment.topics]
    width = max(len(name) for name, _ in rows)
    for name, partitions in rows:
        state = "there" if name in found else missing
        typer.echo(f"{name:<{width}}  {partitions:>4} partitions  {state}")
