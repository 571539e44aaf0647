"""The command `zeroth`: one table of commands, and the one place where an error becomes a message and a status.

Each command lives in a file of its own and imports what is heavy only when it runs, so that `zeroth --help` and a
mistyped recipe answer at once. Machine-readable output goes to standard output, everything else to standard error.
Exit status: 0 for success, 1 for a failed run, 2 for a bad call.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from importlib.metadata import version
from typing import Annotated

import typer

from jobs import (
    bench,
    chain,
    console,
    distill,
    evaluate,
    export,
    grpo,
    harness,
    plan,
    pretrain,
    quickstart,
    report,
    reward_model,
    sandbox,
    score,
    serve,
    sft,
    why,
)
from jobs.view import command as view

FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

app = typer.Typer(
    name="zeroth",
    help="Reinforcement learning with verifiable rewards: from a base model to a reasoning model.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
COMMANDS: dict[str, dict[str, Callable[..., None]]] = {
    "Train": {
        "quickstart": quickstart.command,
        "pretrain": pretrain.command,
        "sft": sft.command,
        "reward-model": reward_model.command,
        "grpo": grpo.command,
        "distill": distill.command,
        "chain": chain.command,
        "plan": plan.command,
    },
    "Look at a run": {"view": view.command, "report": report.command, "why": why.command},
    "Evaluate and hand on": {
        "eval": evaluate.command,
        "lm-eval": harness.command,
        "score": score.score,
        "export": export.command,
    },
}


def tell_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"zeroth {version('zeroth')}")
        raise typer.Exit


@app.callback()
def options(
    _: Annotated[
        bool, typer.Option("--version", callback=tell_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """What may precede a command."""


for panel, commands in COMMANDS.items():
    for name, command in commands.items():
        settings = harness.CONTEXT if command is harness.command else None
        app.command(name, rich_help_panel=panel, context_settings=settings)(command)
for name, group in (("serve", serve.app), ("sandbox", sandbox.app), ("bench", bench.app)):
    app.add_typer(group, name=name, rich_help_panel="Groups of commands")


def main(arguments: list[str] | None = None) -> None:
    """Runs one command and ends the process with its exit status.

    An exception that carries an integer ``exit_status`` is a message for the user (2: the call or its input was bad,
    1: the run failed) and is printed without a traceback, and so is a file that the system does not let us have or
    write to its end. Any other exception is a bug and keeps its traceback.
    """
    # OpenMP's threads spin for milliseconds while they wait for each other, by default: on a machine that also does
    # something else, a training step on two cores then took four times as long. Never spinning is slow on an idle one.
    # Set before torch is imported, here and by inheritance in Ray's workers.
    os.environ.setdefault("GOMP_SPINCOUNT", "50000")
    # As `python -m` has it: a reward plugin may lie in the working directory.
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        app(args=arguments, prog_name="zeroth")
    except SystemExit as ended:
        if ended.code == 130:  # what typer makes of Ctrl-C, without a word
            console.error("interrupted")
        raise
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        status, message = getattr(error, "exit_status", None), str(error)
        if isinstance(error, OSError) and error.filename is not None:
            status, message = 1, f"{os.fspath(error.filename)}: {error.strerror}"
        elif isinstance(error, OSError) and error.errno in FULL_DISK:
            status, message = 1, f"{error.strerror}: free space; a run then continues with --resume"
        if not isinstance(status, int):
            raise
        console.error(message)
        sys.exit(status)
