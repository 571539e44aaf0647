"""Every kernel on a CUDA device against FP64 on the decoded operands, over hostile inputs and uneven shapes; outputs
are poisoned first, so that what a kernel does not write shows as a NaN."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor

from model import fp8
from model.fp8 import Quantized

if TYPE_CHECKING:
    from model.kernels.rows import Places

pytest.importorskip("triton", reason="the kernels are written in triton")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

BF16_ERROR = 2.5e-3
"""Relative in norm: rounding the result to BF16 costs 1.7e-3, the products and their sums the rest."""
FP32_ERROR = 1e-3
COUNTS = [[384], [1], [0, 130, 0, 70, 1], [128, 256, 0, 127, 129], [0, 0, 5], [300, 0, 0, 0, 0, 0, 0, 212]]


def inputs(kind: str, *shape: int) -> Tensor:
    x = torch.randn(*shape, device="cuda")
    if kind == "outliers":
        x = x * torch.where(torch.rand_like(x) < 1e-3, 1e4, 1.0)
    if kind == "adversarial":  # tiles of zeros, of one sign, of tiny and of huge numbers side by side
        x = x.abs() * 10.0 ** torch.randint(-6, 5, (shape[0], *[1] * (len(shape) - 1)), device="cuda")
        x[..., : min(128, shape[-1] // 2)] = 0
    return x.bfloat16()


@pytest.fixture(autouse=True)
def _poison(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    monkeypatch.setattr(torch, "empty", poisoned(torch.empty))
    monkeypatch.setattr(torch, "empty_like", poisoned(torch.empty_like))
    monkeypatch.setattr(Tensor, "new_empty", poisoned(Tensor.new_empty))
    monkeypatch.setattr(Tensor, "new_empty_strided", poisoned(Tensor.new_empty_strided))


def poisoned(make):  # type: ignore[no-untyped-def]
    def filled(*args, **kwargs):  # type: ignore[no-untyped-def]
        out = make(*args, **kwargs)
        if out.dtype == torch.float8_e4m3fn:
            out.view(torch.uint8).fill_(0x7F)
        elif out.is_floating_point():
            out.fill_(float("nan"))
        return out

    return filled


def far(out: Tensor, expected: Tensor) -> float:
    assert not out.double().isnan().any(), "a NaN: something was not written"
    return float((out.double() - expected).norm() / expected.norm().clamp_min(1e-30))


def decoded(q: Quantized, *, blocks: bool = False) -> Tensor:
    return (fp8.dequantize_blocks(q) if blocks else fp8.dequantize_tiles(q)).double()


def same_codes(q: Quantized, expected: Quantized) -> None:
    """Against the reference on the CPU: on CUDA torch divides by 448 by multiplying with its reciprocal.

    One code in 2,000 is a step off, a quotient that is a tie but for rounding. How many ties a tile has hangs on its
    amax, so that a sample's count has twice the variance of independent events: it may be twice the mean and five
    standard deviations more."""
    assert torch.equal(q.scale.cpu(), expected.scale)
    ours, theirs = q.data.view(torch.uint8).int().cpu(), expected.data.view(torch.uint8).int()
    assert int((ours - theirs).abs().max()) <= 1
    mean = ours.numel() / 2000
    assert int((ours != theirs).sum()) <= 2 * mean + 5 * (2 * mean) ** 0.5


def placed(counts: list[int]) -> Places:
    """Places of rows that come sorted by expert."""
    from model.kernels.rows import places

    each = torch.tensor(counts, device="cuda")
    return places(torch.arange(len(counts), device="cuda").repeat_interleave(each).unsqueeze(-1), each)


def in_places(x: Tensor, places: Places) -> tuple[Quantized, Quantized]:
    from model.kernels.quantize import quantize_placed, quantize_tiles

    return quantize_placed(x, quantize_tiles(x), places)


@pytest.mark.parametrize("kind", ["random", "outliers", "adversarial"])
@pytest.mark.parametrize("shape", [(256, 512), (200, 320), (1, 128), (129, 2112)])
def test_tiles_are_the_reference_s(kind: str, shape: tuple[int, int]) -> None:
    from model.kernels.quantize import quantize_both

    x = inputs(kind, *shape)
    rows, columns = quantize_both(x)
    same_codes(rows, fp8.quantize_tiles(x.cpu()))
    padded = torch.nn.functional.pad(x, (0, 0, 0, -len(x) % 128))
    same_codes(columns, fp8.quantize_tiles(padded.T.contiguous().cpu()))


@pytest.mark.parametrize("kind", ["random", "outliers"])
@pytest.mark.parametrize("width", [128, 320, 2048, 2112])
def test_tiles_in_places_are_those_of_the_moved_rows(kind: str, width: int) -> None:
    from model.kernels.quantize import quantize_both
    from model.kernels.rows import permute, places

    x, indices = inputs(kind, 300, width), torch.rand(300, 16, device="cuda").argsort(-1)[:, :6]
    found = places(indices, torch.bincount(indices.flatten(), minlength=16))
    rows, columns = in_places(x, found)
    expected_rows, expected_columns = quantize_both(permute(x, found))
    at, end = found.place.flatten(), int(found.ends[-1])
    assert torch.equal(rows.data[:end].view(torch.uint8), expected_rows.data[:end].view(torch.uint8))
    assert torch.equal(rows.scale[at], expected_rows.scale[at])
    assert torch.equal(columns.data[:, :end].view(torch.uint8), expected_columns.data[:, :end].view(torch.uint8))
    assert torch.equal(columns.scale[:, : end // 128], expected_columns.scale[:, : end // 128])


@pytest.mark.parametrize("start", [0, 1, 8])
def test_addresses_and_sizes_of_other_kinds_are_compiled_for(start: int) -> None:
    from model.kernels.quantize import quantize_tiles

    x = inputs("random", 33 * 640)[start:][: 32 * 640].view(32, 640)
    for rows in (16, 17, 1):
        same_codes(quantize_tiles(x[:rows]), fp8.quantize_tiles(x[:rows].cpu()))


@pytest.mark.parametrize("kind", ["random", "outliers", "adversarial"])
@pytest.mark.parametrize("shape", [(2, 256, 384), (3, 200, 320), (1, 1024, 2112)])
def test_blocks_are_the_reference_s(kind: str, shape: tuple[int, int, int]) -> None:
    from model.kernels.quantize import quantize_blocks

    w = inputs(kind, *shape)
    q, turned = quantize_blocks(w, transpose=True)
    same_codes(q, fp8.quantize_blocks(w.cpu()))
    assert turned is not None
    assert torch.equal(turned.data.view(torch.uint8), q.data.view(torch.uint8).mT)
    assert torch.equal(turned.scale, q.scale.mT)


@pytest.mark.parametrize("shape", [(1, 128, 512), (3, 200, 320), (1, 576, 1024)])
def test_an_update_with_fp8_blocks_is_the_plain_one_and_its_blocks(shape: tuple[int, int, int]) -> None:
    from model.kernels.adamw import adamw
    from model.kernels.quantize import Weights, quantize_blocks

    p, g, m, v = torch.randn(4, *shape, device="cuda").unbind()
    plain, fused = ([p.clone(), g, m.bfloat16(), v.abs().bfloat16()] for _ in range(2))
    rows, turned = quantize_blocks(p, transpose=True)
    assert turned is not None
    for x, blocks in ((plain, None), (fused, Weights(rows, turned))):
        adamw(*x, lr=1e-2, beta1=0.9, beta2=0.95, eps=1e-8, decay=0.1, step=3, scale=0.3, blocks=blocks)
    for x, y in zip(fused, plain, strict=True):
        torch.testing.assert_close(x, y, rtol=2**-7 if x.dtype == torch.bfloat16 else 1e-6, atol=1e-6)
    for found, expected in zip((rows, turned), quantize_blocks(fused[0], transpose=True), strict=True):
        assert expected is not None
        assert torch.equal(found.data.view(torch.uint8), expected.data.view(torch.uint8))
        assert torch.equal(found.scale, expected.scale)


@pytest.mark.parametrize("kind", ["random", "outliers"])
def test_swiglu_is_rounded_once(kind: str) -> None:
    from model.kernels.quantize import swiglu_quantize
    from model.kernels.rows import permute

    counts = [0, 130, 70, 0, 1]
    x, weights = inputs(kind, 201, 640), torch.rand(201, 1, device="cuda")
    places = placed(counts)
    rows, columns = swiglu_quantize(permute(x, places), weights, places, powers_of_two=True)
    at = places.place[:, 0]
    rows = Quantized(rows.data[at], rows.scale[at])
    gate, up = x.double().chunk(2, -1)
    expected = torch.nn.functional.silu(gate) * up * weights.double()
    step = rows.scale.double().repeat_interleave(128, 1)[:, :320] * 2.0**-9
    assert bool(((decoded(rows) - expected).abs() <= expected.abs() * (2.0**-4 + 1e-5) + step).all())
    assert bool((rows.scale.log2() % 1 == 0).all())
    start = sum(-(-n // 128) * 128 for n in counts[:2])
    assert far(decoded(columns)[:, start : start + 70], expected[130:200].T) < 0.04


@pytest.mark.parametrize("kind", ["random", "outliers", "adversarial"])
@pytest.mark.parametrize("counts", COUNTS)
@pytest.mark.parametrize(("n", "k"), [(256, 512), (200, 320), (2112, 128), (128, 1040)])
@pytest.mark.parametrize("halves", [1, 2])
def test_forward_and_dgrad(
    kind: str, counts: list[int], n: int, k: int, halves: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from model.kernels import products
    from model.kernels.products import grouped_matmul
    from model.kernels.quantize import quantize_blocks

    monkeypatch.setattr(products, "_halves", lambda *_: halves)
    places = placed(counts)
    (x, _), (w, _) = (
        in_places(inputs(kind, sum(counts), k), places),
        quantize_blocks(inputs(kind, len(counts), n, k)),
    )
    out = grouped_matmul(x, w, places.ends, ours=True)
    at = places.place[:, 0]
    expected = fp8.grouped_matmul(decoded(Quantized(x.data[at], x.scale[at])), decoded(w, blocks=True), counts)
    assert far(out[at], expected) < BF16_ERROR


@pytest.mark.parametrize("kind", ["random", "outliers", "adversarial"])
@pytest.mark.parametrize(
    ("m", "n", "k"),
    [(384, 256, 512), (129, 200, 320), (1, 2112, 128), (300, 128, 512), (1000, 576, 1344), (384, 256, 4224)],
)
@pytest.mark.parametrize("ours", [True, False, None])
def test_dense(kind: str, m: int, n: int, k: int, ours: bool | None) -> None:
    from model.kernels.products import matmul
    from model.kernels.quantize import quantize_blocks, quantize_tiles

    x, (w, _) = quantize_tiles(inputs(kind, m, k)), quantize_blocks(inputs(kind, 1, n, k))
    assert far(matmul(x, w, ours=ours), decoded(x) @ decoded(w, blocks=True)[0].T) < BF16_ERROR


@pytest.mark.parametrize("tokens", [100, 300, 1300])
@pytest.mark.parametrize(("n", "k"), [(384, 256), (1536, 1024)])
@pytest.mark.parametrize("ours", [True, False])
def test_dense_wgrad(tokens: int, n: int, k: int, ours: bool) -> None:
    """Of few tiles, for which tokens are multiplied in parts, and of enough."""
    from model.kernels.products import wgrad
    from model.kernels.quantize import quantize_both

    (_, dy), (_, x) = quantize_both(inputs("random", tokens, n)), quantize_both(inputs("random", tokens, k))
    assert far(wgrad(dy, x, ours=ours), decoded(dy) @ decoded(x).T) < FP32_ERROR


@pytest.mark.parametrize("kind", ["random", "outliers", "adversarial"])
@pytest.mark.parametrize("counts", COUNTS)
@pytest.mark.parametrize(("n", "k"), [(256, 512), (200, 320), (64, 132)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_wgrad(kind: str, counts: list[int], n: int, k: int, dtype: torch.dtype) -> None:
    from model.kernels.products import grouped_wgrad

    if dtype == torch.bfloat16 and k % 8:
        k += 4
    places = placed(counts)
    dy, x = in_places(inputs(kind, sum(counts), n), places)[1], in_places(inputs("random", sum(counts), k), places)[1]
    out = grouped_wgrad(dy, x, places.ends, dtype=dtype)
    dy_d, x_d, start = decoded(dy), decoded(x), 0
    for e, count in enumerate(counts):
        end = start + -(-count // 128) * 128
        expected = dy_d[:, start:end] @ x_d[:, start:end].T
        assert far(out[e], expected) < (FP32_ERROR if dtype == torch.float32 else BF16_ERROR)
        start = end


@pytest.mark.parametrize("halves", [1, 2])
def test_the_same_at_every_run(halves: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from model.kernels import products
    from model.kernels.products import grouped_matmul
    from model.kernels.quantize import quantize_blocks

    monkeypatch.setattr(products, "_halves", lambda *_: halves)
    places = placed(torch.randint(0, 900, (16,)).tolist())
    rows, end = len(places.place), int(places.ends[-1])
    x, w = in_places(inputs("random", rows, 1024), places)[0], quantize_blocks(inputs("random", 16, 768, 1024))[0]
    first, *others = (grouped_matmul(x, w, places.ends, ours=True)[:end] for _ in range(20))
    assert all(torch.equal(first, other) for other in others)


@pytest.mark.parametrize(("tokens", "hidden"), [(1, 64), (300, 2048), (77, 2112), (64, 7168)])
def test_rows_there_and_back(tokens: int, hidden: int) -> None:
    from model.kernels.rows import permute, places, unpermute, unpermute_onto

    k = 6
    x, gates = inputs("random", tokens, hidden), torch.rand(tokens, k, device="cuda")
    indices = torch.rand(tokens, 16, device="cuda").argsort(-1)[:, :k]
    found = places(indices, torch.bincount(indices.flatten(), minlength=16))
    rows = permute(x, found)
    assert torch.equal(rows[found.place], x.unsqueeze(1).expand(-1, k, -1))
    gated = x.double() * gates.double().sum(1, keepdim=True)
    assert far(unpermute(rows, found.place, gates), gated) < BF16_ERROR
    base, stream = (inputs("random", tokens, hidden) for _ in range(2))
    onto, inverse = unpermute_onto(rows, found.place, base, stream, 1e-6)
    assert far(onto, k * x.double() + base.double() + stream.double()) < BF16_ERROR
    assert far(inverse, (onto.double().square().mean(1) + 1e-6).rsqrt()) < 1e-5
    assert far(unpermute(rows, found.place, gates, base, stream), gated + base.double() + stream.double()) < BF16_ERROR


@pytest.mark.parametrize(
    ("experts", "groups", "kept", "k"), [(64, 8, 4, 6), (256, 8, 4, 8), (64, 1, 1, 6), (160, 8, 3, 6)]
)
def test_router(experts: int, groups: int, kept: int, k: int) -> None:
    from model.kernels.router import route

    tokens = 1000
    logits, bias = torch.randn(tokens, experts, device="cuda"), torch.randn(experts, device="cuda") * 0.1
    scores, indices, gates, counts = route(logits, bias, k=k, groups=groups, kept=kept, factor=2.5)
    expected = logits.double().sigmoid()
    assert far(scores, expected) < 1e-6
    choice = scores + bias
    grouped = choice.unflatten(-1, (groups, -1))
    if groups > 1:
        best = grouped.topk(2, -1).values.sum(-1).topk(kept, -1).indices
        keep = torch.zeros_like(grouped[..., 0], dtype=torch.bool).scatter(-1, best, True)
        choice = grouped.masked_fill(~keep.unsqueeze(-1), float("-inf")).flatten(-2)
    top = choice.topk(k, -1).indices
    assert float((top != indices).any(-1).float().mean()) < 2e-3  # near ties
    chosen = expected.gather(-1, indices)
    assert far(gates, chosen / chosen.sum(-1, keepdim=True) * 2.5) < 1e-6
    assert torch.equal(counts, torch.bincount(indices.flatten(), minlength=experts))


@pytest.mark.parametrize("kind", ["random", "outliers"])
@pytest.mark.parametrize(("rows", "hidden"), [(300, 2048), (1, 96), (1030, 7168)])
def test_norms_of_the_stream(kind: str, rows: int, hidden: int) -> None:
    from model.kernels.norms import add_inverse, add_norm, add_norm_backward

    x, more, d_total, d_normed = (inputs(kind, rows, hidden) for _ in range(4))
    weight = torch.rand(hidden, device="cuda")
    total, normed = add_norm(x, more, weight, 1e-6)
    same, inverse = add_inverse(x, more, 1e-6)
    assert torch.equal(same, total)
    assert far(same * inverse[:, None] * weight.bfloat16(), normed.double()) < BF16_ERROR
    assert torch.equal(total, x + more)
    leaf, w = total.double().requires_grad_(), weight.bfloat16().double().requires_grad_()
    expected = torch.nn.functional.rms_norm(leaf, (hidden,), w, 1e-6)
    assert far(normed, expected.detach()) < BF16_ERROR
    torch.autograd.backward((leaf, expected), (d_total.double(), d_normed.double()))
    dx, dw = add_norm_backward(total, weight, 1e-6, d_total, d_normed)
    assert leaf.grad is not None
    assert w.grad is not None
    assert far(dx, leaf.grad) < BF16_ERROR
    assert far(dw, w.grad) < FP32_ERROR


@pytest.mark.parametrize(("q", "latent"), [(768, 512), (96, 160)])
def test_latents(q: int, latent: int) -> None:
    from model import rope
    from model.kernels.norms import latents, latents_backward

    joint, weights = inputs("random", 1100, q + latent + 64), [torch.rand(n, device="cuda") for n in (q, latent)]
    turns = rope.rotations(torch.arange(1100, device="cuda"), torch.rand(32, device="cuda"))
    leaf, w = joint.double().requires_grad_(), [x.bfloat16().double().requires_grad_() for x in weights]
    parts = leaf.split([q, latent, 64], -1)
    normed = [torch.nn.functional.rms_norm(x, x.shape[1:], y, 1e-6) for x, y in zip(parts[:2], w, strict=True)]
    key = torch.view_as_real(torch.view_as_complex(parts[2].unflatten(-1, (-1, 2))) * turns).flatten(-2)
    d = [inputs("random", 1100, n) for n in (q, latent, 64)]
    torch.autograd.backward((*normed, key), [x.double() for x in d])
    for found, expected in zip(latents(joint, turns, *weights, 1e-6), (*normed, key), strict=True):
        assert far(found, expected.detach()) < BF16_ERROR
    d_joint, *d_weights = latents_backward(joint, turns, *weights, 1e-6, *d)
    assert leaf.grad is not None
    assert far(d_joint, leaf.grad) < BF16_ERROR
    assert all(y.grad is not None and far(x, y.grad) < FP32_ERROR for x, y in zip(d_weights, w, strict=True))


def test_latents_are_normed_as_they_are_quantised() -> None:
    from model import rope
    from model.kernels.norms import latent_inverses, latents
    from model.kernels.quantize import quantize_both, quantize_normed

    joint, weights = inputs("random", 300, 768 + 512 + 64), [torch.rand(n, device="cuda") for n in (768, 512)]
    turns = rope.rotations(torch.arange(300, device="cuda"), torch.rand(32, device="cuda"))
    *normed, key = latents(joint, turns, *weights, 1e-6)
    wide = torch.zeros(300, 6, 320, dtype=torch.bfloat16, device="cuda")
    inverses = latent_inverses(joint, turns, 768, 512, 1e-6, wide[..., 128:192])
    assert torch.equal(wide[..., 128:192], key.unsqueeze(1).expand(-1, 6, -1))
    assert not wide[..., :128].any()
    assert not wide[..., 192:].any()
    for x, inverse, weight, y in zip(joint.split([768, 512, 64], -1), inverses, weights, normed, strict=False):
        found, unfused = quantize_normed(x, inverse, weight), quantize_both(y)
        exact = x.double() * inverse.double()[:, None] * weight.bfloat16().double()
        padded = torch.nn.functional.pad(exact, (0, 0, 0, -300 % 128))
        for ours, theirs, expected in zip(found, unfused, (exact, padded.T), strict=True):
            assert far(ours.scale, theirs.scale.double()) < BF16_ERROR
            assert far(decoded(ours), expected) < far(decoded(theirs), expected) * 1.02


def test_gradients_of_latents_are_rounded_once() -> None:
    from model import rope
    from model.kernels.gradients import latents_backward
    from model.kernels.norms import latent_inverses
    from model.kernels.norms import latents_backward as unfused
    from model.kernels.quantize import quantize_both

    joint, sizes = inputs("random", 300, 768 + 512 + 64), (768, 512, 64)
    weights = torch.rand(768, device="cuda"), torch.rand(512, device="cuda")
    turns = rope.rotations(torch.arange(300, device="cuda"), torch.rand(32, device="cuda"))
    inverses = latent_inverses(joint, turns, 768, 512, 1e-6, joint.new_empty(300, 1, 64))
    d = [inputs("outliers", 300, n) for n in sizes]
    leaf, w = joint.double().requires_grad_(), [x.bfloat16().double().requires_grad_() for x in weights]
    parts = leaf.split(sizes, -1)
    normed = [torch.nn.functional.rms_norm(x, x.shape[1:], y, 1e-6) for x, y in zip(parts[:2], w, strict=True)]
    key = torch.view_as_real(torch.view_as_complex(parts[2].unflatten(-1, (-1, 2))) * turns).flatten(-2)
    torch.autograd.backward((*normed, key), [x.double() for x in d])
    *found, d_weights = latents_backward(joint, turns, weights, inverses, *d)
    theirs = quantize_both(unfused(joint, turns, *weights, 1e-6, *d)[0])
    assert leaf.grad is not None
    padded = torch.nn.functional.pad(leaf.grad, (0, 0, 0, -300 % 128))
    for fused, apart, expected in zip(found, theirs, (leaf.grad, padded.T), strict=True):
        assert far(fused.scale, apart.scale.double()) < BF16_ERROR
        assert far(decoded(fused), expected) < far(decoded(apart), expected) * 1.02
    d_w = torch.cat([y.grad for y in w if y.grad is not None])
    assert far(d_weights, d_w) < FP32_ERROR


@pytest.mark.parametrize("tokens", [300, 4096])
def test_keys_and_values_are_written_where_they_are_read(tokens: int) -> None:
    from model.kernels.products import keys_and_values, matmul
    from model.kernels.quantize import quantize_blocks, quantize_tiles

    x, w = quantize_tiles(inputs("random", tokens, 512)), quantize_blocks(inputs("random", 1, 6 * 384, 512))[0]
    out = torch.full((tokens, 6, 448), 7.0, dtype=torch.bfloat16, device="cuda")
    keys_and_values(x, w, out, 256)
    expected = matmul(x, w, ours=True).view(tokens, 6, 384)
    assert torch.equal(out[..., :256], expected[..., :256])
    assert torch.equal(out[..., 320:], expected[..., 256:])
    assert bool((out[..., 256:320] == 7).all())


@pytest.mark.parametrize("gated", [True, False])
def test_swiglu_s_gradient_is_rounded_once(gated: bool) -> None:
    from model.kernels.quantize import swiglu_backward, swiglu_quantize

    places = placed([0, 130, 70, 0, 1]) if gated else None
    at = places.place[:, 0] if places is not None else torch.arange(201, device="cuda")
    rows = len(places.choice) if places is not None else 201
    gate_up, dh, gates = inputs("random", rows, 512), inputs("random", rows, 256), torch.rand(201, 1, device="cuda")
    leaf, weight = gate_up[at].double().requires_grad_(), (gates if gated else torch.ones_like(gates)).double()
    weight.requires_grad_()
    gate, up = leaf.chunk(2, -1)
    hidden = torch.nn.functional.silu(gate) * up * weight
    hidden.backward(dh[at].double())
    grads = swiglu_backward(gate_up, dh, gates if gated else None, places)
    assert leaf.grad is not None
    assert weight.grad is not None
    assert far(decoded(grads.d_rows)[at], leaf.grad) < 0.04
    assert far(decoded(grads.d_columns)[:, at], leaf.grad.T) < 0.04
    _, hidden_columns = swiglu_quantize(gate_up, gates if gated else None, places)
    assert far(decoded(hidden_columns)[:, at], hidden.detach().T) < 0.04
    if gated:
        assert grads.d_gates is not None
        assert far(grads.d_gates[at], weight.grad[:, 0]) < 1e-5


def test_gradients_of_keys_are_the_unfused_ones() -> None:
    from model.kernels.elementwise import join_keys_backward
    from model.kernels.gradients import keys_backward
    from model.kernels.quantize import quantize_both

    dk, dv = inputs("outliers", 300, 6, 192), inputs("random", 300, 6, 128)
    d_expanded, d_shared = join_keys_backward(dk, dv, 128)
    *found, d_key = keys_backward(dk, dv, 128)
    for ours, theirs in zip(found, quantize_both(d_expanded.flatten(1)), strict=True):
        assert torch.equal(ours.data.view(torch.uint8), theirs.data.view(torch.uint8))
        assert torch.equal(ours.scale, theirs.scale)
    assert far(d_key, d_shared.double()) < BF16_ERROR


@pytest.mark.parametrize(("tokens", "heads", "nope", "size"), [(300, 6, 128, 192), (128, 3, 64, 112)])
def test_gradients_of_queries_are_turned_as_they_are_quantised(tokens: int, heads: int, nope: int, size: int) -> None:
    from model import rope
    from model.kernels.elementwise import rotate_tail
    from model.kernels.gradients import queries_backward
    from model.kernels.quantize import quantize_both

    dq = inputs("random", tokens, heads, size)
    turns = rope.rotations(torch.arange(tokens, device="cuda"), torch.rand((size - nope) // 2, device="cuda"))
    head, tail = dq.double().split([nope, size - nope], -1)
    tail = torch.view_as_real(torch.view_as_complex(tail.unflatten(-1, (-1, 2))) * turns.conj().unsqueeze(1)).flatten(
        -2
    )
    exact = torch.cat([head, tail], -1).flatten(1)
    padded = torch.nn.functional.pad(exact, (0, 0, 0, -tokens % 128))
    found = queries_backward(dq, turns, nope)
    unfused = quantize_both(rotate_tail(dq, turns, nope, back=True).flatten(1))
    for ours, theirs, expected in zip(found, unfused, (exact, padded.T), strict=True):
        assert far(ours.scale, theirs.scale.double()) < BF16_ERROR
        assert far(decoded(ours), expected) < far(decoded(theirs), expected) * 1.02


@pytest.mark.parametrize("precision", ["bf16", "fp8"])
def test_a_row_s_bits_do_not_depend_on_the_batch(precision: str) -> None:
    from model.kernels import stream
    from model.kernels.invariant import Weight, experts, experts_swiglu, linear, linear_parts, linear_quantized
    from model.kernels.quantize import quantize_blocks

    def weight(*shape: int) -> Weight:
        w = inputs("random", *shape)
        return Weight(*quantize_blocks(w)[0]) if precision == "fp8" else Weight(w)

    count, k, tokens = 16, 4, 3000
    x, logits, bias = inputs("random", tokens, 512), torch.randn(tokens, 1, count, device="cuda"), torch.zeros(count)
    gate_up, down = weight(count + 1, 512, 512), weight(count + 1, 512, 256)
    line = Weight(gate_up.data[0], None if gate_up.scale is None else gate_up.scale[0])
    heads, turned = inputs("random", 4, 128, 64), x.view(tokens, 8, 64)[:, :4]

    def results(rows: int) -> list[Tensor]:
        counts = torch.zeros(count + 1, dtype=torch.int32, device="cuda")
        _, _, chosen = stream.choose(
            logits[:rows], bias.cuda(), counts, k=k, groups=1, kept=1, shared=1, normalize=True, factor=1.0
        )
        codes, sizes = linear_quantized(turned[:rows], Weight(heads))
        inner = experts_swiglu(x[:rows], gate_up, chosen)
        parts = linear_parts(x[:rows], line).unbind(1)
        added = functools.reduce(torch.add, parts)
        return [linear(x[:rows], line), added, codes.view(torch.uint8), sizes, experts(inner, down, chosen)]

    for rows in (1, 64, 65, 500, 2000):
        assert all(torch.equal(few, many[:rows]) for few, many in zip(results(rows), results(tokens), strict=True))


def test_attention_s_bits_do_not_depend_on_how_it_is_split() -> None:
    from model.kernels import latent
    from model.kernels.latent import Places, attend

    tokens, pages = 300, 20
    positions = torch.randint(0, 64 * pages, (tokens,), device="cuda").int()
    table = torch.arange(tokens * pages, device="cuda").int().view(tokens, pages)
    pool = inputs("random", tokens * pages * 64, 192).view(-1, 64, 192)
    absorbed, q, turns = inputs("random", tokens, 16, 128), inputs("random", tokens, 16, 128), torch.rand(2000, 32, 2)
    assert tokens * 16 > latent.SPLIT_HEADS

    def result(rows: slice) -> Tensor:
        each = torch.arange(tokens, device="cuda").int()[rows]
        places = Places(each, positions[rows], table)
        return attend(absorbed[rows], q[rows], turns.cuda(), pool, places, 0.1)

    whole = result(slice(tokens))
    for rows in (slice(1), slice(1, 3), slice(100, 200)):
        assert torch.equal(result(rows), whole[rows])
    assert bool(whole.isfinite().all())


@pytest.mark.parametrize("kind", ["random", "outliers", "adversarial"])
def test_weights_on_their_way_are_what_they_are_by_themselves(kind: str) -> None:
    """Cast as torch casts, quantised as one tensor is, digested as on a CPU."""
    from model import digest
    from model.kernels.quantize import quantize_blocks
    from model.kernels.transfer import Passing, Quantizing, Transfer

    plain = [inputs(kind, rows, 1030).float() * 1.001 for rows in (1, 7, 3000)]
    targets = [torch.empty_like(plain[0]), *(torch.empty_like(x, dtype=torch.bfloat16) for x in plain[1:])]
    weights = [inputs(kind, *shape).float() * 1.001 for shape in ((3, 200, 320), (1, 128, 144), (8, 1024, 2048))]
    rooms = [
        Quantized(torch.empty_like(w, dtype=torch.float8_e4m3fn), w.new_empty(fp8.scale_shape(w))) for w in weights
    ]
    cast = torch.empty_like(targets[2])
    words = [*map(Passing, plain, targets), Passing(plain[1]), Passing(plain[2], cast, sent=True)]
    transfer = Transfer.of(words, [*map(Quantizing, weights, rooms)])
    arrived = [*targets, plain[1], plain[2], *(t for room in rooms for t in room)]
    for _ in range(3):
        found = transfer.run()
        assert torch.equal(found.cpu(), digest.sums([t.cpu() for t in arrived]))
    for x, target in zip([*plain, plain[2]], [*targets, cast], strict=True):
        assert torch.equal(target, x.to(target.dtype))
    for w, room in zip(weights, rooms, strict=True):
        expected, _ = quantize_blocks(w)
        assert torch.equal(room.data.view(torch.uint8), expected.data.view(torch.uint8))
        assert torch.equal(room.scale, expected.scale)


@pytest.mark.parametrize("kind", ["random", "outliers", "adversarial"])
def test_what_an_engine_keeps_of_weights_is_what_torch_makes_of_them(kind: str) -> None:
    from model.derived import bf16_terms
    from model.kernels.invariant import Weight
    from model.kernels.reshaped import halves, router_terms

    w = inputs(kind, 3 * (128 + 64), 512).float()
    q = fp8.quantize_blocks(w)
    for given, plain in ((Weight(w.bfloat16()), w), (Weight(*q), fp8.dequantize_blocks(q))):
        up_k, up_v = plain.bfloat16().unflatten(0, (3, -1)).split([128, 64], 1)
        found = halves(given, 3, 128, torch.bfloat16)
        assert torch.equal(found[0], up_k.mT)
        assert torch.equal(found[1], up_v)
    router = inputs(kind, 64, 2048).float() * 1.001
    expected = bf16_terms(router).view(-1, 4, 512).transpose(0, 1)
    assert torch.equal(router_terms(router, torch.bfloat16, 4), expected)
