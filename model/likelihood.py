"""How likely a model finds given tokens: log-probabilities at temperature 1, and its own choices beside them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from model.segments import Segments
from model.transformer import Transformer


@dataclass(frozen=True)
class Likelihood:
    """Of one sequence's tokens but the first, each given the tokens before it: ``logprobs``, and for each place the
    ``top`` most likely tokens with their log-probabilities, the most likely first."""

    logprobs: tuple[float, ...]
    top: tuple[tuple[tuple[int, float], ...], ...]

    def greedy(self, tokens: Sequence[int], start: int) -> bool:
        """Whether the tokens from ``start`` (1 or more) on are those that greedy sampling takes; wants top >= 1."""
        return all(self.top[i - 1][0][0] == tokens[i] for i in range(start, len(tokens)))


@torch.no_grad()
def likelihoods(
    model: Transformer, sequences: Sequence[Sequence[int]], top: int = 1, batch_tokens: int = 8192
) -> list[Likelihood]:
    """Runs sequences of one token or more, ``batch_tokens`` together (a longer one alone)."""
    return [found for batch in batches(sequences, batch_tokens) for found in _batch(model, batch, top)]


def batches(sequences: Sequence[Sequence[int]], batch_tokens: int) -> Iterator[list[Sequence[int]]]:
    """Neighbours whose tokens together are at most ``batch_tokens``."""
    batch: list[Sequence[int]] = []
    tokens = 0
    for sequence in sequences:
        if batch and tokens + len(sequence) > batch_tokens:
            yield batch
            batch, tokens = [], 0
        batch.append(sequence)
        tokens += len(sequence)
    if batch:
        yield batch


def _batch(model: Transformer, sequences: Sequence[Sequence[int]], top: int) -> Iterator[Likelihood]:
    device = model.device
    flat = torch.tensor([token for sequence in sequences for token in sequence], device=device)
    hidden = model(flat, Segments.of([len(sequence) for sequence in sequences], device)).hidden
    start = 0
    for sequence in sequences:
        end = start + len(sequence)
        logp = model.logits(hidden[start : end - 1]).log_softmax(-1)
        own = logp.gather(-1, flat[start + 1 : end, None]).squeeze(-1).tolist()
        values, tokens = logp.topk(top, -1)
        best = [
            tuple(zip(ids, logps, strict=True)) for ids, logps in zip(tokens.tolist(), values.tolist(), strict=True)
        ]
        yield Likelihood(tuple(own), tuple(best))
        start = end
