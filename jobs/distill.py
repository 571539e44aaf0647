"""`zeroth distill`: a student fine-tuned on a teacher's samples that a reward found right (DeepSeek-R1,
arXiv:2501.12948, section 2.4).

    problems --> the teacher's samples, scored as in `zeroth eval` --> those that are right --> `zeroth sft`

The samples lie in the student's run directory under `teacher/`; a run that was interrupted goes on from them.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jobs import config, console
from jobs.config import DistillRecipe, RecipeError, SftRecipe
from jobs.files import held
from jobs.grpo import resolved_text
from jobs.options import DryRun, Overrides, RecipeArgument, Resume


class DistillError(RuntimeError):
    """There is nothing to learn from the teacher."""

    exit_status = 1


def command(
    recipe: RecipeArgument, overrides: Overrides = None, dry_run: DryRun = False, resume: Resume = False
) -> None:
    """Fine-tune a student on a teacher's samples that the problems' rewards find right."""
    path = config.find(recipe)
    resolved = config.read(path, DistillRecipe, overrides or [])
    student = student_of(resolved, str(path))
    if dry_run:
        checked(resolved, student, resume=resume)
        sys.stdout.write(resolved_text(resolved))
        return
    train(resolved, student, resume=resume)


def student_of(recipe: DistillRecipe, source: str) -> SftRecipe:
    """The student's recipe, with the file that is made for it. Raises RecipeError."""
    values = {**recipe.sft}
    data = {"template": recipe.sample.template, **values.get("data", {})}
    if "train" in data:
        raise RecipeError(f"{source}: sft.data.train is made from the teacher's samples; leave it out")
    folder = Path(values.get("run", {}).get("dir", ""))
    values["data"] = {**data, "train": str(folder / "verified.jsonl")}
    return config.build(values, SftRecipe, f"{source} [sft]")


def checked(recipe: DistillRecipe, student: SftRecipe, *, resume: bool) -> None:
    """Raises for the first thing that cannot be used, before the teacher is asked anything."""
    from jobs import parts
    from model import checkpoint
    from model.chat import Layout
    from rl.problems import load

    config.check_run(student.run, resume=resume)
    context, tokenizer = parts.shape(student.base)
    parts.layout(student.data, tokenizer)
    shape, teacher = checkpoint.shape(recipe.teacher)
    limit = min(context, shape.max_position_embeddings)
    encode = parts.encoder(Layout(teacher, recipe.sample.template))
    parts.check_lengths(load(recipe.problems), encode, limit, str(recipe.problems))


def train(recipe: DistillRecipe, student: SftRecipe, *, resume: bool) -> Path:
    """Sampling, choosing and fine-tuning; returns the student's last checkpoint."""
    from jobs import evaluate, sft
    from model.engine import Sampling
    from rl import jsonl
    from rl.problems import load

    checked(recipe, student, resume=resume)
    with held(student.run.dir):
        table, folder = recipe.sample, student.run.dir / "teacher"
        problems = load(recipe.problems)
        sampling = Sampling(table.temperature, table.top_p, table.max_tokens)
        evaluation = evaluate.of_checkpoint(
            recipe.teacher,
            {"problems": problems},
            table.samples,
            sampling,
            table.seed,
            table.template,
            table.precision,
            256,
        )
        evaluate.evaluate(evaluation, {}, folder)
        prompts = {problem.id: problem.fields["prompt"] for problem in problems}
        kept = list(verified(folder, prompts, table.keep_from))
        asked = len(problems) * table.samples
        if not kept:
            raise DistillError(
                f"none of the teacher's {asked} samples scores {table.keep_from:g} or more: see {folder}"
            )
        console.say(f"{len(kept)} of {asked} samples are right and different")
        jsonl.write(student.data.train, kept)
        return sft.train(student, resume=resume)


def verified(folder: Path, prompts: dict[str, Any], keep_from: float) -> Iterator[dict[str, Any]]:
    """The samples that end by themselves and score ``keep_from`` or more, each text of a problem once."""
    from jobs.evaluation.record import SAMPLES

    seen: set[tuple[str, str]] = set()
    lines = [json.loads(line) for line in (folder / SAMPLES).read_text(encoding="utf-8").splitlines()]
    for line in sorted(lines, key=lambda line: (line["problem"], line["copy"])):
        right = line["score"] is not None and line["score"] >= keep_from and line["finish_reason"] == "stop"
        if right and (line["problem"], line["text"]) not in seen:
            seen.add((line["problem"], line["text"]))
            yield {"prompt": prompts[line["problem"]], "response": line["text"]}
