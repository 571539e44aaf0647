"""Several sequences laid end to end: how the model sees a batch.

Every layer but attention works on one list of N tokens, with no padding and no notion of sequences. Attention must not
cross sequences: where there is no variable-length kernel, tokens are read into rows, one sequence a row, and the
result is read back.

Sequences that begin with the same tokens, as the completions of one prompt do, may share them: the prefix is laid down
once and read into every row that starts with it. All other layers then work on it once instead of once a sequence.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
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
    """

    lengths: tuple[int, ...]
    longest: int
    ids: Tensor
    positions: Tensor
    source: Tensor
    home: Tensor
    copies: Tensor
    copied: Tensor
    _by_head: dict[int, tuple[Tensor, Tensor, Tensor, Tensor]] = field(default_factory=dict, init=False, repr=False)

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
        )  # fmt: skip

    def by_head(self, heads: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """``source``, ``home``, ``copies`` and ``copied`` for numbers in which each token has ``heads`` rows of its own
        and a row place is [S, heads, longest]."""
        if heads not in self._by_head:
            head = torch.arange(heads, device=self.home.device)

            def token(n: Tensor) -> Tensor:
                return n.unsqueeze(-1) * heads + head

            def place(n: Tensor) -> Tensor:
                row = n.div(self.longest, rounding_mode="floor")
                return (token(row) * self.longest + (n % self.longest).unsqueeze(-1)).flatten()

            source = token(self.source.view(-1, self.longest)).transpose(1, 2).flatten()
            self._by_head[heads] = (source, place(self.home), place(self.copies), token(self.copied).flatten())
        return self._by_head[heads]

    def to(self, device: torch.device | str) -> Segments:
        tensors = (self.ids, self.positions, self.source, self.home, self.copies, self.copied)
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


SHORT = 128
"""Up to so many tokens a row, attention on a CPU keeps whole score matrices: faster there than tiles of them."""
AT_ONCE = 2**18
"""Scores that attention on a CPU makes at once: what stays in a core's cache between one operator and the next."""


@on_gpu("attention")
def attention(q: Tensor, k: Tensor, v: Tensor, segments: Segments, scale: float) -> Tensor:
    """Causal attention within each sequence. q, k [N, heads, D] and v [N, heads, Dv] -> [N, heads, Dv]."""
    count, longest = len(segments.lengths), segments.longest
    if longest <= SHORT and q.device.type == "cpu" and q.dtype != torch.bfloat16:
        short: Tensor = _ShortRows.apply(q, k, v, segments, scale)
        return short
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


class _ShortRows(torch.autograd.Function):
    """`attention` with one matrix of scores for each row and head. Tokens are read straight into [S heads, longest, D],
    the layout of a batched product."""

    @staticmethod
    def forward(ctx, q: Tensor, k: Tensor, v: Tensor, segments: Segments, scale: float) -> Tensor:  # type: ignore[no-untyped-def]
        source, home, _, _ = places = segments.by_head(q.shape[1])
        longest = segments.longest
        q_r, k_r, v_r = (x.flatten(0, 1).index_select(0, source).unflatten(0, (-1, longest)) for x in (q, k, v))
        future = q.new_full((longest, longest), float("-inf")).triu_(1)
        weights, out = q.new_empty(len(q_r), longest, longest), torch.empty_like(v_r)
        for q_i, k_i, v_i, weights_i, out_i in _few(q_r, k_r, v_r, weights, out):
            torch.softmax(torch.baddbmm(future, q_i, k_i.mT, alpha=scale), -1, out=weights_i)
            torch.bmm(weights_i, v_i, out=out_i)
        ctx.save_for_backward(q_r, k_r, v_r, weights, out)
        ctx.places, ctx.scale = places, scale
        return out.flatten(0, 1).index_select(0, home).view_as(v)

    @staticmethod
    def backward(ctx, dy: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:  # type: ignore[no-untyped-def]
        q, k, v, weights, out = ctx.saved_tensors
        _, home, copies, copied = ctx.places

        def tokens(d: Tensor) -> Tensor:
            flat = d.flatten(0, 1)
            back: Tensor = flat.index_select(0, home).index_add_(0, copied, flat.index_select(0, copies))
            return back.view(-1, dy.shape[1], d.shape[-1])

        d_out = torch.zeros_like(out)
        d_out.flatten(0, 1).index_copy_(0, home, dy.flatten(0, 1))
        d_q, d_k, d_v = (torch.empty_like(x) for x in (q, k, v))
        along = torch.linalg.vecdot(d_out, out).unsqueeze(-1)
        for q_i, k_i, v_i, weights_i, d_out_i, along_i, d_q_i, d_k_i, d_v_i in _few(
            q, k, v, weights, d_out, along, d_q, d_k, d_v
        ):
            torch.bmm(weights_i.mT, d_out_i, out=d_v_i)
            d_scores = torch.bmm(d_out_i, v_i.mT).sub_(along_i).mul_(weights_i)
            d_q_i.baddbmm_(d_scores, k_i, beta=0, alpha=ctx.scale)
            d_k_i.baddbmm_(d_scores.mT, q_i, beta=0, alpha=ctx.scale)
        return tokens(d_q), tokens(d_k), tokens(d_v), None, None


def _few(*rows: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Tensors [S heads, longest, ...] in pieces of `AT_ONCE` scores."""
    longest = rows[0].shape[1]
    return zip(*(x.split(max(1, AT_ONCE // max(1, longest * longest))) for x in rows), strict=True)


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
