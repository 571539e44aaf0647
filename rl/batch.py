"""Packing groups into micro-batches: sequences laid end to end, up to a number of tokens. A prompt is laid down once
for all its completions."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from model.engine import Completion
from model.segments import Segments, fill
from rl.rollout import Group

Aggregation = Literal["token", "sequence"]


@dataclass(frozen=True)
class MicroBatch:
    """Groups laid end to end: a prompt once, then each of its completions less its last token.

    ``tokens`` [N] int64, ``segments`` says which is which. For each of M sampled tokens: ``at`` [M], the place in
    ``tokens`` whose output predicts it, ``targets`` [M] the token, ``sampled`` [M] FP32 its log-probability when it was
    sampled, ``versions`` [M] the weight version then, ``advantages`` [M] FP32, ``weights`` [M] FP32 its share of the
    batch's mean and ``sequences`` [M] the number of its completion in this micro-batch. ``routes`` int16
    [N, MoE layers, K] are the experts that the engine used, -1 where it has not told; None where it told none.
    """

    segments: Segments
    tokens: Tensor
    at: Tensor
    targets: Tensor
    sampled: Tensor
    versions: Tensor
    advantages: Tensor
    weights: Tensor
    sequences: Tensor
    routes: Tensor | None = None

    def to(self, device: torch.device) -> MicroBatch:
        moved: dict[str, Any] = {name: None if x is None else x.to(device) for name, x in vars(self).items()}
        return MicroBatch(**moved)


@dataclass(frozen=True)
class _Sequence:
    completion: Completion
    advantage: float
    weight: float

    @property
    def tokens(self) -> int:
        return len(self.completion.token_ids) - 1


@dataclass(frozen=True)
class _Bundle:
    """Some completions of one prompt."""

    prompt: tuple[int, ...]
    members: list[_Sequence]

    @property
    def tokens(self) -> int:
        return len(self.prompt) + sum(s.tokens for s in self.members)


def pack(
    groups: Sequence[Group], *, max_tokens: int, minibatches: int, by: Aggregation, rank: int = 0, ranks: int = 1
) -> list[list[MicroBatch]]:
    """Splits groups into ``minibatches`` (one optimizer update each) and these into micro-batches of at most
    ``max_tokens`` tokens (one sequence may exceed it alone): those of process ``rank`` of ``ranks``, which have about
    equal numbers of tokens, and may have none.

    Within a minibatch the weights of all tokens sum to 1, over all processes: equal a token for "token" (DAPO), equal a
    sequence and then a token for "sequence" (GRPO). A sample without advantage is left out; a minibatch left empty is
    dropped.
    """
    size = -(-len(groups) // minibatches)
    parts = [_bundles(groups[start : start + size], max_tokens, by) for start in range(0, len(groups), size)]
    own = [dealt(part, ranks)[rank] for part in parts if part]
    # By length, so that the rows of one micro-batch are nearly even; stable, so that the order is always the same.
    for bundles in own:
        bundles.sort(key=lambda bundle: -max(s.tokens for s in bundle.members) - len(bundle.prompt))
    return [[_micro_batch(part) for part in fill(bundles, max_tokens)] for bundles in own]


def _bundles(groups: Sequence[Group], max_tokens: int, by: Aggregation) -> list[_Bundle]:
    kept = [
        (group.prompt_ids, [(c, a) for c, a in zip(group.completions, group.advantages, strict=True) if a is not None])
        for group in groups
    ]
    sizes = [len(c.token_ids) for _, members in kept for c, _ in members]
    total, count = sum(sizes), len(sizes)

    def weight(completion: Completion) -> float:
        return 1 / total if by == "token" else 1 / (count * len(completion.token_ids))

    return [
        bundle
        for prompt, members in kept
        if members
        for bundle in _split(_Bundle(prompt, [_Sequence(c, a, weight(c)) for c, a in members]), max_tokens)
    ]


def dealt(bundles: Sequence[_Bundle], ranks: int) -> list[list[_Bundle]]:
    """To each of ``ranks`` about as many tokens, in their order: the largest go first, each to whom has least."""
    hands: list[list[int]] = [[] for _ in range(ranks)]
    held = [0] * ranks
    for i in sorted(range(len(bundles)), key=lambda i: -bundles[i].tokens):
        least = held.index(min(held))
        hands[least].append(i)
        held[least] += bundles[i].tokens
    return [[bundles[i] for i in sorted(hand)] for hand in hands]


def _split(bundle: _Bundle, max_tokens: int) -> list[_Bundle]:
    """Bundles of at most ``max_tokens``, unless one sequence alone is longer."""
    parts = [_Bundle(bundle.prompt, [])]
    for sequence in bundle.members:
        if parts[-1].members and parts[-1].tokens + sequence.tokens > max_tokens:
            parts.append(_Bundle(bundle.prompt, []))
        parts[-1].members.append(sequence)
    return parts


def _micro_batch(bundles: Sequence[_Bundle]) -> MicroBatch:
    tokens: list[int] = []
    at: list[int] = []
    for bundle in bundles:
        tokens.extend(bundle.prompt)
        last = len(tokens) - 1
        for s in bundle.members:
            at.append(last)
            at.extend(range(len(tokens), len(tokens) + s.tokens))
            tokens.extend(s.completion.token_ids[:-1])
    members = [s for bundle in bundles for s in bundle.members]
    counts = torch.tensor([s.tokens + 1 for s in members])
    return MicroBatch(
        segments=Segments.sharing([len(b.prompt) for b in bundles], [[s.tokens for s in b.members] for b in bundles]),
        tokens=_joined([tokens], np.int64),
        at=_joined([at], np.int64),
        targets=_joined((s.completion.token_ids for s in members), np.int64),
        sampled=_joined((s.completion.logprobs for s in members), np.float32),
        versions=_joined((s.completion.versions for s in members), np.int64),
        advantages=torch.tensor([s.advantage for s in members]).repeat_interleave(counts),
        weights=torch.tensor([s.weight for s in members]).repeat_interleave(counts),
        sequences=torch.arange(len(members)).repeat_interleave(counts),
        routes=_routes(bundles),
    )


def _joined(parts: Iterable[Iterable[float]], dtype: type[np.int64 | np.float32]) -> Tensor:
    """The numbers of all parts; torch takes several times as long to read them."""
    return torch.from_numpy(np.fromiter(itertools.chain.from_iterable(parts), dtype))


def _routes(bundles: Sequence[_Bundle]) -> Tensor | None:
    """The routes of a micro-batch's tokens; a prompt's are those of its first completion."""
    known = [s.completion.routes for b in bundles for s in b.members if s.completion.routes is not None]
    if not known:
        return None
    rows: list[Tensor] = []
    for bundle in bundles:
        length = len(bundle.prompt)
        for i, s in enumerate(bundle.members):
            own = s.completion.routes
            found = (
                torch.full((length + s.tokens, *known[0].shape[1:]), -1, dtype=torch.int16)
                if own is None
                else torch.from_numpy(own)
            )
            rows.append(found if i == 0 else found[length:])
    return torch.cat(rows)
