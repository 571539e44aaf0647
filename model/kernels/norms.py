"""RMSNorms of training, forward and backward: of the residual stream, where a block's output is added in the same pass,
and of the latents that queries, keys and values are expanded from. `model.linear.add_norm` and
`model.attention.Attention.latents` hold the references. Sums are FP32; weights are rounded to the input's dtype first.
"""

# Kernels are typed by Triton at each launch.
# mypy: disable-error-code="untyped-decorator, no-untyped-def"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from model.kernels.launch import launched
from model.kernels.sizes import power_of_two

PROGRAMS = 1024
"""Of a backward pass; each adds up the weights' gradient over its rows."""


def add_norm(x: Tensor, more: Tensor | None, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """``x`` [N, H] plus ``more`` [N, H], rounded once, and its norm. Without ``more`` x itself and its norm."""
    rows, hidden = x.shape
    total, normed = x if more is None else torch.empty_like(x), torch.empty_like(x)
    if rows:
        _add_norm_kernel[(rows,)](
            x, x if more is None else more, weight, total, normed, eps, hidden,
            ADD=more is not None, WIDTH=power_of_two(hidden), num_warps=_warps(hidden),
        )  # fmt: skip
    return total, normed


def add_inverse(x: Tensor, more: Tensor | None, eps: float) -> tuple[Tensor, Tensor]:
    """`add_norm` for `quantize_normed`: instead of the norm what each row is multiplied by, FP32 [N]."""
    rows, hidden = x.shape
    total, inverse = x if more is None else torch.empty_like(x), x.new_empty(rows, dtype=torch.float32)
    if rows:
        _add_inverse_kernel[(rows,)](
            x, x if more is None else more, total, inverse, eps, hidden,
            ADD=more is not None, WIDTH=power_of_two(hidden), num_warps=_warps(hidden),
        )  # fmt: skip
    return total, inverse


def add_norm_backward(
    total: Tensor, weight: Tensor, eps: float, d_total: Tensor | None, d_normed: Tensor
) -> tuple[Tensor, Tensor]:
    """The gradients of `add_norm`: of either summand, in one rounding, and FP32 of the weight."""
    rows, hidden = total.shape
    dx, programs = torch.empty_like(total), min(rows, PROGRAMS)
    parts = total.new_empty(programs, hidden, dtype=torch.float32)
    if rows:
        _add_norm_backward_kernel[(programs,)](
            total, weight, total if d_total is None else d_total.contiguous(), d_normed.contiguous(), dx, parts, eps,
            rows, hidden, ADD=d_total is not None, WIDTH=power_of_two(hidden), num_warps=_warps(hidden),
        )  # fmt: skip
    return dx, parts.sum(0)


def latents(
    joint: Tensor, turns: Tensor, query_weight: Tensor, weight: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Of ``joint`` BF16 [N, Q + L + R], what the queries' and the keys' down projections give: the first Q and the next
    L numbers normed, each with its weight, and the last R turned by ``turns`` complex64 [N, R / 2]."""
    rows, width = joint.shape
    q, latent = query_weight.shape[0], weight.shape[0]
    outs = [joint.new_empty(rows, n) for n in (q, latent, width - q - latent)]
    if rows:
        _latents_kernel[(rows,)](
            joint, torch.view_as_real(turns), query_weight, weight, *outs, eps, q, latent, width - q - latent,
            Q=power_of_two(q), L=power_of_two(latent),
            R=power_of_two(width - q - latent), num_warps=4,
        )  # fmt: skip
    return outs[0], outs[1], outs[2]


def latent_inverses(joint: Tensor, turns: Tensor, q: int, latent: int, eps: float, keys: Tensor) -> Tensor:
    """`latents` for `quantize_normed`: instead of the normed numbers what the first ``q`` and the next ``latent`` of
    each row are multiplied by, FP32 [2, N]. The turned key is written to each head of ``keys`` [N, heads, R], a part
    of a larger tensor."""
    rows, width = joint.shape
    rope, heads = width - q - latent, keys.shape[1]
    inverses = joint.new_empty(2, rows, dtype=torch.float32)
    if rows:
        _latent_inverses_kernel[(rows,)](
            joint, torch.view_as_real(turns), inverses, keys, keys.stride(0), keys.stride(1), eps, rows, q, latent,
            rope, heads, Q=power_of_two(q), L=power_of_two(latent), R=power_of_two(rope), HEADS=power_of_two(heads),
            num_warps=2,
        )  # fmt: skip
    return inverses


def latents_backward(
    joint: Tensor, turns: Tensor, query_weight: Tensor, weight: Tensor, eps: float, dq: Tensor, d_latent: Tensor,
    d_key: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """The gradients of `latents`: of ``joint``, and FP32 of both weights."""
    rows, width = joint.shape
    q, latent = query_weight.shape[0], weight.shape[0]
    d_joint, programs = torch.empty_like(joint), min(rows, 2 * PROGRAMS)  # of half as wide rows
    parts = joint.new_empty(programs, q + latent, dtype=torch.float32)
    if rows:
        _latents_backward_kernel[(programs,)](
            joint, torch.view_as_real(turns), query_weight, weight, dq.contiguous(), d_latent.contiguous(),
            d_key.contiguous(), d_joint, parts, eps, rows, q, latent, width - q - latent,
            Q=power_of_two(q), L=power_of_two(latent),
            R=power_of_two(width - q - latent), num_warps=4,
        )  # fmt: skip
    sums = parts.sum(0)
    return d_joint, sums[:q], sums[q:]


def _warps(hidden: int) -> int:
    return max(1, min(16, power_of_two(hidden) // 512))


@triton.jit
def _row(pointer, at, size, WIDTH: tl.constexpr):
    """``size`` numbers from ``at`` on, FP32."""
    i = tl.arange(0, WIDTH)
    return tl.load(pointer + at + i, mask=i < size, other=0.0).to(tl.float32)


@triton.jit
def _weight(weight, like, size, WIDTH: tl.constexpr):
    return _row(weight, 0, size, WIDTH).to(like.dtype.element_ty).to(tl.float32)


@triton.jit
def _put(pointer, at, value, size, WIDTH: tl.constexpr):
    i = tl.arange(0, WIDTH)
    tl.store(pointer + at + i, value.to(pointer.dtype.element_ty), mask=i < size)


@triton.jit
def _inverse(x, size, eps):
    """1 over the root of the mean square of ``size`` numbers, the others being zero."""
    return tl.rsqrt(tl.sum(x * x, 0) / size + eps)


@triton.jit
def _gradient(x, w, dy, size, eps):
    """Of a norm for ``dy``: that of x, and that of w for this row. Neither of the two sums waits for the other."""
    d_scaled = dy * w
    along = tl.sum(d_scaled * x, 0) / size
    inverse = _inverse(x, size, eps)
    scaled = x * inverse
    return (d_scaled - scaled * (along * inverse)) * inverse, dy * scaled


@triton.jit
def _summed(x, more, total, at, hidden, ADD: tl.constexpr, WIDTH: tl.constexpr):
    value = _row(x, at, hidden, WIDTH)
    if ADD:
        value = (value + _row(more, at, hidden, WIDTH)).to(x.dtype.element_ty).to(tl.float32)
        _put(total, at, value, hidden, WIDTH)
    return value


@launched
@triton.jit
def _add_norm_kernel(x, more, weight, total, normed, eps, hidden, ADD: tl.constexpr, WIDTH: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * hidden
    value = _summed(x, more, total, at, hidden, ADD, WIDTH)
    out = value * _inverse(value, hidden, eps) * _weight(weight, x, hidden, WIDTH)
    _put(normed, at, out, hidden, WIDTH)


@launched
@triton.jit
def _add_inverse_kernel(x, more, total, inverse, eps, hidden, ADD: tl.constexpr, WIDTH: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    value = _summed(x, more, total, row * hidden, hidden, ADD, WIDTH)
    tl.store(inverse + row, _inverse(value, hidden, eps))


@launched
@triton.jit
def _add_norm_backward_kernel(
    total, weight, d_total, d_normed, dx, parts, eps, rows, hidden, ADD: tl.constexpr, WIDTH: tl.constexpr
):  # fmt: skip
    first = tl.program_id(0).to(tl.int64)
    w = _weight(weight, total, hidden, WIDTH)
    dw = tl.zeros([WIDTH], tl.float32)
    # The next rows are on their way meanwhile.
    for turn in tl.range(tl.cdiv(rows - tl.program_id(0), tl.num_programs(0)), num_stages=3):
        at = (first + turn * tl.num_programs(0)) * hidden
        d, dw_row = _gradient(_row(total, at, hidden, WIDTH), w, _row(d_normed, at, hidden, WIDTH), hidden, eps)
        if ADD:
            d += _row(d_total, at, hidden, WIDTH)
        _put(dx, at, d, hidden, WIDTH)
        dw += dw_row
    _put(parts, first * hidden, dw, hidden, WIDTH)


@triton.jit
def _turned(pointer, at, turns, where, size, sign, R: tl.constexpr):
    """``size`` numbers from ``at`` on, pair by pair turned by the complex numbers from ``where`` on, or back."""
    i = tl.arange(0, R)
    mask = i < size
    value = tl.load(pointer + at + i, mask=mask, other=0.0).to(tl.float32)
    other = tl.load(pointer + at + (i ^ 1), mask=mask, other=0.0).to(tl.float32)
    real = tl.load(turns + where + i // 2 * 2, mask=mask, other=1.0)
    imaginary = tl.load(turns + where + i // 2 * 2 + 1, mask=mask, other=0.0) * sign
    return value * real + tl.where(i % 2 == 0, -imaginary, imaginary) * other


@launched
@triton.jit
def _latents_kernel(
    joint, turns, query_weight, weight, q_out, latent_out, key_out, eps, q, latent, rope,
    Q: tl.constexpr, L: tl.constexpr, R: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    at = row * (q + latent + rope)
    q_x, latent_x = _row(joint, at, q, Q), _row(joint, at + q, latent, L)
    key = _turned(joint, at + q + latent, turns, row * rope, rope, 1.0, R)
    out = q_x * _inverse(q_x, q, eps) * _weight(query_weight, joint, q, Q)
    _put(q_out, row * q, out, q, Q)
    out = latent_x * _inverse(latent_x, latent, eps) * _weight(weight, joint, latent, L)
    _put(latent_out, row * latent, out, latent, L)
    _put(key_out, row * rope, key, rope, R)


@launched
@triton.jit
def _latent_inverses_kernel(
    joint, turns, inverses, keys, line, stride, eps, rows, q, latent, rope, heads,
    Q: tl.constexpr, L: tl.constexpr, R: tl.constexpr, HEADS: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    at = row * (q + latent + rope)
    q_x, latent_x = _row(joint, at, q, Q), _row(joint, at + q, latent, L)
    key = _turned(joint, at + q + latent, turns, row * rope, rope, 1.0, R)
    tl.store(inverses + row, _inverse(q_x, q, eps))
    tl.store(inverses + rows + row, _inverse(latent_x, latent, eps))
    head, i = tl.arange(0, HEADS)[:, None], tl.arange(0, R)[None, :]
    same = key.to(keys.dtype.element_ty)[None, :].broadcast_to(HEADS, R)
    tl.store(keys + row * line + head * stride + i, same, mask=(head < heads) & (i < rope))


@launched
@triton.jit
def _latents_backward_kernel(
    joint, turns, query_weight, weight, dq, d_latent, d_key, d_joint, parts, eps, rows, q, latent, rope,
    Q: tl.constexpr, L: tl.constexpr, R: tl.constexpr,
):  # fmt: skip
    first = tl.program_id(0).to(tl.int64)
    q_w = _weight(query_weight, joint, q, Q)
    latent_w = _weight(weight, joint, latent, L)
    q_dw = tl.zeros([Q], tl.float32)
    latent_dw = tl.zeros([L], tl.float32)
    for turn in range(tl.cdiv(rows - tl.program_id(0), tl.num_programs(0))):
        row = first + turn * tl.num_programs(0)
        at = row * (q + latent + rope)
        # All is read before anything is written: no read is moved past a write, and each would be waited for.
        q_x, q_dy = _row(joint, at, q, Q), _row(dq, row * q, q, Q)
        latent_x, latent_dy = _row(joint, at + q, latent, L), _row(d_latent, row * latent, latent, L)
        d_rope = _turned(d_key, row * rope, turns, row * rope, rope, -1.0, R)
        d, dw_row = _gradient(q_x, q_w, q_dy, q, eps)
        _put(d_joint, at, d, q, Q)
        q_dw += dw_row
        d, dw_row = _gradient(latent_x, latent_w, latent_dy, latent, eps)
        _put(d_joint, at + q, d, latent, L)
        latent_dw += dw_row
        _put(d_joint, at + q + latent, d_rope, rope, R)
    at = first * (q + latent)
    _put(parts, at, q_dw, q, Q)
    _put(parts, at + q, latent_dw, latent, L)
