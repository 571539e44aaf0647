"""`zeroth serve`: HTTP services."""

from __future__ import annotations

import typer

from jobs import serve_model, serve_rewards, serve_sandbox

app = typer.Typer(help="Serve a model, rewards or the sandbox over HTTP.", no_args_is_help=True)
app.command("rewards")(serve_rewards.rewards)
app.command("model")(serve_model.model)
app.command("sandbox")(serve_sandbox.sandbox)
