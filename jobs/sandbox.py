"""`zeroth sandbox`: run a program in the sandbox, or see what this machine can isolate."""

from __future__ import annotations

import typer

app = typer.Typer(help="Run untrusted programs.", no_args_is_help=True)
