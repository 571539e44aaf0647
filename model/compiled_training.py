"""What lies between the products of training in FP32 on a CPU, by compiled loops: one pass over memory where torch's
operators take many. Threads change no bit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from model.loops import attention, training
from model.loops.common import f4
from model.loops.threads import shared_out
from model.segments import Segments

Array = np.ndarray[Any, Any]
EXPONENTIAL = 20
"""Multiplications that take as long."""


def add_norm(x: Tensor, more: Tensor | None, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """The sum of ``x`` [..., H] and ``more``, which may be missing, and its RMSNorm."""
    total, normed = _AddNorm.apply(x, more, weight, eps)
    return total, normed


def swiglu(gate: Tensor, up: Tensor | None, gates: Tensor | None) -> Tensor:
    """silu(gate) * up [M, I], times ``gates`` [M, 1]. Without ``up``, ``gate`` [M, 2 I] holds both."""
    out: Tensor = _SwiGLU.apply(gate, up, gates)
    return out


def attend(
    q: Tensor, expanded: Tensor, key: Tensor, turns: Tensor, segments: Segments, heads: int, scale: float
) -> Tensor:
    """Queries [N, heads (nope + rope)], not turned; ``expanded`` [N, heads (nope + v)]; the turned ``key`` [N, rope];
    ``turns`` complex [N, rope / 2] -> [N, heads v]."""
    out: Tensor = _Attend.apply(q, expanded, key, turns, segments, heads, scale)
    return out


class _AddNorm(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[no-untyped-def]
        ctx, x: Tensor, more: Tensor | None, weight: Tensor, eps: float
    ) -> tuple[Tensor, Tensor]:
        x = x.contiguous()
        total = x if more is None else torch.empty_like(x)
        inverse, normed = x.new_empty(x.shape[:-1]), torch.empty_like(x)
        there = _rows(total), inverse.numpy().ravel(), _rows(normed)
        _run(training.norm, normed, 4, _rows(x), _rows(more, x), weight.numpy(), f4(eps), *there)
        ctx.save_for_backward(total, weight, inverse)
        ctx.summed = more is not None
        ctx.set_materialize_grads(False)
        return total, normed

    @staticmethod
    def backward(ctx, d_total: Tensor | None, d_normed: Tensor | None) -> tuple[Tensor | None, ...]:  # type: ignore[no-untyped-def]
        if d_normed is None:
            return d_total, d_total if ctx.summed else None, None, None
        x, weight, inverse = ctx.saved_tensors
        d_x = torch.empty_like(x)
        d_weights = x.new_zeros(-(-inverse.numel() // training.CHUNK), len(weight))
        given = _rows(x), weight.numpy(), inverse.numpy().ravel(), _rows(d_normed), _rows(d_total, x)
        shared_out(training.norm_back, len(d_weights), 8 * x.numel(), *given, _rows(d_x), d_weights.numpy())
        return d_x, d_x if ctx.summed else None, d_weights.sum(0), None


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx, gate: Tensor, up: Tensor | None, gates: Tensor | None) -> Tensor:  # type: ignore[no-untyped-def]
        gate = gate.contiguous()
        up, gates = (None if x is None else x.contiguous() for x in (up, gates))
        width = gate.shape[-1] if up is not None else gate.shape[-1] // 2
        out = gate.new_empty(*gate.shape[:-1], width)
        _run(training.swiglu, out, EXPONENTIAL, _rows(gate), _rows(up, gate), _column(gates, gate), _rows(out))
        ctx.save_for_backward(gate, up, gates)
        return out

    @staticmethod
    def backward(ctx, d_out: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[no-untyped-def]
        gate, up, gates = ctx.saved_tensors
        d_gate, d_up, d_gates = (None if x is None else torch.empty_like(x) for x in (gate, up, gates))
        given = _rows(gate), _rows(up, gate), _column(gates, gate), _rows(d_out)
        there = _rows(d_gate), _rows(d_up, gate), _column(d_gates, gate)
        _run(training.swiglu_back, d_out, 2 * EXPONENTIAL, *given, *there)
        return d_gate, d_up, d_gates


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
        _attend(attention.forward, segments, expanded.shape[1], [*given, turns], scale, [out, sums])
        return out

    @staticmethod
    def backward(ctx, d_out: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[no-untyped-def]
        *given, out, sums = ctx.saved_tensors
        q, expanded, key, _ = given
        d_q, d_expanded = torch.empty_like(q), torch.empty_like(expanded)
        d_keys = key.new_empty(len(key), sums.shape[1] * key.shape[1])
        written = [out, sums, d_q, d_expanded, d_keys]
        each, given = 3 * expanded.shape[1], [d_out.contiguous(), *given]
        _attend(attention.backward, ctx.segments, each, given, ctx.scale, written)
        return d_q, d_expanded, d_keys.view(len(key), -1, key.shape[1]).sum(1), None, None, None, None


def _attend(
    loop: Callable[..., None], segments: Segments, each: int, given: list[Tensor], scale: float, written: list[Tensor]
) -> None:
    """``each``: how many multiplications a query and a key are, all heads together."""
    arrays = [t.numpy() for t in given[:-1]]
    turns: Array = given[-1].contiguous().numpy().view(f4)
    where = segments.spans.numpy(), segments.groups.numpy(), segments.longest, f4(scale)
    units = (len(segments.groups) - 1) * written[1].shape[1]
    work = each * sum(n * n // 2 for n in segments.lengths)
    shared_out(loop, units, work, *arrays, turns, *where, *(t.numpy() for t in written))


def _run(loop: Callable[..., None], rows: Tensor, each: int, *args: object) -> None:
    """``each`` multiplications a number of ``rows`` [..., width]."""
    shared_out(loop, rows.numel() // rows.shape[-1], each * rows.numel(), *args)


def _rows(x: Tensor | None, like: Tensor | None = None) -> Array:
    """As [rows, width]; none of those that ``like`` has, where there is no tensor."""
    if x is None:
        assert like is not None
        return np.empty((0, like.shape[-1]), f4)
    found: Array = x.detach().contiguous().numpy().reshape(-1, x.shape[-1])
    return found


def _column(x: Tensor | None, like: Tensor) -> Array:
    return _rows(x, like).ravel()
