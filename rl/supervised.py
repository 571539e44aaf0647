"""Supervised fine-tuning: next-token prediction on what assistants wrote, and on nothing else.

Dialogues are laid end to end with attention kept within each (`model/segments.py`), in micro-batches that bound memory
and change nothing else: the loss is the mean over all trained tokens of the batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from model.chat import Dialogue
from model.policy import Forward, Policy
from model.segments import Segments, fill
from rl.step import Metrics


class Laid(NamedTuple):
    """Dialogues end to end: ``tokens`` [N]; for each of M trained tokens ``at`` [M], the place whose output predicts
    it, and ``targets`` [M]."""

    tokens: Tensor
    segments: Segments
    at: Tensor
    targets: Tensor


def lay(dialogues: Sequence[Dialogue]) -> Laid:
    """A dialogue's last token predicts nothing and is left out."""
    tokens: list[int] = []
    at: list[int] = []
    targets: list[int] = []
    for dialogue in dialogues:
        wanted = [i for i in range(1, dialogue.tokens) if dialogue.trained[i]]
        at += [len(tokens) + i - 1 for i in wanted]
        targets += [dialogue.ids[i] for i in wanted]
        tokens += dialogue.ids[:-1]
    segments = Segments.of([dialogue.tokens - 1 for dialogue in dialogues])
    return Laid(torch.tensor(tokens), segments, torch.tensor(at), torch.tensor(targets))


def pack(dialogues: Sequence[Dialogue], max_tokens: int) -> list[Laid]:
    """By length, so that the rows of one micro-batch are nearly even."""
    return [lay(part) for part in fill(sorted(dialogues, key=lambda d: -d.tokens), max_tokens)]


def update(policy: Policy, dialogues: Sequence[Dialogue], max_tokens: int) -> Metrics:
    """One optimizer step. ``loss`` is the mean over trained tokens, in nats."""
    parts = pack(dialogues, max_tokens)
    count = sum(len(part.targets) for part in parts)
    total = 0.0
    for part in parts:
        out = _forward(policy, part)
        loss = -out.logp.sum() / count
        policy.backward(loss, out.routing)
        total += float(loss.detach())
    return {"loss": total, **policy.apply(), "tokens": float(sum(d.tokens for d in dialogues)), "trained": float(count)}


@torch.no_grad()
def validate(policy: Policy, dialogues: Sequence[Dialogue], max_tokens: int) -> Metrics:
    """The loss on held-out dialogues, and its exponential."""
    parts = pack(dialogues, max_tokens)
    total = math.fsum(-float(_forward(policy, part).logp.sum()) for part in parts)
    loss = total / sum(len(part.targets) for part in parts)
    return {"validation/loss": loss, "validation/perplexity": math.exp(loss)}


def _forward(policy: Policy, part: Laid) -> Forward:
    return policy.forward(part.tokens, part.segments, part.at, part.targets, 1.0)
