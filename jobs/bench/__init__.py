"""`zeroth bench`: each measurement runs its rival in the same process run and prints the ratio."""

from __future__ import annotations

import typer

from jobs.bench import balance, cap, gap, graders, kernels, math, precision, publish, reward, rollout, sandbox, step

app = typer.Typer(help="Measure against a rival in the same run.", no_args_is_help=True)
app.command("step")(step.command)
app.command("math")(math.command)
app.command("graders")(graders.command)
app.command("sandbox")(sandbox.command)
app.command("balance")(balance.command)
app.command("kernels")(kernels.command)
app.command("cap")(cap.command)
app.command("gap")(gap.command)
app.command("reward")(reward.command)
app.command("precision")(precision.command)
app.command("rollout")(rollout.command)
app.command("publish")(publish.command)
