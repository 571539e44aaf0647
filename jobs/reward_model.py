"""`zeroth reward-model`: a reward model from an SFT checkpoint, from preferences.

A line is a pair, `{"prompt", "chosen", "rejected", "margin"?}`, or a labelled point, `{"prompt", "response", "label"}`
with a label from 0 to 1. The last checkpoint's folder is the reward model: `reward.json` in it says how it did on the
held-out lines, and the reward `learned` takes it.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs import config, console, supervised
from jobs.config import RecipeError, RewardModelRecipe
from jobs.grpo import resolved_text
from jobs.options import DryRun, Overrides, RecipeArgument, Resume
from jobs.sft import is_messages, laid_out

if TYPE_CHECKING:
    from model.chat import Layout, Prompt
    from model.reward import Card, RewardPolicy
    from rl.preferences import Preference
    from rl.step import Metrics


def command(
    recipe: RecipeArgument, overrides: Overrides = None, dry_run: DryRun = False, resume: Resume = False
) -> None:
    """Train a reward model from an SFT checkpoint on preferences."""
    resolved = config.read(config.find(recipe), RewardModelRecipe, overrides or [])
    if dry_run:
        checked(resolved, resume=resume)
        sys.stdout.write(resolved_text(resolved))
        return
    show(train(resolved, resume=resume))


@dataclass(frozen=True)
class Data:
    train: Sequence[Preference]
    held_out: Sequence[Preference]


def checked(recipe: RewardModelRecipe, *, resume: bool) -> Data:
    """The preferences, or an error for the first thing that cannot be used."""
    from jobs import parts

    config.check_run(recipe.run, resume=resume)
    context, tokenizer = parts.shape(recipe.base)
    layout = parts.layout(recipe.data, tokenizer)
    limit = min(context, recipe.train.sequence_tokens)
    held_out = preferences(recipe.data.held_out, layout, limit)[: recipe.evaluate.lines]
    return Data(preferences(recipe.data.train, layout, limit), held_out)


def train(recipe: RewardModelRecipe, *, resume: bool) -> Path:
    """A whole run; returns the folder of the last checkpoint, which is the reward model."""
    from jobs import parts
    from model.reward import RewardPolicy
    from rl.preferences import update

    data = checked(recipe, resume=resume)
    with supervised.begun(recipe.run, recipe.train.threads, resume=resume):
        settings = parts.optimizer_settings(recipe.optimizer)
        policy = RewardPolicy(
            recipe.base, settings, recipe.precision.train, recipe.data.template, recipe.precision.recompute
        )
        parts.layout(recipe.data, policy.tokenizer)
        tokens = recipe.train.micro_batch_tokens
        described = lru_cache(maxsize=1)(lambda updates: describe(policy, data.held_out, tokens, recipe.data.template))
        policy.describe = lambda: described(policy.updates)
        course = supervised.Course(
            "reward-model",
            recipe,
            recipe.train.steps,
            len(data.train),
            recipe.train.batch_samples,
            recipe.evaluate.every,
        )
        return supervised.train(
            course,
            policy,
            lambda chosen: update(policy, [data.train[i] for i in chosen], tokens),
            lambda: validated(policy.describe()),
        )


def describe(policy: RewardPolicy, held_out: Sequence[Preference], max_tokens: int, template: str) -> Card:
    """The model's card, from its scores of the held-out lines."""
    import numpy as np

    from model.reward import Card
    from rl.preferences import good_scores, judged, measured

    found = judged(policy, held_out, max_tokens)
    scores = [score for _, own in found for score in own]
    good = good_scores(found) or scores
    quantiles = tuple(float(q) for q in np.quantile(good, np.linspace(0, 1, 101)))
    # A deviation of 0, as of a head that has learned nothing, must not divide by zero.
    return Card(template, float(np.mean(scores)), float(np.std(scores)) or 1.0, quantiles, measured(found))


def validated(card: Card) -> Metrics:
    """The card's figures as metrics."""
    found = card.held_out
    metrics = {"validation/loss": found["loss"], "validation/length_correlation": found["length_correlation"]}
    for kind in ("pairs", "points"):
        for name in ("accuracy", "calibration_error"):
            if kind in found:
                metrics[f"validation/{kind}_{name}"] = found[kind][name]
    return metrics


def show(folder: Path) -> None:
    """The figures on held-out lines, and where the model lies, on standard output."""
    from rich.table import Table

    from model.reward import card

    found = card(folder).held_out
    table = Table("held-out", "count", "accuracy", "95 % interval", "calibration error")
    for kind in ("pairs", "points"):
        if kind in found:
            row = found[kind]
            low, high = row["interval"]
            table.add_row(
                kind, str(row["count"]), f"{row['accuracy']:.1%}", f"{low:.1%} to {high:.1%}",
                f"{row['calibration_error']:.3f}",
            )  # fmt: skip
    console.console.print(table)
    console.say(f"correlation of score and length: {found['length_correlation']:+.2f}")
    sys.stdout.write(f"{folder}\n")


def preferences(path: Path, layout: Layout, limit: int) -> list[Preference]:
    return laid_out(path, "preferences", lambda line, place: preference(line, layout, place), limit)


def preference(line: Mapping[str, Any], layout: Layout, place: str) -> Preference:
    from rl.preferences import Pair, Point

    prompt, label = line.get("prompt"), line.get("label")
    if isinstance(prompt, str) or is_messages(prompt):
        known: Prompt = prompt
        texts = [line.get(name) for name in ("chosen", "rejected")]
        if all(isinstance(text, str) for text in texts):
            chosen, rejected = (layout.answered(known, str(text)).ids for text in texts)
            return Pair(chosen, rejected, _number(line.get("margin", 0.0), 0.0, float("inf"), "margin", place))
        if isinstance(line.get("response"), str) and label is not None:
            return Point(layout.answered(known, line["response"]).ids, _number(label, 0.0, 1.0, "label", place))
    raise RecipeError(
        f'{place}: a preference is {{"prompt", "chosen", "rejected"}}, or {{"prompt", "response", "label"}} with a '
        "label from 0 to 1"
    )


def _number(value: Any, low: float, high: float, name: str, place: str) -> float:
    if isinstance(value, bool | int | float) and low <= value < float("inf") and value <= high:
        return float(value)
    raise RecipeError(f'{place}: "{name}" is a number from {low:g} to {high:g}, not {value!r}')
