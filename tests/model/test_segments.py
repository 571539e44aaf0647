from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from model.segments import Segments, attention


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=5))
def test_attention_is_causal_attention_within_each_segment(lengths: list[int]) -> None:
    torch.manual_seed(sum(lengths))
    q, k, v = (torch.randn(sum(lengths), 2, d, dtype=torch.float64) for d in (6, 6, 4))
    got = attention(q, k, v, Segments.of(lengths), scale=0.3)
    expected = []
    for part in zip(*(x.split(lengths) for x in (q, k, v)), strict=True):
        rows = [x.transpose(0, 1).unsqueeze(0) for x in part]
        expected.append(F.scaled_dot_product_attention(*rows, is_causal=True, scale=0.3)[0].transpose(0, 1))
    assert torch.allclose(got, torch.cat(expected))


def test_gradients_reach_every_token() -> None:
    inputs = [torch.randn(9, 2, 4, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    assert torch.autograd.gradcheck(lambda q, k, v: attention(q, k, v, Segments.of([2, 4, 3]), 0.5), inputs)


def test_positions_restart_with_each_segment() -> None:
    segments = Segments.of([3, 1, 2])
    assert segments.positions.tolist() == [0, 1, 2, 0, 0, 1]
    assert segments.ids.tolist() == [0, 0, 0, 1, 2, 2]
    assert segments.longest == 3
