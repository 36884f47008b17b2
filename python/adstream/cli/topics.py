"""`adstream topics check|create`, `adstream upgrade check`: what a job needs, held against what there is."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import typer

from adstream import Built
from adstream._core import Plan
from adstream.cli.jobs import platform_topics, prepare
from adstream.cli.logs import existing_log, named_log
from adstream.cli.options import Chosen, JobOptions, choose
from adstream.errors import ConfigError, ExitCode
from adstream.interfaces import TopicSpec
from adstream.runtime import discovery, manifest, partitioning, rules
from adstream.runtime.assignment import Assignment, enumerate_tasks, topic_kinds
from adstream.runtime.remade import check_topics
from adstream.runtime.topic_settings import remarks
from adstream.runtime.upgrade import Finding, compare

VERDICTS = ("refused", "partial", "extended", "same")


def check(job: str, options: JobOptions) -> None:
    """Partition counts, settings, and whether the topology fits what is stored."""
    if (platform := platform_topics(job)) is not None:
        return _check_platform(job, platform, choose(options))
    chosen, built = prepare(job, options)
    log = existing_log(chosen)
    try:
        built = discovery.found(built, log)
        description = _description(built)
        kinds = topic_kinds(description)
        found = log.partitions(list(kinds))
        if inputs := [topic for topic in built.inputs if topic not in found]:
            raise _no_input(inputs)
        before = manifest.stored(log, built.app) if manifest.topology_topic(built.app).name in found else None
        if before is not None:
            manifest.check(built.app, before, manifest.signature(description, found))
        check_topics(log, built.app, before, kinds, found)
        assignment = _assignment(description, chosen, found)
        said = remarks(kinds, built.plan, log.topic_settings(list(found)))
        rule = chosen.settings.partition_check
        samples = [] if rule == "off" else partitioning.sample(log, partitioning.keyed(description))
    finally:
        log.close()
    _show(assignment, found)
    missing = [spec.name for spec in assignment.topics if spec.name not in found]
    for remark in said:
        typer.echo(f"{'wrong' if remark.wrong else 'note'}: {remark}", err=True)
    astray = [sample for sample in samples if not sample.good]
    for sample in astray:
        typer.echo(f"{'wrong' if rule == 'error' else 'note'}: {sample}", err=True)
    if astray:
        typer.echo(f"hint: {partitioning.HINT}", err=True)
    if missing:
        typer.echo(f"\n{len(missing)} topics are missing: `adstream topics create {job}` makes them", err=True)
    if missing or (astray and rule == "error") or any(remark.wrong for remark in said):
        raise typer.Exit(ExitCode.WRONG)


def create(job: str, options: JobOptions, input_partitions: int, *, keep_all: bool = False) -> None:
    """`keep_all`: a platform's topics never delete anything."""
    if (platform := platform_topics(job)) is not None:
        return _create_platform(platform, choose(options), keep_all)
    if keep_all:
        hint = "a job's own topics keep what they need; set `retention.ms` of its inputs and outputs with your tools"
        raise ConfigError(f"`{job}` is not a platform with topics of its own", option="--keep-all", hint=hint)
    chosen, built = prepare(job, options)
    log = named_log(chosen)
    try:
        built = discovery.found(built, log)
        description = _description(built)
        before = log.partitions(list(topic_kinds(description)))
        missing = [topic for topic in built.inputs if topic not in before]
        if missing and not input_partitions:
            raise _no_input(missing)
        log.create_topics([TopicSpec(topic, input_partitions) for topic in missing])
        said = {found["topic"] for found in description["globals"] if found["rules"]} - before.keys()
        log.create_topics([TopicSpec(topic, 1, rules.SETTINGS) for topic in sorted(said)])
        assignment = _assignment(description, chosen, log.partitions(list(topic_kinds(description))))
        log.create_topics(assignment.topics)
        _show(assignment, before, missing="created")
    finally:
        log.close()


def _create_platform(platform: Sequence[Any], chosen: Chosen, keep_all: bool) -> None:
    """Makes the topics of a group of jobs that are missing; those that are there stay as they are."""
    log = named_log(chosen)
    try:
        before = log.partitions([topic.name for topic in platform])
        missing = [topic for topic in platform if topic.name not in before]
        kept = {"retention.ms": "-1"} if keep_all else {}
        log.create_topics([TopicSpec(topic.name, topic.partitions, topic.config | kept) for topic in missing])
        _show_platform(platform, log.partitions([topic.name for topic in platform]), missing, "created")
    finally:
        log.close()


def _check_platform(job: str, platform: Sequence[Any], chosen: Chosen) -> None:
    log = existing_log(chosen)
    try:
        found = log.partitions([topic.name for topic in platform])
        settings = log.topic_settings(list(found))
    finally:
        log.close()
    missing = [topic for topic in platform if topic.name not in found]
    _show_platform(platform, found, missing, "missing")
    wrong = False
    for topic in platform:
        if topic.name not in found:
            continue
        if found[topic.name] != topic.partitions:
            wrong = True
            typer.echo(f"wrong: `{topic.name}` has {found[topic.name]} partitions, not {topic.partitions}", err=True)
        for setting, value in topic.config.items():
            has = settings.get(topic.name, {}).get(setting, value)
            if has != value:
                typer.echo(f"note: `{topic.name}` has {setting}={has}; it is meant to have {value}", err=True)
    if missing:
        typer.echo(f"\n{len(missing)} topics are missing: `adstream topics create {job}` makes them", err=True)
    if missing or wrong:
        raise typer.Exit(ExitCode.WRONG)


def _show_platform(platform: Sequence[Any], found: Mapping[str, int], missing: Sequence[Any], absent: str) -> None:
    width = max(len(topic.name) for topic in platform)
    for topic in platform:
        partitions = found.get(topic.name, topic.partitions)
        state = absent if topic in missing else "there"
        typer.echo(f"{topic.name:<{width}}  {partitions:>4} partitions  {state}")


def _no_input(topics: Sequence[str]) -> ConfigError:
    names = ", ".join(f"`{topic}`" for topic in topics)
    hint = "`adstream topics create JOB --inputs PARTITIONS`"
    return ConfigError(f"there is no input topic {names}", option="topics", hint=hint)


def upgrade(job: str, options: JobOptions, *, as_json: bool) -> None:
    """What becomes of each part of the application that ran last; exit code 2 when it could not start."""
    chosen, built = prepare(job, options)
    app = built.app
    log = existing_log(chosen)
    try:
        built = discovery.found(built, log)
        description = _description(built)
        kinds = topic_kinds(description)
        found = log.partitions(list(kinds))
        before = manifest.stored(log, app) if manifest.topology_topic(app).name in found else None
        now = manifest.signature(description, found)
        findings: list[Finding] = []
        if before is not None:
            manifest.check_readable(app, before, now)
            where = [(topic, p) for topic, count in now["inputs"].items() for p in range(count)]
            read = {topic for (topic, _), at in log.committed(app, where).items() if at is not None}
            findings = compare(before, now, read)
        if not any(finding.verdict == "refused" for finding in findings):
            findings += _others(description, chosen, found, lambda: check_topics(log, app, before, kinds, found))
    finally:
        log.close()
    refused = any(finding.verdict == "refused" for finding in findings)
    if as_json:
        told = {"app": app, "ran": before is not None, "findings": [asdict(finding) for finding in findings]}
        typer.echo(json.dumps(told, ensure_ascii=False))
    else:
        ran = "as it ran last, and what becomes of it" if before is not None else "has not run here: nothing is stored"
        typer.echo(f"application `{app}` {ran}")
        for finding in sorted(findings, key=lambda f: VERDICTS.index(f.verdict)):
            typer.echo(f"  {finding.verdict:<8}  {finding.kind} `{finding.name}`")
            for line in (finding.text, finding.remedy and f"hint: {finding.remedy}"):
                if line:
                    typer.echo(f"            {line}")
        if refused:
            beside = f"or start beside the old one under another application id (`--app {app}-2`)"
            typer.echo(f"it would be refused; {beside}, or start over (`adstream reset {job}`)", err=True)
    if refused:
        raise typer.Exit(ExitCode.WRONG)


def _others(
    description: Mapping[str, Any], chosen: Chosen, found: Mapping[str, int], check: Callable[[], None]
) -> list[Finding]:
    """What a comparison does not show, and is refused all the same: topics that are missing, do not fit, or are not those that
    there were."""
    try:
        _assignment(description, chosen, found)
        check()
    except ConfigError as error:
        text = str(error).partition("\nhint: ")[0].removeprefix(f"{error.option}: ")
        return [Finding("topics", error.option, "refused", text, error.hint or "")]
    return []


def _description(built: Built) -> Mapping[str, Any]:
    description: Mapping[str, Any] = json.loads(Plan(built.json, built.callables).describe())
    return description


def _assignment(description: Mapping[str, Any], chosen: Chosen, found: Mapping[str, int]) -> Assignment:
    return enumerate_tasks(
        description,
        found,
        edge_partitions=chosen.settings.edge_partitions or None,
        create_topics=True,
        log_option=chosen.log_option,
    )


def _show(assignment: Assignment, found: Mapping[str, int], missing: str = "missing") -> None:
    rows = [(topic, assignment.partitions[topic]) for topic in assignment.user_sources]
    rows += [(spec.name, spec.partitions) for spec in assignment.topics]
    width = max(len(name) for name, _ in rows)
    for name, partitions in rows:
        state = "there" if name in found else missing
        typer.echo(f"{name:<{width}}  {partitions:>4} partitions  {state}")
