"""Runs the command line: in this process, or as a user does."""

import os
import subprocess
import sys
from pathlib import Path

from typer.testing import CliRunner, Result

from adstream.cli.commands import app

JOB = """
import adstream as ads


class Order(ads.Record):
    order_id: str
    amount: int


@ads.topology
def orders(app: ads.App, least: int = 0) -> None:
    app.stream("orders", Order, key="order_id").filter(ads.col("amount") >= least, reason="small").sink(
        ads.sinks.Sql("orders", key=["order_id"])
    )


nothing = 3
"""


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def clean() -> dict[str, str]:
    """The environment without settings of ours."""
    return {name: value for name, value in os.environ.items() if not name.startswith("ADSTREAM_")}


def start(*arguments: str, cwd: Path, **environ: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "adstream.cli", *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=cwd, env=clean() | environ, **pipes)


def call(*arguments: str, cwd: Path, **environ: str) -> tuple[int, str, str]:
    """Exit code, stdout, stderr."""
    with start(*arguments, cwd=cwd, **environ) as process:
        out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def project(folder: Path, orders: int = 50) -> Path:
    """A job `shop:orders` and its input in a file."""
    (folder / "shop.py").write_text(JOB)
    lines = [f'{{"order_id":"o{i}","amount":{i}}}' for i in range(orders)]
    (folder / "orders.jsonl").write_text("\n".join(lines) + "\n")
    return folder
