from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from model import fp8
from model.linear import GroupedLinear, Linear, set_precision

SHAPES = [(1, 128), (3, 64), (130, 200), (128, 256), (5, 513)]


def wild(*shape: int) -> torch.Tensor:
    """Values over many magnitudes, with outliers."""
    torch.manual_seed(sum(shape))
    return torch.randn(shape) * torch.exp(2 * torch.randn(shape))


@pytest.mark.parametrize("shape", SHAPES)
def test_tiles_are_within_half_a_step_of_e4m3(shape: tuple[int, int]) -> None:
    x = wild(*shape)
    q = fp8.quantize_tiles(x)
    assert q.data.dtype == torch.float8_e4m3fn
    assert q.scale.shape == (shape[0], -(-shape[1] // 128))
    scale = q.scale.repeat_interleave(128, -1)[:, : shape[1]]
    # Three mantissa bits: half a step is 1/16 of the value, or half the smallest subnormal 2^-9 near zero.
    assert ((fp8.dequantize_tiles(q) - x).abs() <= x.abs() / 16 + scale * 2**-10 + 1e-12).all()


@pytest.mark.parametrize("shape", SHAPES)
def test_blocks_are_within_half_a_step_of_e4m3(shape: tuple[int, int]) -> None:
    w = wild(*shape)
    q = fp8.quantize_blocks(w)
    assert q.scale.shape == (-(-shape[0] // 128), -(-shape[1] // 128))
    assert q.data.shape == w.shape
    scale = q.scale.repeat_interleave(128, -1).repeat_interleave(128, -2)[: shape[0], : shape[1]]
    assert ((fp8.dequantize_blocks(q) - w).abs() <= w.abs() / 16 + scale * 2**-10 + 1e-12).all()


def test_a_stack_of_experts_is_quantised_expert_by_expert() -> None:
    w = wild(3, 130, 140)
    q = fp8.quantize_blocks(w)
    for e in range(3):
        one = fp8.quantize_blocks(w[e])
        assert torch.equal(q.data[e].view(torch.uint8), one.data.view(torch.uint8))
        assert torch.equal(q.scale[e], one.scale)


def test_the_largest_value_of_a_tile_is_exact() -> None:
    x = wild(4, 256)
    decoded = fp8.dequantize_tiles(fp8.quantize_tiles(x))
    at = x.view(4, 2, 128).abs().argmax(-1, keepdim=True)
    assert torch.allclose(decoded.view(4, 2, 128).gather(-1, at), x.view(4, 2, 128).gather(-1, at), rtol=1e-6)


@given(st.integers(1, 3), st.sampled_from([1, 64, 127, 128, 129, 300]))
def test_rounding_is_the_trip_through_bytes(rows: int, k: int) -> None:
    x = wild(rows, k)
    assert torch.equal(fp8.round_tiles(x), fp8.dequantize_tiles(fp8.quantize_tiles(x)))


@given(st.lists(st.floats(-448, 448, width=32), min_size=1, max_size=64))
def test_rounding_without_bytes_is_torchs_conversion(values: list[float]) -> None:
    y = torch.tensor(values)
    assert torch.equal(fp8.round_e4m3_(y.clone()), y.to(torch.float8_e4m3fn).float())


def test_every_byte_decodes_as_torch_has_it() -> None:
    data = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn)
    assert torch.equal(fp8.decoded(data).nan_to_num(1e9), data.float().nan_to_num(1e9))
    assert torch.equal(fp8.decoded(data[:127]).view(torch.int32), data[:127].float().view(torch.int32))


def test_every_midpoint_goes_to_even() -> None:
    codes = torch.arange(127, dtype=torch.uint8).view(torch.float8_e4m3fn).float()
    middle = (codes[1:] + codes[:-1]) / 2
    assert torch.equal(fp8.round_e4m3_(middle.clone()), middle.to(torch.float8_e4m3fn).float())
    assert torch.equal(fp8.round_e4m3_(-codes), -codes)


def test_zeros_stay_zero() -> None:
    assert torch.equal(fp8.round_tiles(torch.zeros(2, 128)), torch.zeros(2, 128))
    assert torch.equal(fp8.round_blocks(torch.zeros(2, 128)), torch.zeros(2, 128))


def test_forward_multiplies_what_the_bytes_decode_to() -> None:
    x, w = wild(7, 256), wild(130, 256)
    got = fp8.product(x, w.unsqueeze(0), [7], True)
    expected = fp8.dequantize_tiles(fp8.quantize_tiles(x)) @ fp8.dequantize_blocks(fp8.quantize_blocks(w)).T
    assert torch.allclose(got, expected, rtol=1e-5, atol=1e-4)


def test_gradients_are_quantised_along_their_contractions() -> None:
    counts = [40, 0, 150]
    x, w = wild(190, 128).requires_grad_(), wild(3, 256, 128).requires_grad_()
    dy = wild(190, 256)
    fp8.product(x, w, counts, True).backward(dy)
    start = 0
    for e, count in enumerate(counts):
        rows = slice(start, start + count)
        start += count
        assert x.grad is not None
        assert w.grad is not None
        if not count:
            assert (w.grad[e] == 0).all()
            continue
        dx = fp8.round_tiles(dy[rows]) @ fp8.round_blocks(w[e])
        dw = fp8.round_tiles(dy[rows].T.contiguous()) @ fp8.round_tiles(x[rows].T.contiguous()).T
        assert torch.allclose(x.grad[rows], dx, rtol=1e-4, atol=1e-2)
        assert torch.allclose(w.grad[e], dw, rtol=1e-4, atol=1e-2)


def test_the_unquantised_product_has_the_true_gradients() -> None:
    x = torch.randn(9, 6, dtype=torch.float64, requires_grad=True)
    w = torch.randn(3, 5, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, w: fp8.product(x, w, [4, 0, 5], False), (x, w))


def test_a_layer_given_fp8_weights_computes_what_one_that_quantises_does() -> None:
    layer = Linear(256, 130, std=1.0)
    set_precision(layer, "fp8")
    x = wild(5, 256)
    expected = layer(x)
    layer.weight.data = fp8.round_blocks(layer.weight.data)
    layer.rounded = True
    assert torch.allclose(layer(x), expected, rtol=1e-5, atol=1e-5)


def test_grouped_layers_follow_the_counts() -> None:
    layer = GroupedLinear(3, 8, 4, std=1.0)
    x = torch.randn(6, 8)
    out = layer(x, [1, 0, 5])
    assert torch.allclose(out[:1], x[:1] @ layer.weight[0].T)
    assert torch.allclose(out[1:], x[1:] @ layer.weight[2].T, atol=1e-6)
