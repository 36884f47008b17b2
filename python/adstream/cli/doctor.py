"""`adstream doctor`: why does nothing come out? (`runtime/doctor.py`)"""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from typing import cast

import typer
from prometheus_client.parser import text_string_to_metric_families

from adstream._core import Plan
from adstream.cli.jobs import prepare
from adstream.cli.logs import existing_log
from adstream.cli.options import JobOptions
from adstream.errors import ConfigError, ExitCode
from adstream.interfaces import Administered
from adstream.runtime import discovery
from adstream.runtime.doctor import Finding, Measured, examine, examine_worker

TIMEOUT_S = 10


def show(job: str, options: JobOptions, metrics: Sequence[str], seconds: float, *, as_json: bool) -> None:
    """Raises ConfigError, LogUnavailableError."""
    chosen, built = prepare(job, options)
    if not chosen.log_named and not metrics:
        raise ConfigError("which log?", option="--log", hint="give --bootstrap HOST:PORT, or --metrics HOST:PORT")
    found: list[Finding] = []
    for worker in metrics:
        found += _ask(worker)
    if chosen.log_named:
        log = cast(Administered, existing_log(chosen))
        try:
            built = discovery.found(built, log)
            description = json.loads(Plan(built.json, built.callables).describe())
            found += examine(log, description, built.plan, lambda: time.sleep(seconds), log_option=chosen.log_option)
        finally:
            log.close()
    found.sort(key=lambda finding: finding.level != "wrong")
    for finding in found:
        if as_json:
            told = {"level": finding.level, "text": finding.text, "remedy": finding.remedy}
            typer.echo(json.dumps(told, ensure_ascii=False))
            continue
        typer.echo(f"{finding.level}: {finding.text}")
        if finding.remedy:
            typer.echo(f"  hint: {finding.remedy}")
    if not found and not as_json:
        more = "" if metrics else "; what its workers know, `--metrics HOST:PORT` asks"
        typer.echo(f"`{built.app}`: nothing found that would hold it up{more}")
    if any(finding.level == "wrong" for finding in found):
        raise typer.Exit(ExitCode.WRONG)


def _ask(worker: str) -> list[Finding]:
    base = (worker if "://" in worker else f"http://{worker}").rstrip("/").removesuffix("/metrics")
    try:
        text = _get(f"{base}/metrics")
        readiness = _get(f"{base}/readyz")
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        return [Finding("wrong", f"worker {worker} does not answer: {reason}", "is it running, with --metrics-port?")]
    samples = [
        Measured(sample.name, sample.labels, sample.value)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    ]
    return examine_worker(f"worker {worker}", samples, readiness)


def _get(url: str) -> str:
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as response:
            return str(response.read().decode())
    except urllib.error.HTTPError as error:
        with error:
            return error.read().decode()
