"""`zeroth sft`: supervised fine-tuning on prompts with responses, or on conversations of several turns.

A line is `{"prompt": text or messages, "response": text}` or `{"messages": [{"role", "content"}, ...]}`. The loss is on
what assistants say; prompts, and what users say, are read only.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

from jobs import config, console, supervised
from jobs.config import RecipeError, SftRecipe
from jobs.grpo import resolved_text
from jobs.options import DryRun, Overrides, RecipeArgument, Resume
from rl import jsonl

if TYPE_CHECKING:
    from model.chat import Dialogue, Layout, Message


def command(
    recipe: RecipeArgument, overrides: Overrides = None, dry_run: DryRun = False, resume: Resume = False
) -> None:
    """Fine-tune a checkpoint on prompts with responses, or on conversations."""
    resolved = config.read(config.find(recipe), SftRecipe, overrides or [])
    if dry_run:
        checked(resolved, resume=resume)
        sys.stdout.write(resolved_text(resolved))
        return
    train(resolved, resume=resume)


@dataclass(frozen=True)
class Data:
    train: Sequence[Dialogue]
    held_out: Sequence[Dialogue]


def checked(recipe: SftRecipe, *, resume: bool) -> Data:
    """The dialogues, or an error for the first thing that cannot be used."""
    from jobs import parts

    config.check_run(recipe.run, resume=resume)
    context, tokenizer = parts.shape(recipe.base)
    layout = parts.layout(recipe.data, tokenizer)
    if recipe.evaluate.every and recipe.data.held_out is None:
        raise RecipeError("evaluate.every is set, but data.held_out names no lines to evaluate on")
    limit = min(context, recipe.train.sequence_tokens)
    held_out = dialogues(recipe.data.held_out, layout, limit)[: recipe.evaluate.lines] if recipe.data.held_out else []
    return Data(dialogues(recipe.data.train, layout, limit), held_out)


def train(recipe: SftRecipe, *, resume: bool) -> Path:
    """A whole run; returns the folder of the last checkpoint."""
    from jobs import parts
    from rl.supervised import update, validate

    data = checked(recipe, resume=resume)
    with supervised.begun(recipe.run, recipe.train.threads, resume=resume):
        policy = parts.make_policy(recipe.base, recipe.optimizer, recipe.precision)
        parts.layout(recipe.data, policy.tokenizer)
        table = recipe.train
        course = supervised.Course(
            "sft", recipe, table.steps, len(data.train), table.batch_samples, recipe.evaluate.every
        )
        return supervised.train(
            course,
            policy,
            lambda chosen: update(policy, [data.train[i] for i in chosen], table.micro_batch_tokens),
            lambda: validate(policy, data.held_out, table.micro_batch_tokens),
        )


def laid_out(path: Path, what: str, lay: Callable[[Mapping[str, Any], str], Any], limit: int) -> list[Any]:
    """Every line of a file as ``lay`` makes it of the object and its place; what has more than ``limit`` tokens is left
    out, and counted aloud. Raises RecipeError, and DataError, with file and line."""
    from model.chat import ChatError

    found = []
    for place, line in jsonl.lines(path, what):
        try:
            found.append(lay(line, place))
        except ChatError as error:
            raise RecipeError(f"{place}: {error}") from None
    kept = [each for each in found if each.tokens <= limit]
    if len(kept) < len(found):
        console.say(f"{path}: {len(found) - len(kept)} of {len(found)} are longer than {limit} tokens and left out")
    if not kept:
        raise RecipeError(f"{path}: nothing in it has at most {limit} tokens; raise train.sequence_tokens")
    return kept


def dialogues(path: Path, layout: Layout, limit: int) -> list[Dialogue]:
    return laid_out(path, "samples", lambda line, _: dialogue(line, layout), limit)


def dialogue(line: Mapping[str, Any], layout: Layout) -> Dialogue:
    """One line, laid out. Raises ChatError."""
    from model.chat import ChatError

    prompt, response, messages = line.get("prompt"), line.get("response"), line.get("messages")
    if is_messages(messages):
        return layout.conversation(messages)
    if isinstance(response, str) and (isinstance(prompt, str) or is_messages(prompt)):
        return layout.answered(prompt, response)
    raise ChatError(
        'a line is {"prompt": ..., "response": "..."} or {"messages": [{"role": ..., "content": ...}, ...]}'
    )


def is_messages(value: Any) -> TypeGuard[list[Message]]:
    return (
        isinstance(value, list)
        and bool(value)
        and all(
            isinstance(m, dict) and isinstance(m.get("role"), str) and isinstance(m.get("content"), str) for m in value
        )
    )
