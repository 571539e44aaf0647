"""`zeroth sandbox`: run a program in the sandbox, or see what this machine can isolate."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(help="Run untrusted programs.", no_args_is_help=True)


@app.command()
def run(
    solution: Annotated[str, typer.Argument(help="the program's file, or - for standard input")],
    tests: Annotated[str | None, typer.Option(help="a JSON file of tests, or a .py file of asserts")] = None,
    language: Annotated[str, typer.Option(help="see `zeroth sandbox check` for those found here")] = "python",
    time: Annotated[float | None, typer.Option(help="seconds of real and of CPU time for a run", metavar="S")] = None,
    memory: Annotated[int | None, typer.Option(help="MiB for a run", metavar="MB")] = None,
    unsafe: Annotated[bool, typer.Option("--unsafe", help="run WITHOUT isolation, with your own rights")] = False,
) -> None:
    """Runs a program against tests and prints one JSON verdict; the exit status is 0 whatever the verdict, 1 when the
    sandbox failed and 2 when the call was wrong."""
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
def check(as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False) -> None:
    """Prints each mechanism with yes or no; the exit status is 1 where programs cannot be isolated."""
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
