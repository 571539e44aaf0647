"""Packing groups into micro-batches: sequences laid end to end, up to a number of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from rl.rollout import Group

Aggregation = Literal["token", "sequence"]


@dataclass(frozen=True)
class MicroBatch:
    """Sequences of ``lengths`` (prompt and completion, less the last token) laid end to end.

    ``tokens`` [N] int64. For each of M sampled tokens: ``at`` [M], the place in ``tokens`` whose output predicts it,
    ``targets`` [M] the token, ``sampled`` [M] FP32 its log-probability when it was sampled, ``versions`` [M] the weight
    version then, ``advantages`` [M] FP32 and ``weights`` [M] FP32 its share of the batch's mean.
    """

    lengths: tuple[int, ...]
    tokens: Tensor
    at: Tensor
    targets: Tensor
    sampled: Tensor
    versions: Tensor
    advantages: Tensor
    weights: Tensor


@dataclass(frozen=True)
class _Sequence:
    prompt: tuple[int, ...]
    completion: tuple[int, ...]
    logprobs: tuple[float, ...]
    versions: tuple[int, ...]
    advantage: float

    @property
    def tokens(self) -> int:
        return len(self.prompt) + len(self.completion) - 1


def pack(groups: Sequence[Group], *, max_tokens: int, minibatches: int, by: Aggregation) -> list[list[MicroBatch]]:
    """Splits groups into ``minibatches`` (one optimizer update each) and these into micro-batches of at most
    ``max_tokens`` tokens (one sequence may exceed it alone).

    Within a minibatch the weights of all tokens sum to 1: equal a token for "token" (DAPO), equal a sequence and then
    a token for "sequence" (GRPO). A sample without advantage is left out; a minibatch left empty is dropped.
    """
    size = -(-len(groups) // minibatches)
    packed = []
    for start in range(0, len(groups), size):
        sequences = [s for group in groups[start : start + size] for s in _sequences(group)]
        if sequences:
            packed.append(_micro_batches(sequences, max_tokens, by))
    return packed


def _sequences(group: Group) -> list[_Sequence]:
    return [
        _Sequence(group.prompt_ids, c.token_ids, c.logprobs, c.versions, advantage)
        for c, advantage in zip(group.completions, group.advantages, strict=True)
        if advantage is not None and c.token_ids
    ]


def _micro_batches(sequences: list[_Sequence], max_tokens: int, by: Aggregation) -> list[MicroBatch]:
    total = sum(len(s.completion) for s in sequences)

    def weight(s: _Sequence) -> float:
        return 1 / total if by == "token" else 1 / (len(sequences) * len(s.completion))

    # By length, so that rows of one micro-batch are nearly even; stable, so that the order is always the same.
    ordered = sorted(sequences, key=lambda s: -s.tokens)
    bins: list[list[_Sequence]] = [[]]
    filled = 0
    for s in ordered:
        if bins[-1] and filled + s.tokens > max_tokens:
            bins.append([])
            filled = 0
        bins[-1].append(s)
        filled += s.tokens
    return [_micro_batch(members, [weight(s) for s in members]) for members in bins]


def _micro_batch(members: list[_Sequence], weights: list[float]) -> MicroBatch:
    tokens: list[int] = []
    at: list[int] = []
    for s in members:
        first = len(tokens) + len(s.prompt) - 1
        at.extend(range(first, first + len(s.completion)))
        tokens.extend(s.prompt)
        tokens.extend(s.completion[:-1])
    counts = torch.tensor([len(s.completion) for s in members])
    return MicroBatch(
        lengths=tuple(s.tokens for s in members),
        tokens=torch.tensor(tokens),
        at=torch.tensor(at),
        targets=torch.tensor([t for s in members for t in s.completion]),
        sampled=torch.tensor([p for s in members for p in s.logprobs]),
        versions=torch.tensor([v for s in members for v in s.versions]),
        advantages=torch.tensor([s.advantage for s in members]).repeat_interleave(counts),
        weights=torch.tensor(weights).repeat_interleave(counts),
    )
