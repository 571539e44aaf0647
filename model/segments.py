"""Several sequences laid end to end: how the model sees a batch.

Every layer but attention works on one list of N tokens, with no padding and no notion of sequences. Attention must not
cross sequences: where there is no variable-length kernel, it spreads them into rows, attends, and lays them out again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Segments:
    """S sequences of ``lengths``, N tokens in all. ``ids`` [N] says which sequence a token is in, ``positions`` [N]
    counts from 0 within it, ``longest`` is the longest length."""

    lengths: tuple[int, ...]
    ids: Tensor
    positions: Tensor
    longest: int

    @staticmethod
    def of(lengths: Sequence[int], device: torch.device | str = "cpu") -> Segments:
        sizes = torch.tensor(lengths, device=device)
        ids = torch.repeat_interleave(torch.arange(len(lengths), device=device), sizes)
        starts = sizes.cumsum(0) - sizes
        positions = torch.arange(len(ids), device=device) - starts[ids]
        return Segments(tuple(lengths), ids, positions, max(lengths, default=0))

    @property
    def slots(self) -> Tensor:
        """Where each token lies when sequences are rows of ``longest`` tokens, [N]."""
        return self.ids * self.longest + self.positions


def attention(q: Tensor, k: Tensor, v: Tensor, segments: Segments, scale: float) -> Tensor:
    """Causal attention within each segment. q, k [N, heads, D] and v [N, heads, Dv] -> [N, heads, Dv]."""
    count, longest = len(segments.lengths), segments.longest
    slots = None if count * longest == len(q) else segments.slots

    def rows(x: Tensor) -> Tensor:
        spread: Tensor = x if slots is None else _Spread.apply(x, slots, count * longest)
        return spread.view(count, longest, *x.shape[1:]).transpose(1, 2)

    out = F.scaled_dot_product_attention(rows(q), rows(k), rows(v), is_causal=True, scale=scale)
    flat = out.transpose(1, 2).flatten(0, 1)
    if slots is None:
        return flat
    gathered: Tensor = _Gather.apply(flat, slots)
    return gathered


class _Spread(torch.autograd.Function):
    """Rows [N, ...] to distinct places of a zero tensor [size, ...]. The generic indexed write would sum gradients
    one by one; places are distinct, so its gradient is a plain read."""

    @staticmethod
    def forward(ctx, x: Tensor, places: Tensor, size: int) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.places = places
        return x.new_zeros(size, *x.shape[1:]).index_copy_(0, places, x)

    @staticmethod
    def backward(ctx, dy: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[no-untyped-def]
        return dy.index_select(0, ctx.places), None, None


class _Gather(torch.autograd.Function):
    """The inverse of `_Spread`."""

    @staticmethod
    def forward(ctx, x: Tensor, places: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.places, ctx.size = places, len(x)
        return x.index_select(0, places)

    @staticmethod
    def backward(ctx, dy: Tensor) -> tuple[Tensor, None]:  # type: ignore[no-untyped-def]
        return dy.new_zeros(ctx.size, *dy.shape[1:]).index_copy_(0, ctx.places, dy), None
