"""`zeroth sandbox`: run a program in the sandbox, or see what this machine can isolate."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from jobs.options import AsJson

app = typer.Typer(help="Run untrusted programs, isolated.", no_args_is_help=True)


@app.command()
def run(
    solution: Annotated[str, typer.Argument(help="The program's file, or - for standard input.")],
    tests: Annotated[str | None, typer.Option(help="A JSON file of tests, or a .py file of asserts.")] = None,
    language: Annotated[str, typer.Option(help="`zeroth sandbox check` lists those found here.")] = "python",
    time: Annotated[float | None, typer.Option(help="Seconds of real and of CPU time for a run.", metavar="S")] = None,
    memory: Annotated[int | None, typer.Option(help="Memory of a run, in MiB.", metavar="MB")] = None,
    unsafe: Annotated[bool, typer.Option("--unsafe", help="Run WITHOUT isolation, with your own rights.")] = False,
) -> None:
    """Run a program against tests and print one JSON verdict.

    The exit status is 0 whatever the verdict, 1 where the sandbox failed and 2 where the call was wrong."""
    from sandbox import Limits
    from sandbox import run as run_isolated

    chosen: dict[str, Any] = {}
    if time is not None:
        chosen |= {"wall_seconds": time, "cpu_seconds": time}
    if memory is not None:
        chosen |= {"memory_mb": memory}
    text = sys.stdin.read() if solution == "-" else _read(solution)
    limits = Limits(**chosen)
    verdict = run_isolated(text, _tests(tests), language=language, limits=limits, unsafe=unsafe)
    print(json.dumps(asdict(verdict)))
    if verdict.status == "sandbox_error":
        raise typer.Exit(1)


@app.command()
def check(as_json: AsJson = False) -> None:
    """Say what this machine can isolate, mechanism by mechanism, and which languages it runs.

    The exit status is 1 where programs cannot be isolated."""
    from sandbox.check import report

    found = report()
    if as_json:
        print(json.dumps(asdict(found)))
    else:
        for mechanism in found.mechanisms:
            answer = "yes" if mechanism.available else "NO" if mechanism.required else "no"
            print(f"{mechanism.name:24} {answer:4} {mechanism.detail}")
        for language, missing in found.languages.items():
            print(f"{'language ' + language:24} {'no' if missing else 'yes':4} {missing}")
    if found.refusal:
        raise typer.Exit(1)


def _read(name: str) -> str:
    from sandbox import InvalidTests

    try:
        return Path(name).read_text(encoding="utf-8", errors="surrogateescape")
    except OSError as error:
        raise InvalidTests(f"cannot read {name}: {error.strerror}") from None


def _tests(name: str | None) -> Any:
    from sandbox import InvalidTests

    if name is None:
        return None
    text = _read(name)
    if name.endswith(".py"):
        return text
    try:
        tests = json.loads(text)
    except ValueError as error:
        raise InvalidTests(f"{name} is not JSON: {error}") from None
    if not isinstance(tests, list | str):
        raise InvalidTests(f"{name} holds neither a list of tests nor a string of asserts")
    return tests
