"""Arguments and options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from jobs.config import shipped

RecipeArgument = Annotated[
    str, typer.Argument(help=f"A TOML file, or a recipe that comes with zeroth: {', '.join(shipped())}.")
]
Overrides = Annotated[list[str] | None, typer.Argument(help="key=value, as in optimizer.lr=1e-4")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check everything, print the resolved recipe, run nothing.")]
Resume = Annotated[bool, typer.Option("--resume", help="Continue from the run directory's last checkpoint.")]

Out = Annotated[Path | None, typer.Option(help="Also write the JSON there.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON to standard output.")]


def by_device(gpu: object, cpu: object) -> str:
    """How an option's help tells a default that depends on the device."""
    return f"by default {gpu} on a GPU, {cpu} without one"


Host = Annotated[str, typer.Option(help="The address to listen on.")]
Port = Annotated[int, typer.Option(min=0, max=65535, help="The port; 0 takes a free one.")]
MaxBodyMb = Annotated[float, typer.Option(help="The largest body of a request.")]
DrainSeconds = Annotated[int, typer.Option(help="How long a shutdown waits for requests in flight.")]
