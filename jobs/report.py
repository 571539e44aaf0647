"""`zeroth report`: one self-contained HTML page of a run, with its curves and its rollouts to read."""

from __future__ import annotations

import html
import io
import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from jobs import console
from jobs.config import RecipeError
from jobs.files import write_whole

Metrics = Sequence[Mapping[str, float]]
Load = Sequence[tuple[int, Mapping[int, Sequence[int]]]]
"""Steps, each with the tokens of every expert by layer."""

PANELS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("held-out accuracy", ("held_out/",)),
    ("reward of the samples", ("reward",)),
    ("response length, tokens", ("response_tokens",)),
    ("entropy, nats a token", ("entropy",)),
    ("KL from the reference, nats a token", ("kl",)),
    ("sampler against trainer: |dlogp| a token", ("logprob_gap",)),
    ("expert load: MaxVio by layer", ("max_violation/",)),
    ("groups without signal, and samples not judged", ("groups_without_signal", "not_judged")),
    ("seconds a step", ("seconds", "seconds_waiting", "seconds_training")),
)
"""Each plot's title and the metrics in it: a name, or a prefix that ends in a slash."""

GROUPS_SHOWN = 12
LAYERS_SHOWN = 6
STEPS_SHOWN = 200


def command(
    run_dir: Annotated[Path, typer.Argument(help="A run directory of `zeroth grpo`.")],
    png: Annotated[Path | None, typer.Option("--picture", help="Also draw the main curves as one PNG there.")] = None,
) -> None:
    """Write a run's report.html and print where it lies."""
    if not (run_dir / "metrics.jsonl").is_file():
        raise RecipeError(
            f"{run_dir}: not a run directory, or of a run without a step: there is no metrics.jsonl in it"
        )
    page = write(run_dir)
    if png is not None:
        picture(run_dir, png)
    console.say("report written")
    typer.echo(page)


def write(run_dir: Path) -> Path:
    """Writes ``report.html`` into the run directory and returns its path."""
    from rl.journal import read, read_load

    # A run that was ended before its first step has neither file.
    metrics, samples = (run_dir / name for name in ("metrics.jsonl", "samples.jsonl"))
    told = list(read(metrics)) if metrics.exists() else []
    chosen = shown_steps(told)
    shown = [sample for sample in read(samples) if sample["step"] in chosen] if samples.exists() else []
    path = run_dir / "report.html"
    write_whole(path, render(run_dir, told, shown, read_load(run_dir)))
    return path


def render(run_dir: Path, metrics: Metrics, samples: Sequence[Mapping[str, Any]], load: Load = ()) -> str:
    plots = "".join(
        f"<figure><figcaption>{html.escape(title)}</figcaption>{svg}</figure>"
        for title, names in PANELS
        if (svg := plot(metrics, names))
    )
    if load:
        plots += f"<figure><figcaption>expert load over the mean, by layer</figcaption>{load_map(load)}</figure>"
    return PAGE.format(
        title=html.escape(run_dir.name),
        summary=summary(metrics),
        plots=plots,
        rollouts=rollouts(samples),
        recipe=html.escape((run_dir / "recipe.toml").read_text() if (run_dir / "recipe.toml").exists() else ""),
    )


def curves(metrics: Metrics, names: Sequence[str]) -> dict[str, tuple[list[float], list[float]]]:
    """For each metric that one of ``names`` picks, its steps and values, in order of first appearance."""
    found: dict[str, tuple[list[float], list[float]]] = {}
    for line in metrics:
        for name, value in line.items():
            if any(name.startswith(n) if n.endswith("/") else name == n or name.startswith(n + "/") for n in names):
                steps, values = found.setdefault(name, ([], []))
                steps.append(line["step"])
                values.append(value)
    return found


def plot(metrics: Metrics, names: Sequence[str]) -> str:
    """An inline SVG, or nothing where the run has none of these metrics."""
    lines = curves(metrics, names)
    if not lines:
        return ""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.6, 2.7), layout="constrained")
    draw(figure.add_subplot(), lines)
    return svg_of(figure)


def svg_of(figure: Any) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg")
    return buffer.getvalue()[buffer.getvalue().index("<svg") :]


def load_map(load: Load) -> str:
    """An inline SVG of some layers, a row an expert and a column a step, coloured by tokens over the layer's mean."""
    import numpy as np
    from matplotlib.figure import Figure

    shown = [load[i] for i in sorted({round(i) for i in np.linspace(0, len(load) - 1, STEPS_SHOWN)})]
    layers = sorted(shown[0][1])
    layers = [layers[i] for i in sorted({round(i) for i in np.linspace(0, len(layers) - 1, LAYERS_SHOWN)})]
    figure = Figure(figsize=(4.6, 1 + 0.7 * len(layers)), layout="constrained")
    axes = figure.subplots(len(layers), 1, sharex=True, squeeze=False)[:, 0]
    for each, layer in zip(axes, layers, strict=True):
        tokens = np.array([counts[layer] for _, counts in shown if layer in counts], dtype=float).T
        image = each.imshow(tokens / tokens.mean(0), aspect="auto", vmin=0, vmax=2, cmap="RdBu_r", interpolation="none")
        each.set_ylabel(f"layer {layer}", fontsize=7)
        each.set_yticks([])
        each.set_xticks([0, len(shown) - 1], [str(shown[0][0]), str(shown[-1][0])])
    figure.colorbar(image, ax=list(axes), label="1: balanced")
    return svg_of(figure)


def draw(axes: Any, lines: Mapping[str, tuple[list[float], list[float]]]) -> None:
    for name, (steps, values) in lines.items():
        marked = "o" if len(steps) < 30 else None
        axes.plot(steps, values, label=name, linewidth=1.3, marker=marked, markersize=3)
    axes.set_xlabel("step")
    axes.grid(alpha=0.25)
    if any(name.startswith("held_out/") for name in lines):
        axes.set_ylim(0, 1.02)
    if len(lines) > 1:
        axes.legend(fontsize=7)


def shown_steps(metrics: Metrics) -> set[int]:
    """The first, a middle and the last step with samples: those of all steps together may be more than memory holds."""
    steps = [int(line["step"]) for line in metrics if "samples" in line]
    return {steps[0], steps[len(steps) // 2], steps[-1]} if steps else set()


def summary(metrics: Metrics) -> str:
    """Held-out accuracy before and after, as a table."""
    rows = []
    for name, (steps, values) in curves(metrics, ("held_out/",)).items():
        rows.append(
            f"<tr><td>{html.escape(name.removeprefix('held_out/'))}</td><td>{values[0]:.1%}</td>"
            f"<td>{values[-1]:.1%}</td><td>{int(steps[0])} to {int(steps[-1])}</td></tr>"
        )
    table = (
        "<table><tr><th>held-out accuracy</th><th>before</th><th>after</th><th>steps</th></tr>"
        + "".join(rows)
        + "</table>"
        if rows
        else ""
    )
    steps_done = int(metrics[-1]["step"]) if metrics else 0
    samples = int(sum(line.get("samples", 0) for line in metrics))
    return f"<p>{steps_done} steps, {samples} samples.</p>{table}"


def rollouts(samples: Sequence[Mapping[str, Any]]) -> str:
    """Groups of each step, each sample with its score and advantage."""
    parts = []
    for step in sorted({sample["step"] for sample in samples}):
        groups: dict[str, list[Mapping[str, Any]]] = {}
        for sample in samples:
            if sample["step"] == step:
                groups.setdefault(sample["problem"], []).append(sample)
        body = "".join(_group(problem, members) for problem, members in list(groups.items())[:GROUPS_SHOWN])
        parts.append(f"<h3>Step {step}</h3>{body}")
    return "".join(parts)


def _group(problem: str, members: Sequence[Mapping[str, Any]]) -> str:
    scores = [m["score"] for m in members if m["score"] is not None]
    mean = f"{sum(scores) / len(scores):.2f}" if scores else "not judged"
    rows = "".join(
        f"<tr><td>{_number(m['score'])}</td><td>{_number(m['advantage'])}</td><td>{m['tokens']}</td>"
        f"<td>{html.escape(json.dumps(m['parts']))}<br>{html.escape(m['detail'])}</td>"
        f"<td><pre>{html.escape(m['text'])}</pre></td></tr>"
        for m in members
    )
    prompt = members[0]["prompt"]
    asked = prompt if isinstance(prompt, str) else json.dumps(prompt, ensure_ascii=False)
    return (
        f"<details><summary>{html.escape(asked[:160])} <b>mean {mean}</b></summary><p>{html.escape(problem)}</p>"
        "<table><tr><th>score</th><th>advantage</th><th>tokens</th><th>parts</th><th>response</th></tr>"
        f"{rows}</table></details>"
    )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:+.2f}"


def picture(run_dir: Path, path: Path) -> None:
    """The run's first panels as one PNG, for a README."""
    from matplotlib.figure import Figure

    from rl.journal import read

    metrics = list(read(run_dir / "metrics.jsonl"))
    figure = Figure(figsize=(11, 3.4), layout="constrained", dpi=110)
    for axes, (title, names) in zip(figure.subplots(1, 3), PANELS[:3], strict=True):
        draw(axes, curves(metrics, names))
        axes.set_title(title, fontsize=10)
    recipe = run_dir / "recipe.toml"
    seed = tomllib.loads(recipe.read_text())["run"]["seed"] if recipe.exists() else "?"
    figure.suptitle(f"{run_dir.name}, seed {seed}", fontsize=11)
    figure.savefig(path)


PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 76rem; padding: 0 1rem; color: #222 }}
figure {{ display: inline-block; margin: 0 .6rem 1rem 0 }} figcaption {{ font-weight: 600 }}
svg {{ width: 23rem; height: auto }} table {{ border-collapse: collapse; margin: .5rem 0 }}
td, th {{ border-bottom: 1px solid #ddd; padding: .2rem .7rem; text-align: left; vertical-align: top }}
pre {{ white-space: pre-wrap; overflow-wrap: anywhere; margin: 0 }} summary {{ cursor: pointer; padding: .15rem 0 }}
</style></head><body>
<h1>{title}</h1>
{summary}
<h2>Curves</h2>
{plots}
<h2>Rollouts</h2>
<p>Some groups of the first, a middle and the last step; all samples are in samples.jsonl.</p>
{rollouts}
<h2>Recipe</h2>
<details><summary>recipe.toml</summary><pre>{recipe}</pre></details>
</body></html>
"""
