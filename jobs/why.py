"""`zeroth why`: where a sample of a run came from, and, where the weights that sampled it are still there, the sample
made again."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jobs import config, console
from jobs.config import GrpoRecipe, RecipeError
from jobs.options import AsJson

if TYPE_CHECKING:
    from rl.problems import Draw, Problem

Line = Mapping[str, Any]


def command(
    run_dir: Annotated[Path, typer.Argument(help="A run directory of `zeroth grpo`.")],
    sample_id: Annotated[str, typer.Argument(help="problem/epoch/copy, as in samples.jsonl and the report.")],
    again: Annotated[bool, typer.Option(help="Sample it again, where its weights are still there.")] = True,
    as_json: AsJson = False,
) -> None:
    """Say where a sample came from: problem, seed, weights, reward, advantage; and sample it again."""
    for name in ("samples.jsonl", "recipe.toml"):
        if not (run_dir / name).is_file():
            raise RecipeError(f"{run_dir}: not a run directory of `zeroth grpo`, there is no {name} in it")
    result = explain(run_dir, sample_id, again=again)
    if as_json:
        typer.echo(json.dumps(result, indent=2, ensure_ascii=False))
        return
    from rich.table import Table
    from rich.text import Text

    table = Table(show_header=False)
    for name, value in result.items():
        shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        table.add_row(name.replace("_", " "), Text(shown))
    console.console.print(table)


def explain(run_dir: Path, sample_id: str, *, again: bool) -> dict[str, Any]:
    from rl.rollout import sample_seed

    recipe = config.read(run_dir / "recipe.toml", GrpoRecipe)
    group = siblings(run_dir, sample_id)
    line = next(each for each in group if each["id"] == sample_id)
    problem_id, epoch, copy = sample_id.rsplit("/", 2)
    problem, place = problem_of(recipe, problem_id)
    folder, absent = checkpoint_of(run_dir, recipe, line)
    result = {
        "id": sample_id,
        "problem": {"file": str(recipe.data.train), "line": place, **(problem.fields if problem else {})},
        "epoch": int(epoch),
        "copy": int(copy),
        "seed": sample_seed(recipe.run.seed, sample_id),
        "recipe": str(run_dir / "recipe.toml"),
        "step": line["step"],
        "weight_versions": [{"version": version, "tokens": tokens} for version, tokens in line["versions"]],
        "lag": (line["step"] - 1) * recipe.train.minibatches - min(version for version, _ in line["versions"]),
        **{key: line[key] for key in ("text", "tokens", "finish_reason", "score", "status", "parts", "detail")},
        "scores_of_its_group": [each["score"] for each in group],
        "advantage": line["advantage"],
        "trained": line["trained"],
        "weights": str(folder) if folder else absent,
    }
    if again and folder and problem:
        from rl.problems import Draw

        result["again"] = sampled_again(recipe, folder, Draw(problem, int(epoch)), group, line)
    return result


def siblings(run_dir: Path, sample_id: str) -> list[Line]:
    """The samples of one group, in order. Raises RecipeError that names near ids."""
    from rl.journal import read

    prefix = sample_id.rpartition("/")[0]
    found: list[Line] = []
    seen: list[str] = []
    for line in read(run_dir / "samples.jsonl"):
        if line["id"].rpartition("/")[0] == prefix:
            found.append(line)
        elif len(seen) < 10_000:
            seen.append(line["id"])
    if not any(line["id"] == sample_id for line in found):
        near = difflib.get_close_matches(sample_id, [line["id"] for line in found] or seen, n=3, cutoff=0.0)
        raise RecipeError(f"{run_dir}: there is no sample {sample_id!r}; near it are {', '.join(map(repr, near))}")
    return found


def problem_of(recipe: GrpoRecipe, problem_id: str) -> tuple[Problem | None, int | None]:
    """The problem and its line in the file, or nothing where the file has changed or gone."""
    from rl import jsonl
    from rl.problems import from_fields

    with suppress(jsonl.DataError):
        for place, fields in jsonl.lines(recipe.data.train, "problems"):
            if str(fields.get("id")) == problem_id:
                return from_fields(fields, place), int(place.rpartition(":")[2])
    return None, None


def checkpoint_of(run_dir: Path, recipe: GrpoRecipe, line: Line) -> tuple[Path | None, str]:
    """The folder whose weights sampled this, or why there is none."""
    import torch

    versions = [version for version, _ in line["versions"]]
    if len(versions) != 1:
        return None, f"sampled by several weight versions: {versions}"
    if versions[0] == 0:
        return (recipe.base, "") if recipe.base.is_dir() else (None, f"the base {recipe.base} is gone")
    there = []
    for state in sorted((run_dir / "checkpoints").glob("step-*/trainer.pt")):
        updates = int(torch.load(state, map_location="cpu", weights_only=True, mmap=True)["updates"])
        if updates == versions[0]:
            return state.parent, ""
        there.append(updates)
    return None, f"no checkpoint of version {versions[0]} was kept; there are {there} (run.keep_checkpoints)"


def sampled_again(recipe: GrpoRecipe, folder: Path, draw: Draw, group: Sequence[Line], line: Line) -> dict[str, Any]:
    """The whole group anew, with its seeds and its weights, by the native engine; how much of the sample is the
    same."""
    from dataclasses import replace
    from itertools import takewhile

    from jobs import parts
    from model import checkpoint, publish
    from model.chat import Layout
    from model.engine import Request
    from model.native import NativeEngine
    from rl.rollout import sample_seed

    model, tokenizer = checkpoint.load(folder)
    engine = NativeEngine(model.c, tokenizer, max_rows=recipe.rollout.max_rows)
    publish.accept(engine.model, publish.publish(model, line["versions"][0][0], recipe.precision.rollout, iter))
    prompt = parts.encoder(Layout(tokenizer, recipe.data.template))(draw)
    seeds = tuple(sample_seed(recipe.run.seed, each["id"]) for each in group)
    sampling = replace(parts.rollout_settings(recipe).sampling, pause_after=None)
    completions = engine.sample([Request(prompt, seeds)], sampling)[0]
    made = completions[[each["id"] for each in group].index(line["id"])]
    same = sum(
        1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(made.token_ids, line["token_ids"], strict=False))
    )
    pairs = list(zip(made.logprobs, line["logprobs"], strict=False))[:same]
    return {
        "same": same == len(line["token_ids"]) == len(made.token_ids),
        "same_tokens": same,
        "of_tokens": len(line["token_ids"]),
        "logprob_gap": max((abs(a - b) for a, b in pairs), default=0.0),
        "text": made.text,
    }
