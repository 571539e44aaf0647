"""What lies between the products, each in one pass over memory: SwiGLU, rotary positions, and log-probabilities over
the vocabulary. `model.moe`, `model.rope` and `model.loss` hold the references."""

# Kernels are typed by Triton at each launch.
# mypy: disable-error-code="untyped-decorator, no-untyped-def"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from model.kernels.launch import launched
from model.kernels.rows import Places
from model.kernels.sizes import power_of_two


def swiglu(gate_up: Tensor, gates: Tensor | None = None, places: Places | None = None) -> Tensor:
    """``silu(gate) * up`` of ``gate_up`` [M, 2 I] (gate, then up), with ``places`` times the choice's gate of ``gates``
    [T, K]: [M, I]. Rows that fill up are zero."""
    rows, width = len(gate_up), gate_up.shape[1] // 2
    out = gate_up.new_empty(rows, width)
    choice, total = (gate_up, gate_up) if places is None else (places.choice, places.ends[-1:])
    _swiglu_kernel[(rows,)](
        gate_up, gates if gates is not None else gate_up, choice, total, out, width,
        PLACED=places is not None, WIDTH=_width(width), num_warps=_warps(width),
    )  # fmt: skip
    return out


def swiglu_backward(
    gate_up: Tensor, dh: Tensor, gates: Tensor | None = None, places: Places | None = None
) -> tuple[Tensor, Tensor]:
    """The gradient of `swiglu` for ``dh`` [M, I]: of gate and up [M, 2 I], and FP32 [M] of each row's gate."""
    rows, width = dh.shape
    out, d_gates = torch.empty_like(gate_up), gate_up.new_empty(rows, dtype=torch.float32)
    choice, total = (gate_up, gate_up) if places is None else (places.choice, places.ends[-1:])
    _swiglu_backward_kernel[(rows,)](
        gate_up, dh, gates if gates is not None else gate_up, choice, total, out, d_gates, width,
        PLACED=places is not None, WIDTH=_width(width), num_warps=_warps(width),
    )  # fmt: skip
    return out, d_gates


def rotate_tail(x: Tensor, turns: Tensor, start: int, *, back: bool = False) -> Tensor:
    """``x`` BF16 [N, heads, D] with the pairs from dimension ``start`` on turned, or turned ``back``, by ``turns``
    complex64 [N, (D - start) / 2]."""
    x = x.contiguous()
    out = torch.empty_like(x)
    _rotate(x, turns, out, 0, start, back=back)
    return out


def rotate_tail_(x: Tensor, turns: Tensor, start: int, *, back: bool = False) -> None:
    """`rotate_tail` in place, for an ``x`` that is contiguous."""
    _rotate(x, turns, x, start, start, back=back)


def _rotate(x: Tensor, turns: Tensor, out: Tensor, first: int, start: int, *, back: bool) -> None:
    """The dimensions from ``first`` on are written."""
    tokens, heads, width = x.shape
    _rotate_kernel[(tokens,)](
        x.view(torch.int32), torch.view_as_real(turns), out.view(torch.int32), heads, width // 2, first // 2,
        start // 2, -1.0 if back else 1.0, HEADS=power_of_two(heads), PAIRS=power_of_two((width - first) // 2),
        num_warps=4,
    )  # fmt: skip


def join_keys(expanded: Tensor, shared: Tensor, nope: int) -> Tensor:
    """The first ``nope`` of ``expanded`` [N, heads, nope + v], then ``shared`` [N, rope]: [N, heads, nope + rope]."""
    tokens, heads, width = expanded.shape
    out = expanded.new_empty(tokens, heads, nope + shared.shape[1])
    _join_keys_kernel[(tokens,)](
        expanded.contiguous(), shared.contiguous(), out, heads, width, nope, shared.shape[1],
        HEADS=power_of_two(heads), NOPE=power_of_two(nope),
        ROPE=power_of_two(shared.shape[1]), num_warps=4,
    )  # fmt: skip
    return out


def join_keys_backward(dk: Tensor, dv: Tensor, nope: int) -> tuple[Tensor, Tensor]:
    """The gradients of `join_keys` and of the values: ``dk`` [N, heads, nope + rope] and ``dv`` [N, heads, v] to those
    of ``expanded`` and of ``shared``."""
    tokens, heads, width = dk.shape
    values, rope = dv.shape[2], width - nope
    d_expanded, d_shared = dk.new_empty(tokens, heads, nope + values), dk.new_empty(tokens, rope)
    _join_keys_backward_kernel[(tokens,)](
        dk.contiguous(), dv.contiguous(), d_expanded, d_shared, heads, nope, rope, values,
        HEADS=power_of_two(heads), NOPE=power_of_two(nope), ROPE=power_of_two(rope),
        VALUES=power_of_two(values), num_warps=4,
    )  # fmt: skip
    return d_expanded, d_shared


def logprobs(logits: Tensor, targets: Tensor, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
    """Of ``logits`` [N, V] / temperature: the log-probabilities of ``targets`` [N], the entropies in nats, and the
    logarithms of the sums of exponentials, each FP32 [N]."""
    logp, entropy, lse = torch.empty(3, len(logits), dtype=torch.float32, device=logits.device).unbind()
    _logprobs_kernel[(len(logits),)](
        logits, targets, logp, entropy, lse, logits.shape[1], 1 / temperature, WIDTH=2048, num_warps=8
    )
    return logp, entropy, lse


def logprobs_backward(logits: Tensor, targets: Tensor, lse: Tensor, d_logp: Tensor, temperature: float) -> None:
    """Replaces ``logits`` [N, V] by the gradient that ``d_logp`` [N] gives them."""
    _logprobs_backward_kernel[(len(logits),)](
        logits, targets, lse, d_logp, logits.shape[1], 1 / temperature, WIDTH=2048, num_warps=8
    )


def _width(size: int) -> int:
    return min(power_of_two(size), 2048)


def _warps(size: int) -> int:
    return max(1, min(8, _width(size) // 256))


@launched
@triton.jit
def _swiglu_kernel(gate_up, gates, choice, total, out, width, PLACED: tl.constexpr, WIDTH: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    weight = 1.0
    if PLACED:
        if row >= tl.load(total):
            return
        chosen = tl.load(choice + row)
        weight = tl.load(gates + chosen, mask=chosen >= 0, other=0.0).to(tl.float32)
    for first in range(0, width, WIDTH):
        col = first + tl.arange(0, WIDTH)
        gate = tl.load(gate_up + row * 2 * width + col, mask=col < width, other=0.0).to(tl.float32)
        up = tl.load(gate_up + row * 2 * width + width + col, mask=col < width, other=0.0).to(tl.float32)
        value = gate / (1.0 + tl.exp(-gate)) * up * weight
        tl.store(out + row * width + col, value.to(out.dtype.element_ty), mask=col < width)


@launched
@triton.jit
def _swiglu_backward_kernel(
    gate_up, dh, gates, choice, total, out, d_gates, width, PLACED: tl.constexpr, WIDTH: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    weight = 1.0
    if PLACED:
        if row >= tl.load(total):
            return
        chosen = tl.load(choice + row)
        weight = tl.load(gates + chosen, mask=chosen >= 0, other=0.0).to(tl.float32)
    d_weight = tl.zeros([WIDTH], tl.float32)
    for first in range(0, width, WIDTH):
        col = first + tl.arange(0, WIDTH)
        mask = col < width
        gate = tl.load(gate_up + row * 2 * width + col, mask=mask, other=0.0).to(tl.float32)
        up = tl.load(gate_up + row * 2 * width + width + col, mask=mask, other=0.0).to(tl.float32)
        d = tl.load(dh + row * width + col, mask=mask, other=0.0).to(tl.float32)
        sigmoid = 1.0 / (1.0 + tl.exp(-gate))
        silu = gate * sigmoid
        d_weight += d * silu * up
        d *= weight
        d_gate = d * up * (sigmoid + silu * (1.0 - sigmoid))
        tl.store(out + row * 2 * width + col, d_gate.to(out.dtype.element_ty), mask=mask)
        tl.store(out + row * 2 * width + width + col, (d * silu).to(out.dtype.element_ty), mask=mask)
    tl.store(d_gates + row, tl.sum(d_weight, 0))


@launched
@triton.jit
def _rotate_kernel(x, turns, out, heads, width, first, start, sign, HEADS: tl.constexpr, PAIRS: tl.constexpr):
    """One token, the pairs from ``first`` on; a pair of BF16 is one word. Those before ``start`` are turned by
    nothing."""
    token = tl.program_id(0).to(tl.int64)
    head, pair = tl.arange(0, HEADS), first + tl.arange(0, PAIRS)
    at = (token * heads + head)[:, None] * width + pair[None, :]
    mask = (head < heads)[:, None] & (pair < width)[None, :]
    turned = (pair >= start) & (pair < width)
    where = (token * (width - start) + pair - start) * 2
    real = tl.load(turns + where, mask=turned, other=1.0)[None, :]
    imaginary = tl.load(turns + where + 1, mask=turned, other=0.0)[None, :] * sign
    word = tl.load(x + at, mask=mask, other=0)
    a = (word << 16).to(tl.float32, bitcast=True)
    b = (word & -65536).to(tl.float32, bitcast=True)
    low = (a * real - b * imaginary).to(tl.bfloat16).to(tl.uint16, bitcast=True).to(tl.int32)
    high = (a * imaginary + b * real).to(tl.bfloat16).to(tl.uint16, bitcast=True).to(tl.int32)
    tl.store(out + at, low | (high << 16), mask=mask)


@launched
@triton.jit
def _join_keys_kernel(
    expanded, shared, out, heads, width, nope, rope, HEADS: tl.constexpr, NOPE: tl.constexpr, ROPE: tl.constexpr
):
    token = tl.program_id(0).to(tl.int64)
    head, col, tail = tl.arange(0, HEADS), tl.arange(0, NOPE), tl.arange(0, ROPE)
    row = token * heads + head
    mask = (head < heads)[:, None] & (col < nope)[None, :]
    own = tl.load(expanded + row[:, None] * width + col[None, :], mask=mask)
    tl.store(out + row[:, None] * (nope + rope) + col[None, :], own, mask=mask)
    same = tl.load(shared + token * rope + tail, mask=tail < rope)[None, :].broadcast_to(HEADS, ROPE)
    to = row[:, None] * (nope + rope) + nope + tail[None, :]
    tl.store(out + to, same, mask=(head < heads)[:, None] & (tail < rope)[None, :])


@launched
@triton.jit
def _join_keys_backward_kernel(
    dk, dv, d_expanded, d_shared, heads, nope, rope, values,
    HEADS: tl.constexpr, NOPE: tl.constexpr, ROPE: tl.constexpr, VALUES: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    head, col, tail, value = tl.arange(0, HEADS), tl.arange(0, NOPE), tl.arange(0, ROPE), tl.arange(0, VALUES)
    row = token * heads + head
    known = (head < heads)[:, None]
    mask = known & (col < nope)[None, :]
    own = tl.load(dk + row[:, None] * (nope + rope) + col[None, :], mask=mask)
    tl.store(d_expanded + row[:, None] * (nope + values) + col[None, :], own, mask=mask)
    mask = known & (value < values)[None, :]
    d_value = tl.load(dv + row[:, None] * values + value[None, :], mask=mask)
    tl.store(d_expanded + row[:, None] * (nope + values) + nope + value[None, :], d_value, mask=mask)
    mask = known & (tail < rope)[None, :]
    same = tl.load(dk + row[:, None] * (nope + rope) + nope + tail[None, :], mask=mask, other=0.0).to(tl.float32)
    tl.store(d_shared + token * rope + tail, tl.sum(same, 0).to(d_shared.dtype.element_ty), mask=tail < rope)


@launched
@triton.jit
def _logprobs_kernel(logits, targets, logp, entropy, lse, vocabulary, factor, WIDTH: tl.constexpr):
    """One pass with a running maximum a lane; lanes are joined at the end."""
    row = tl.program_id(0).to(tl.int64)
    most = tl.full([WIDTH], float("-inf"), tl.float32)
    total = tl.zeros([WIDTH], tl.float32)
    weighted = tl.zeros([WIDTH], tl.float32)
    for first in range(0, vocabulary, WIDTH):
        col = first + tl.arange(0, WIDTH)
        value = tl.load(logits + row * vocabulary + col, mask=col < vocabulary, other=float("-inf")).to(tl.float32)
        value *= factor
        larger = tl.maximum(most, value)
        shrink = tl.where(larger == most, 1.0, tl.exp(most - larger))
        share = tl.where(value == float("-inf"), 0.0, tl.exp(value - larger))
        total = total * shrink + share
        weighted = weighted * shrink + tl.where(value == float("-inf"), 0.0, share * value)
        most = larger
    peak = tl.max(most, 0)
    shrink = tl.where(most == float("-inf"), 0.0, tl.exp(most - peak))
    total_sum = tl.sum(total * shrink, 0)
    log_sum = peak + tl.log(total_sum)
    target = tl.load(logits + row * vocabulary + tl.load(targets + row)).to(tl.float32) * factor
    tl.store(logp + row, target - log_sum)
    tl.store(entropy + row, log_sum - tl.sum(weighted * shrink, 0) / total_sum)
    tl.store(lse + row, log_sum)


@launched
@triton.jit
def _logprobs_backward_kernel(logits, targets, lse, d_logp, vocabulary, factor, WIDTH: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    d = tl.load(d_logp + row) * factor
    log_sum = tl.load(lse + row)
    target = tl.load(targets + row)
    for first in range(0, vocabulary, WIDTH):
        col = first + tl.arange(0, WIDTH)
        mask = col < vocabulary
        value = tl.load(logits + row * vocabulary + col, mask=mask, other=0.0).to(tl.float32) * factor
        grad = d * (tl.where(col == target, 1.0, 0.0) - tl.exp(value - log_sum))
        tl.store(logits + row * vocabulary + col, grad.to(logits.dtype.element_ty), mask=mask)
