"""Finds a job: `ads.performance` is `adstream.jobs.ads.performance:performance`; anything else `module:attribute`."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import pkgutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import adstream.jobs
from adstream import Built, ConfigError, Topology
from adstream.cli.options import Chosen, JobOptions, choose

_PREFIX = "adstream.jobs."


def find(name: str) -> Topology:
    """Raises ConfigError, with the nearest name there is."""
    if ":" in name:
        module, _, attribute = name.partition(":")
        if "" not in sys.path:
            sys.path.insert(0, "")  # as `python -m` does: jobs lie in the directory one stands in
        return _attribute(_module(module), attribute)
    if (platform := platform_jobs(name)) is not None:
        jobs = ", ".join(f"`{job.name}`" for job in platform[0])
        raise ConfigError(f"`{name}` is several jobs", option="JOB", hint=f"one of {jobs}")
    if not _exists(_PREFIX + name):
        known = sorted(_known())
        raise ConfigError(
            f"there is no job `{name}`",
            option="JOB",
            hint=f"{_near(name, known, 'there are')} Your own: `module:attribute`",
        )
    return _attribute(importlib.import_module(_PREFIX + name), name.rpartition(".")[2])


def platform_topics(name: str) -> Sequence[Any] | None:
    """The topics of a group of jobs (`ads`), each with `name`, `partitions` and `config`; None if it is no such group."""
    module = f"{_PREFIX}{name}.topics"
    if ":" in name or not _exists(module):
        return None
    topics: Sequence[Any] = importlib.import_module(module).TOPICS
    return topics


def platform_jobs(name: str) -> tuple[Sequence[Any], Mapping[str, str]] | None:
    """The jobs of a group (`ads`), each with `name`, `workers` and `settings`, and which connection stands in for which; None if
    it is no such group."""
    module = f"{_PREFIX}{name}.platform"
    if ":" in name or not _exists(module):
        return None
    found = importlib.import_module(module)
    return found.JOBS, found.CONNECTIONS


def prepare(name: str, options: JobOptions) -> tuple[Chosen, Built]:
    """What was chosen, and the job built with it: `--set` is converted by its annotations, `--app` renames it."""
    chosen = choose(options)
    topology = find(name)
    if app := chosen.settings.app:
        topology = Topology(topology.fn, app, topology.chosen)
    return chosen, topology.build(**topology.parse([f"{name}={text}" for name, text in chosen.job.items()]))


def _module(name: str) -> Any:
    if not _exists(name):
        raise ConfigError(f"there is no module `{name}`", option="JOB", hint="write `module:attribute`")
    return importlib.import_module(name)


def _exists(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):  # a parent is missing; an empty part
        return False


def _attribute(module: Any, name: str) -> Topology:
    found = vars(module).get(name)
    if isinstance(found, Topology):
        return found
    what = "has no attribute" if found is None else "has something else than a topology as"
    known = [key for key, value in vars(module).items() if isinstance(value, Topology)]
    hint = _near(name, known, "it has") if known else "a job is a function under `@ads.topology`"
    raise ConfigError(f"`{module.__name__}` {what} `{name}`", option="JOB", hint=hint)


def _near(name: str, known: list[str], otherwise: str) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean `{near[0]}`?" if near else f"{otherwise} {', '.join(f'`{k}`' for k in known)}."


def _known() -> Iterator[str]:
    """Modules of `adstream.jobs` with a topology of their own name."""
    for found in pkgutil.walk_packages(adstream.jobs.__path__, _PREFIX):
        name = found.name.removeprefix(_PREFIX)
        module = importlib.import_module(found.name)
        if isinstance(vars(module).get(name.rpartition(".")[2]), Topology):
            yield name
