"""The command `zeroth`: one table of commands, and the one place where an error becomes a message and a status.

Each command lives in a file of its own and imports what is heavy only when it runs, so that `zeroth --help` and a
mistyped recipe answer at once. Machine-readable output goes to standard output, everything else to standard error.
Exit status: 0 for success, 1 for a failed run, 2 for a bad call.
"""

from __future__ import annotations

import os
import sys

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

app = typer.Typer(
    name="zeroth",
    help="Reinforcement learning with verifiable rewards: from a base model to a reasoning model.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.command("quickstart")(quickstart.command)
app.command("pretrain")(pretrain.command)
app.command("sft")(sft.command)
app.command("reward-model")(reward_model.command)
app.command("grpo")(grpo.command)
app.command("distill")(distill.command)
app.command("chain")(chain.command)
app.command("eval")(evaluate.command)
app.command("lm-eval", context_settings=harness.CONTEXT)(harness.command)
app.command("export")(export.command)
app.command("plan")(plan.command)
app.command("report")(report.command)
app.command("why")(why.command)
app.command("view")(view.command)
app.command("score")(score.score)
app.add_typer(sandbox.app, name="sandbox")
app.add_typer(serve.app, name="serve")
app.add_typer(bench.app, name="bench")


def main(arguments: list[str] | None = None) -> None:
    """Runs one command and ends the process with its exit status.

    An exception that carries an integer ``exit_status`` is a message for the user (2: the call or its input was bad,
    1: the run failed) and is printed without a traceback, and so is a file that the system does not let us have. Any
    other exception is a bug and keeps its traceback.
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
    except KeyboardInterrupt:
        console.error("interrupted")
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        status, message = getattr(error, "exit_status", None), str(error)
        if isinstance(error, OSError) and error.filename is not None:
            status, message = 1, f"{os.fspath(error.filename)}: {error.strerror}"
        if not isinstance(status, int):
            raise
        console.error(message)
        sys.exit(status)
