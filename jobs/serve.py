"""`zeroth serve`: HTTP services."""

from __future__ import annotations

import typer

app = typer.Typer(help="HTTP services.", no_args_is_help=True)
