"""The command `zeroth view`."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from jobs.config import RECIPE, RecipeError
from jobs.options import Host, Port

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def command(
    run_dir: Annotated[Path, typer.Argument(help="A run directory, of a run that is finished or under way.")],
    host: Host = "127.0.0.1",
    port: Port = 8200,
) -> None:
    """Follow a run in the browser: its curves, and every rollout with its scores."""
    if not any((run_dir / name).is_file() for name in (RECIPE, "metrics.jsonl")):
        raise RecipeError(f"{run_dir}: not a run directory, there is no {RECIPE} in it")
    import uvicorn

    from jobs.lifecycle import serve_until_signal
    from jobs.view.server import Run, create_app

    app = create_app(Run(run_dir), LOOPBACK if host in LOOPBACK else ("*",))
    config = uvicorn.Config(app, host=host, port=port, log_level="warning", timeout_graceful_shutdown=2)
    asyncio.run(serve_until_signal(uvicorn.Server(config), Reader(), f"run {run_dir}", "  (Ctrl-C ends it)"))


class Reader:
    """Has nothing to drain: requests only read."""

    draining = False
