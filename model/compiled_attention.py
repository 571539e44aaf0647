"""`model.attention.Attention.attend` in FP32 on a CPU, by the loops of `model.loops.attention`, whose units of work are
shared out among torch's threads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from model.loops import attention as loops
from model.loops.common import f4, shared_out
from model.segments import Segments


def attend(
    q: Tensor, expanded: Tensor, key: Tensor, turns: Tensor, segments: Segments, heads: int, scale: float
) -> Tensor:
    """Queries [N, heads (nope + rope)], not turned; ``expanded`` [N, heads (nope + v)]; the turned ``key`` [N, rope];
    ``turns`` complex [N, rope / 2] -> [N, heads v]."""
    out: Tensor = _Attend.apply(q, expanded, key, turns, segments, heads, scale)
    return out


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[no-untyped-def]
        ctx, q: Tensor, expanded: Tensor, key: Tensor, turns: Tensor, segments: Segments, heads: int, scale: float
    ) -> Tensor:
        given = [x.contiguous() for x in (q, expanded, key)]
        values = expanded.shape[1] - q.shape[1] + heads * key.shape[1]
        out, sums = q.new_empty(len(q), values), q.new_empty(len(q), heads)
        ctx.save_for_backward(*given, turns, out, sums)
        ctx.segments, ctx.scale = segments, scale
        _run(loops.forward, segments, expanded.shape[1], [*given, turns], scale, [out, sums])
        return out

    @staticmethod
    def backward(ctx, d_out: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[no-untyped-def]
        *given, out, sums = ctx.saved_tensors
        q, expanded, key, _ = given
        d_q, d_expanded = torch.empty_like(q), torch.empty_like(expanded)
        d_keys = key.new_empty(len(key), sums.shape[1] * key.shape[1])
        written = [out, sums, d_q, d_expanded, d_keys]
        _run(loops.backward, ctx.segments, 3 * expanded.shape[1], [d_out.contiguous(), *given], ctx.scale, written)
        return d_q, d_expanded, d_keys.view(len(key), -1, key.shape[1]).sum(1), None, None, None, None


def _run(
    loop: Callable[..., None], segments: Segments, each: int, given: list[Tensor], scale: float, written: list[Tensor]
) -> None:
    """``each``: how many multiplications a query and a key are, all heads together."""
    arrays = [t.numpy() for t in given[:-1]]
    turns: np.ndarray[Any, Any] = given[-1].contiguous().numpy().view(f4)
    where = segments.spans.numpy(), segments.groups.numpy(), segments.longest, f4(scale)
    units = (len(segments.groups) - 1) * written[1].shape[1]
    work = each * sum(n * n // 2 for n in segments.lengths)
    there = [t.numpy() for t in written]
    shared_out(lambda first, last: loop(first, last, *arrays, turns, *where, *there), units, work)
