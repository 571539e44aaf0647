"""What lies between the products of a layer in training, forward and backward, in one pass over memory each where torch
takes one for every operator. Loops do rows, or chunks of them, from first to last."""

# What numba compiles has the types that it is called with.
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"

from __future__ import annotations

import numba

from model.loops.common import FREE, exp, f4, norm_row, swiglu_row
from model.loops.threads import in_threads

CHUNK = 64
"""Rows whose gradients of a weight are summed together, so that no sum depends on who does them."""


@numba.njit(**FREE)
def _norm(first, last, x, more, weight, eps, total, inverse, out):
    """RMSNorm of the sum of x and ``more``, which may have no rows: then ``total`` is not written. ``inverse`` [N]: 1
    over the root of each row's mean square."""
    for r in range(first, last):
        row = x[r]
        if len(more):
            other, row = more[r], total[r]
            for i in range(len(weight)):
                row[i] = x[r, i] + other[i]
        inverse[r] = norm_row(row, weight, eps, out[r])


_norm_in_threads = in_threads(_norm)


@numba.njit(**FREE)
def norm(threads, rows, *args):
    """`_norm`."""
    _norm_in_threads(threads, rows, args)


@numba.njit(**FREE)
def _norm_back(first, last, x, weight, inverse, d_out, d_total, d_x, d_weights):
    """Chunks first to last. ``d_total``, the gradient of the sum itself, may have no rows; ``d_weights`` [chunks, H]
    come as zeros."""
    width = len(weight)
    for chunk in range(first, last):
        d_weight = d_weights[chunk]
        for r in range(chunk * CHUNK, min((chunk + 1) * CHUNK, len(x))):
            row, given, found, scale, along = x[r], d_out[r], d_x[r], inverse[r], f4(0.0)
            for i in range(width):
                along += given[i] * weight[i] * row[i]
            along *= scale * scale / f4(width)
            for i in range(width):
                d_weight[i] += given[i] * row[i] * scale
            for i in range(width):
                found[i] = scale * (given[i] * weight[i] - row[i] * along)
            if len(d_total):
                other = d_total[r]
                for i in range(width):
                    found[i] += other[i]


_norm_back_in_threads = in_threads(_norm_back)


@numba.njit(**FREE)
def norm_back(threads, chunks, *args):
    """`_norm_back`."""
    _norm_back_in_threads(threads, chunks, args)


@numba.njit(**FREE)
def _swiglu(first, last, gate, up, gates, out):
    """silu(gate) * up [M, I], where ``gates`` [M] has any times these. Rows of ``gate`` may be longer: then ``up`` has
    no rows and is their other half."""
    for r in range(first, last):
        other = up[r] if len(up) else gate[r, out.shape[1] :]
        swiglu_row(gate[r], other, gates[r] if len(gates) else f4(1.0), out[r])


_swiglu_in_threads = in_threads(_swiglu)


@numba.njit(**FREE)
def swiglu(threads, rows, *args):
    """`_swiglu`."""
    _swiglu_in_threads(threads, rows, args)


@numba.njit(**FREE)
def _swiglu_back(first, last, gate, up, gates, d_out, d_gate, d_up, d_gates):
    """The gradients go where what they are of came from."""
    width = d_out.shape[1]
    for r in range(first, last):
        g, u, d_g, d_u = (
            gate[r],
            up[r] if len(up) else gate[r, width:],
            d_gate[r],
            d_up[r] if len(up) else d_gate[r, width:],
        )
        given, factor, along = d_out[r], f4(1.0), f4(0.0)
        if len(gates):
            factor = gates[r]
            for i in range(width):
                along += given[i] * g[i] / (f4(1.0) + exp(-g[i])) * u[i]
            d_gates[r] = along
        for i in range(width):
            share = f4(1.0) / (f4(1.0) + exp(-g[i]))
            d_u[i] = given[i] * factor * g[i] * share
            d_g[i] = given[i] * factor * u[i] * share * (f4(1.0) + g[i] * (f4(1.0) - share))


_swiglu_back_in_threads = in_threads(_swiglu_back)


@numba.njit(**FREE)
def swiglu_back(threads, rows, *args):
    """`_swiglu_back`."""
    _swiglu_back_in_threads(threads, rows, args)
