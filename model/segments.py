"""Several sequences laid end to end: how the model sees a batch.

Every layer but attention works on one list of N tokens, with no padding and no notion of sequences. Attention must not
cross sequences: where there is no variable-length kernel, tokens are read into rows, one sequence a row, and the
result is read back.

Sequences that begin with the same tokens, as the completions of one prompt do, may share them: the prefix is laid down
once and read into every row that starts with it. All other layers then work on it once instead of once a sequence.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from model.dispatch import on_gpu


@dataclass(frozen=True)
class Segments:
    """S sequences over N tokens. ``lengths`` [S] counts each sequence's tokens, its prefix included; ``longest`` is
    their maximum. ``ids`` [N] says which sequence a token is in (the first, for a shared prefix), ``positions`` [N]
    counts from 0 within it.

    For attention in rows of ``longest``: row place i holds token ``source[i]`` (any token, where the row has ended:
    no real token looks there), and token n is read back from place ``home[n]``. ``copies`` are the other places of
    shared tokens, and ``copied`` their tokens.

    For attention a sequence at a time: ``spans`` [S, 4] has where its prefix ends and where it ends, and what makes a
    token of a position in its prefix, and of one behind that. Sequences from one of ``groups`` [G + 1] to the next
    share a prefix.
    """

    lengths: tuple[int, ...]
    longest: int
    ids: Tensor
    positions: Tensor
    source: Tensor
    home: Tensor
    copies: Tensor
    copied: Tensor
    spans: Tensor
    groups: Tensor

    @staticmethod
    def of(lengths: Sequence[int], device: torch.device | str = "cpu") -> Segments:
        """Sequences that share nothing."""
        return Segments.sharing([0] * len(lengths), [[n] for n in lengths]).to(device)

    @staticmethod
    def sharing(prefixes: Sequence[int], suffixes: Sequence[Sequence[int]]) -> Segments:
        """Groups of sequences: group g lays down ``prefixes[g]`` tokens, then each of its ``suffixes[g]`` tokens."""
        rows = [(prefix, n) for prefix, group in zip(prefixes, suffixes, strict=True) for n in group]
        lengths = [prefix + n for prefix, n in rows]
        longest = max(lengths, default=0)
        runs: list[tuple[int, int, int]] = []  # of tokens that lie together: how many, their row, their first position
        starts: list[tuple[int, int]] = []  # of each row's prefix and suffix
        copies: list[tuple[int, int, int]] = []  # of a prefix: how many tokens, the first one's row place, the token
        token = row = 0
        for prefix, group in zip(prefixes, suffixes, strict=True):
            runs.append((prefix, row, 0))
            copies += [(prefix, (row + j) * longest, token) for j in range(1, len(group))]
            first, token = token, token + prefix
            for n in group:
                runs.append((n, row, prefix))
                starts.append((first, token - prefix))
                token, row = token + n, row + 1
        sizes, row_of, offset = _columns(runs, 3)
        ids = row_of.repeat_interleave(sizes)
        positions = _ranges(offset, sizes)
        place = torch.arange(longest)
        prefix_of, suffix_of = (column.unsqueeze(1) for column in _columns(rows, 2))
        shared, own = (column.unsqueeze(1) for column in _columns(starts, 2))
        source = torch.where(place < prefix_of, shared, own) + place
        source = source.masked_fill(place >= prefix_of + suffix_of, 0)
        copied, there, original = _columns(copies, 3)
        return Segments(
            tuple(lengths), longest, ids, positions, source.flatten(), ids * longest + positions,
            _ranges(there, copied), _ranges(original, copied),
            torch.cat([prefix_of, prefix_of + suffix_of, shared, own], 1),
            torch.tensor([0, *itertools.accumulate(len(group) for group in suffixes)]),
        )  # fmt: skip

    def to(self, device: torch.device | str) -> Segments:
        tensors = (
            self.ids, self.positions, self.source, self.home, self.copies, self.copied, self.spans, self.groups,
        )  # fmt: skip
        return Segments(self.lengths, self.longest, *(tensor.to(device) for tensor in tensors))


def _columns(rows: Sequence[tuple[int, ...]], width: int) -> tuple[Tensor, ...]:
    return torch.tensor(rows, dtype=torch.int64).view(-1, width).unbind(1)


def _ranges(starts: Tensor, sizes: Tensor) -> Tensor:
    """From each start so many whole numbers, end to end."""
    return torch.arange(int(sizes.sum())) + (starts - sizes.cumsum(0) + sizes).repeat_interleave(sizes)


class Sized(Protocol):
    @property
    def tokens(self) -> int: ...


Item = TypeVar("Item", bound=Sized)


def fill(items: Sequence[Item], max_tokens: int) -> list[list[Item]]:
    """Runs of items, in order, of at most ``max_tokens`` tokens; one item may exceed it alone."""
    bins: list[list[Item]] = []
    room = 0
    for item in items:
        if item.tokens > room:
            bins.append([])
            room = max_tokens
        bins[-1].append(item)
        room -= item.tokens
    return bins


@on_gpu("attention")
def attention(q: Tensor, k: Tensor, v: Tensor, segments: Segments, scale: float) -> Tensor:
    """Causal attention within each sequence. q, k [N, heads, D] and v [N, heads, Dv] -> [N, heads, Dv]."""
    count, longest = len(segments.lengths), segments.longest
    even = count * longest == len(q)

    def rows(x: Tensor) -> Tensor:
        read: Tensor = x if even else _ToRows.apply(x, segments)
        return read.view(count, longest, *x.shape[1:]).transpose(1, 2)

    out = F.scaled_dot_product_attention(rows(q), rows(k), rows(v), is_causal=True, scale=scale)
    flat = out.transpose(1, 2).flatten(0, 1)
    if even:
        return flat
    back: Tensor = _FromRows.apply(flat, segments.home)
    return back


class _ToRows(torch.autograd.Function):
    """Tokens [N, ...] to row places. The generic gradient of an indexed read adds rows one by one; here all but the
    copies of shared prefixes are a plain read."""

    @staticmethod
    def forward(ctx, x: Tensor, segments: Segments) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.segments = segments
        return x.index_select(0, segments.source)

    @staticmethod
    def backward(ctx, dy: Tensor) -> tuple[Tensor, None]:  # type: ignore[no-untyped-def]
        return _ToRows.gathered(dy, ctx.segments), None

    @staticmethod
    def gathered(dy: Tensor, segments: Segments) -> Tensor:
        dx = dy.index_select(0, segments.home)
        if len(segments.copies):
            dx.index_add_(0, segments.copied, dy.index_select(0, segments.copies))
        return dx


class _FromRows(torch.autograd.Function):
    """Row places back to tokens; a place that is not a token's home gets no gradient."""

    @staticmethod
    def forward(ctx, x: Tensor, home: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.home, ctx.size = home, len(x)
        return x.index_select(0, home)

    @staticmethod
    def backward(ctx, dy: Tensor) -> tuple[Tensor, None]:  # type: ignore[no-untyped-def]
        return _FromRows.spread(dy, ctx.home, ctx.size), None

    @staticmethod
    def spread(dy: Tensor, home: Tensor, size: int) -> Tensor:
        return dy.new_zeros(size, *dy.shape[1:]).index_copy_(0, home, dy)
