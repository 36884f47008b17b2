"""Names, arguments and texts of every command; what they do is imported when they are called."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from adstream.cli.failing import exit_code, tell
from adstream.cli.options import JobOptions, LogOptions, ReplayOptions, ResetOptions, RunOptions, takes
from adstream.errors import ConfigError


class Commands(TyperGroup):
    """Turns our errors into one message and an exit code. Any other exception is a defect and keeps its traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except Exception as error:
            code = exit_code(error)
            if code is None:
                raise
            tell(error)
        raise typer.Exit(code)


def _group(help: str) -> typer.Typer:
    return typer.Typer(help=help, no_args_is_help=True)


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Kafka Streams and Flink CEP semantics for Python, with a Rust core.",
    epilog="Every option of `run` is also an environment variable, ADSTREAM_COMMIT_INTERVAL=200ms, and a TOML key.",
)
topics = _group("The topics of a job: what it needs, and whether it is there.")
upgrade = _group("A job that changed, before it is started.")
generate = _group("Makes traffic, and writes the truth about it beside it.")
dlq = _group("Dead letters: records that could not be processed.")
rules = _group("Rules: patterns that a job looks for, said while it runs.")
app.add_typer(topics, name="topics")
app.add_typer(upgrade, name="upgrade")
app.add_typer(generate, name="generate")
app.add_typer(dlq, name="dlq")
app.add_typer(rules, name="rules")
ads = _group("The ads platform.")
parked = _group("Refunds whose charge has not come.")
app.add_typer(ads, name="ads")
ads.add_typer(parked, name="parked")

Job = Annotated[str, typer.Argument(metavar="JOB", help="ads.performance, or module:attribute.", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="As JSON.")]
Seed = Annotated[int, typer.Option("--seed", help="The same seed gives the same events.")]


@app.command()
@takes(RunOptions)
def run(job: Job, *, options: RunOptions) -> None:
    """Runs a job until it is stopped: SIGTERM and Ctrl-C drain it (exit code 5 if that timed out), a second Ctrl-C ends it
    at once."""
    from adstream.cli import running

    running.start(job, options)


@app.command()
@takes(ReplayOptions)
def replay(job: Job, *, options: ReplayOptions) -> None:
    """Runs a job to the end of its inputs, with progress bars, and stops (`run --stop-at-end`)."""
    from adstream.cli import running

    options.stop_at_end = True
    running.start(job, options, bars=True)


@app.command()
def query(
    store: Annotated[str, typer.Argument(metavar="STORE", help="The store's name.", show_default=False)],
    at: Annotated[
        list[str],
        typer.Option("--at", help="A worker's metrics address, host:port; any one. Several: each for its own part."),
    ],
    key: Annotated[str | None, typer.Option("--key", help="One key.")] = None,
    kind: Annotated[str, typer.Option("--type", help="What keys are: text, int, float or json.")] = "text",
    from_key: Annotated[str | None, typer.Option("--from-key", help="The first key of a range.")] = None,
    to_key: Annotated[str | None, typer.Option("--to-key", help="The last key of a range.")] = None,
    prefix: Annotated[str | None, typer.Option("--prefix", help="What keys begin with.")] = None,
    start: Annotated[str | None, typer.Option("--from", help="Windows from this start on, ms.")] = None,
    end: Annotated[str | None, typer.Option("--to", help="Windows up to this start, ms.")] = None,
    when: Annotated[str | None, typer.Option("--as-of", help="The version of that time, ms.")] = None,
    reverse: Annotated[bool, typer.Option("--reverse", help="Backwards.")] = False,
    limit: Annotated[int, typer.Option("--limit", help="The most entries.")] = 1000,
) -> None:
    """Reads a store of a running job from any of its workers: committed entries, one line of JSON each."""
    from adstream.cli import asking

    asked = {"key": key, "type": kind, "from_key": from_key, "to_key": to_key, "prefix": prefix, "from": start}
    asked |= {"to": end, "at": when, "reverse": "1" if reverse else None}
    asking.show(store, at, asked, limit)


@app.command()
@takes(JobOptions)
def doctor(
    job: Job,
    metrics: Annotated[
        list[str] | None, typer.Option("--metrics", metavar="HOST:PORT", help="Asks this worker, too; repeat it.")
    ] = None,
    seconds: Annotated[float, typer.Option("--seconds", min=0, help="Between the two looks at the log.")] = 2.0,
    json: AsJson = False,
    *,
    options: JobOptions,
) -> None:
    """Why does nothing come out? Looks at topics, positions, transactions and workers; exit code 2 when something is wrong."""
    from adstream.cli import doctor as command

    command.show(job, options, metrics or (), seconds, as_json=json)


@app.command()
@takes(JobOptions)
def pause(job: Job, *, options: JobOptions) -> None:
    """Pauses a job: all its workers, and those that start later, keep their tasks and process nothing."""
    from adstream.cli import pausing

    pausing.say(job, options, paused=True)


@app.command()
@takes(JobOptions)
def resume(job: Job, *, options: JobOptions) -> None:
    """Lets a paused job go on."""
    from adstream.cli import pausing

    pausing.say(job, options, paused=False)


@app.command()
@takes(ResetOptions)
def reset(
    job: Job,
    to_earliest: Annotated[
        bool, typer.Option("--to-earliest", help="Inputs from the first record on (default).")
    ] = False,
    to_latest: Annotated[bool, typer.Option("--to-latest", help="Inputs from their ends on.")] = False,
    to_datetime: Annotated[
        str | None,
        typer.Option(
            "--to-datetime", metavar="TIME", help="From the first record of that time on: 2026-01-15T10:00:00Z."
        ),
    ] = None,
    shift_by: Annotated[
        int | None, typer.Option("--shift-by", metavar="N", help="So many records on from where they are, or back.")
    ] = None,
    topic: Annotated[
        list[str] | None,
        typer.Option("--topic", metavar="NAME=WHERE", help="One input: earliest, latest, keep, +N, -N or a time."),
    ] = None,
    internal_topic: Annotated[
        list[str] | None, typer.Option("--internal-topic", metavar="NAME", help="Deletes this one, too.")
    ] = None,
    keep_sinks: Annotated[
        bool, typer.Option("--keep-sinks", help="Leaves rows that wait for sinks, and positions in targets.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Says what would be done, and does nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Does not ask.")] = False,
    *,
    options: ResetOptions,
) -> None:
    """Lets a job that does not run start over: positions of its inputs, internal topics, state. Outputs stay."""
    from adstream.cli import reset as command

    command.run(
        job,
        options,
        to_earliest=to_earliest,
        to_latest=to_latest,
        to_datetime=to_datetime,
        shift_by=shift_by,
        topics=topic or (),
        internal=internal_topic or (),
        keep_sinks=keep_sinks,
        yes=yes,
        dry_run=dry_run,
    )


@app.command()
@takes(JobOptions)
def describe(job: Job, json: AsJson = False, *, options: JobOptions) -> None:
    """Shows a job's topology: nodes, sub-topologies, topics, sinks. Needs no server."""
    from adstream.cli import describing

    describing.describe(job, options, as_json=json)


@topics.command("check")
@takes(JobOptions)
def topics_check(job: Job, *, options: JobOptions) -> None:
    """Says which topics a job needs and whether they fit; exit code 2 when something is missing."""
    from adstream.cli import topics as command

    command.check(job, options)


@topics.command("create")
@takes(JobOptions)
def topics_create(
    job: Job,
    inputs: Annotated[
        int, typer.Option("--inputs", metavar="PARTITIONS", help="Creates missing input topics, too.", min=0)
    ] = 0,
    keep_all: Annotated[
        bool,
        typer.Option(
            "--keep-all", help="Of `ads`: records are never deleted, for events of longer ago than topics keep."
        ),
    ] = False,
    *,
    options: JobOptions,
) -> None:
    """Creates the topics that a job writes, and its internal ones; of `ads`, all topics of that platform."""
    from adstream.cli import topics as command

    command.create(job, options, inputs, keep_all=keep_all)


@upgrade.command("check")
@takes(JobOptions)
def upgrade_check(job: Job, json: AsJson = False, *, options: JobOptions) -> None:
    """Holds a job against the one that ran last: same, extended, partial or refused (exit code 2), part by part."""
    from adstream.cli import topics as command

    command.upgrade(job, options, as_json=json)


@generate.command("ads")
def generate_ads(
    events: Annotated[int, typer.Option("--events", help="Records sent, copies included.")] = 100_000,
    seed: Seed = 0,
    out: Annotated[
        str,
        typer.Option("--out", metavar="URL", help="dir:PATH, kafka://HOST:PORT or jsonl:PATH (a file a partition)."),
    ] = "dir:ad-traffic",
    partitions: Annotated[int | None, typer.Option("--partitions", show_default="4")] = None,
    rate: Annotated[
        int | None, typer.Option("--rate", help="Records a second of event time.", show_default="1000")
    ] = None,
    campaigns: Annotated[int | None, typer.Option("--campaigns", show_default="200")] = None,
    products: Annotated[int | None, typer.Option("--products", show_default="1000")] = None,
    devices: Annotated[int | None, typer.Option("--devices", show_default="20000")] = None,
    share_clicks: Annotated[float | None, typer.Option("--share-clicks", show_default="0.08")] = None,
    share_conversions: Annotated[float | None, typer.Option("--share-conversions", show_default="0.02")] = None,
    share_disorder: Annotated[float | None, typer.Option("--share-disorder", show_default="0.05")] = None,
    share_copies: Annotated[float | None, typer.Option("--share-copies", show_default="0.01")] = None,
    share_late: Annotated[float | None, typer.Option("--share-late", show_default="0.002")] = None,
    share_bad: Annotated[float | None, typer.Option("--share-bad", show_default="0.001")] = None,
    share_no_campaign: Annotated[float | None, typer.Option("--share-no-campaign", show_default="0.005")] = None,
    share_no_device: Annotated[float | None, typer.Option("--share-no-device", show_default="0.002")] = None,
    truth: Annotated[
        Path | None,
        typer.Option("--truth", metavar="FILE", help="Where the truth goes; beside the traffic.", show_default=False),
    ] = None,
    no_truth: Annotated[
        bool, typer.Option("--no-truth", help="Writes none (it takes 40 µs and 0.5 kB a record).")
    ] = False,
    extra: Annotated[
        list[str] | None, typer.Option("-X", metavar="kafka.KEY=VALUE", help="A setting of the Kafka client.")
    ] = None,
) -> None:
    """Traffic for the topic `ad-events` (job ads.performance), with all that goes wrong in real life."""
    given = dict(locals())
    from adstream.cli import generating

    names = ("partitions", "rate", "campaigns", "products", "devices")
    chosen = {name: v for name, v in given.items() if v is not None and (name in names or name.startswith("share_"))}
    generating.ads({"events": events, "seed": seed, **chosen}, out, truth, with_truth=not no_truth, extra=extra or [])


@generate.command("market")
def generate_market(
    stage: Annotated[
        str,
        typer.Option(
            "--stage", help="`opening`, `day` or `closing`: each is worked through before the next is written."
        ),
    ],
    out: Annotated[str, typer.Option("--out", metavar="URL", help="kafka://HOST:PORT or dir:PATH.")],
    events: Annotated[int, typer.Option("--events", help="Ad events, copies included.")] = 20_000,
    seed: Seed = 0,
    advertisers: Annotated[int, typer.Option("--advertisers")] = 20,
    campaigns: Annotated[int, typer.Option("--campaigns")] = 60,
    truth: Annotated[
        Path, typer.Option("--truth", metavar="FILE", help="Where the truth goes, with `closing`.")
    ] = Path("market-truth.json"),
    extra: Annotated[
        list[str] | None, typer.Option("-X", metavar="kafka.KEY=VALUE", help="A setting of the Kafka client.")
    ] = None,
) -> None:
    """Traffic for the whole ads platform (`adstream run ads`), in three stages; with the last one the truth about it."""
    from adstream.cli import generating_market

    given = {"events": events, "seed": seed, "advertisers": advertisers, "campaigns": campaigns}
    generating_market.market(given, stage, out, truth, extra or [])


@dlq.command("list")
@takes(JobOptions)
def dlq_list(
    job: Job,
    limit: Annotated[int, typer.Option("--limit", min=1, help="The newest so many.")] = 20,
    json: AsJson = False,
    *,
    options: JobOptions,
) -> None:
    """Shows dead letters: where each came from, why, and what it said."""
    from adstream.cli import dead

    dead.show(job, options, limit, as_json=json)


@dlq.command("replay")
@takes(JobOptions)
def dlq_replay(
    job: Job,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="At most so many.", show_default="all")] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Does not ask.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Says what would become of them, and sends none.")] = False,
    *,
    options: JobOptions,
) -> None:
    """Sends dead letters that were not replayed yet to where they came from, once more; first it says what would become
    of them: how many would be late, or dead again."""
    from adstream.cli import dead

    dead.replay(job, options, limit, yes=yes, dry_run=dry_run)


Rule = Annotated[str, typer.Argument(metavar="ID", help="The rule's id.", show_default=False)]
RulesTopic = Annotated[
    str | None, typer.Option("--topic", metavar="NAME", help="Where the job has several topics of rules.")
]
From = Annotated[
    str | None,
    typer.Option("--from", metavar="TIME", help="Not before this event time: 2026-01-15T10:00:00Z, or epoch ms."),
]
Drop = Annotated[
    bool, typer.Option("--drop", help="Partial matches of what ends go at once; else they go on to their end.")
]


@rules.command("put")
@takes(JobOptions)
def rules_put(
    job: Job,
    rule: Rule,
    pattern: Annotated[str | None, typer.Option("--pattern", metavar="TEXT", help="The pattern.")] = None,
    file: Annotated[Path | None, typer.Option("--file", help="A file with the pattern, as text or JSON.")] = None,
    version: Annotated[
        int | None, typer.Option("--version", min=1, help="Larger than the last.", show_default="the next one")
    ] = None,
    from_: From = None,
    drop: Drop = False,
    topic: RulesTopic = None,
    *,
    options: JobOptions,
) -> None:
    """Adds a rule, or a new version of one. It is checked against the job first."""
    from adstream.cli import ruling

    ruling.put(job, options, rule, pattern, file, version=version, from_=from_, drop=drop, topic=topic)


@rules.command("list")
@takes(JobOptions)
def rules_list(job: Job, topic: RulesTopic = None, json: AsJson = False, *, options: JobOptions) -> None:
    """Shows the rules that a job looks for, as their topic says them last."""
    from adstream.cli import ruling

    ruling.show(job, options, topic, as_json=json)


@rules.command("enable")
@takes(JobOptions)
def rules_enable(job: Job, rule: Rule, from_: From = None, topic: RulesTopic = None, *, options: JobOptions) -> None:
    """Looks for a disabled rule again."""
    from adstream.cli import ruling

    ruling.change(job, options, rule, {"enabled": True}, from_=from_, drop=False, topic=topic)


@rules.command("disable")
@takes(JobOptions)
def rules_disable(
    job: Job, rule: Rule, from_: From = None, drop: Drop = False, topic: RulesTopic = None, *, options: JobOptions
) -> None:
    """Stops looking for a rule, until it is enabled or has a new version."""
    from adstream.cli import ruling

    ruling.change(job, options, rule, {"enabled": False}, from_=from_, drop=drop, topic=topic)


@rules.command("remove")
@takes(JobOptions)
def rules_remove(
    job: Job, rule: Rule, from_: From = None, drop: Drop = False, topic: RulesTopic = None, *, options: JobOptions
) -> None:
    """Forgets a rule."""
    from adstream.cli import ruling

    ruling.change(job, options, rule, {"removed": True}, from_=from_, drop=drop, topic=topic)


LedgerSql = Annotated[
    str,
    typer.Option("--sql", metavar="[ledger=]URL", help="The ledger: postgresql://USER@HOST/DB.", show_default=False),
]


@app.command()
@takes(LogOptions)
def audit(
    platform: Annotated[str, typer.Argument(metavar="PLATFORM", help="ads.", show_default=False)],
    sql: LedgerSql,
    json: AsJson = False,
    *,
    options: LogOptions,
) -> None:
    """Says whether the rules of money hold, by queries of its own; with a log, whether `ad-ledger` tells what is recorded.
    Exit code 1: one is broken."""
    from adstream.cli import money

    money.audit(platform, sql, options, as_json=json)


@parked.command("list")
def parked_list(sql: LedgerSql, json: AsJson = False) -> None:
    """Shows refunds that wait for their charge, and those that have done so for 24 hours (MANUAL)."""
    from adstream.cli import money

    money.parked(sql, as_json=json)


@parked.command("release")
@takes(LogOptions)
def parked_release(
    refunds: Annotated[list[str], typer.Argument(metavar="REFUND_ID…", show_default=False)],
    sql: LedgerSql,
    *,
    options: LogOptions,
) -> None:
    """Books refunds whose charge has come, and tells them on `compensation-released`; the others wait for another 24 hours."""
    from adstream.cli import money

    money.release(refunds, sql, options)


@app.command()
def demo(
    what: Annotated[
        str, typer.Argument(metavar="[ads]", help="`ads`: the whole platform, with --sql and --redis.")
    ] = "",
    seed: Seed = 1,
    events: Annotated[
        int | None, typer.Option("--events", min=1, help="How many events.", show_default="200000; of `ads` 20000")
    ] = None,
    dir: Annotated[
        Path | None,
        typer.Option("--dir", help="Where log and results go; else the log is in memory.", show_default=False),
    ] = None,
    sql: Annotated[
        str | None,
        typer.Option("--sql", metavar="URL", help="Of `ads`: an empty database of Postgres.", show_default=False),
    ] = None,
    redis: Annotated[
        str | None,
        typer.Option("--redis", metavar="URL", help="Products go here; else to a second table.", show_default=False),
    ] = None,
    seconds: Annotated[
        float | None,
        typer.Option(
            "--seconds", min=0, help="How long the events take to arrive.", show_default="15; without a terminal 0"
        ),
    ] = None,
    check: Annotated[
        bool, typer.Option(help="Compares the table with a truth computed apart, in plain Python.")
    ] = True,
) -> None:
    """Runs ads.performance on generated traffic, here and now: no server, results in SQLite. `adstream demo ads`: all jobs."""
    if what == "ads":
        from adstream.cli import demo_ads

        if dir is not None:
            raise ConfigError("the platform's log is in memory", option="--dir", hint="leave it out")
        demo_ads.demo(seed, events or 20_000, sql, redis, seconds, check=check)
        return
    if what or sql is not None:
        raise ConfigError(
            f"there is no demo `{what}`" if what else "ads.performance writes to SQLite here",
            option="demo" if what else "--sql",
            hint="`adstream demo`, or `adstream demo ads --sql URL --redis URL`",
        )
    from adstream.cli import demo as command

    command.demo(seed, events or 200_000, dir, redis, seconds, check=check)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def bench(context: typer.Context) -> None:
    """Measures, next to a bare client in the same run. Needs the source tree."""
    import signal
    import subprocess

    import adstream

    root = Path(adstream.__file__).parents[2]
    script = root / "benches" / "run.py"
    if not script.exists():
        raise ConfigError(
            "the benchmarks are not part of the installed package",
            option="bench",
            hint="run `make bench` in a checkout of the source",
        )
    command = [sys.executable, str(script), *context.args]
    with subprocess.Popen(command, cwd=root, env=_with_path(root)) as process:

        def pass_on(number: int, frame: object) -> None:
            process.send_signal(number)  # it stops its servers and removes their data, and we wait for that

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, pass_on)
        code = process.wait()
    raise typer.Exit(code if code >= 0 else 128 - code)


def _with_path(root: Path) -> dict[str, str]:
    import os

    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))}


@app.command()
def version() -> None:
    """Shows the versions of adstream, its core, librdkafka and Python."""
    from adstream.cli.version import versions

    typer.echo(versions())


__all__ = ["app"]
