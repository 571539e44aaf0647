from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from model.segments import Segments, attention


@settings(max_examples=25)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=5))
def test_attention_is_causal_attention_within_each_segment(lengths: list[int]) -> None:
    torch.manual_seed(sum(lengths))
    q, k, v = (torch.randn(sum(lengths), 2, d, dtype=torch.float64) for d in (6, 6, 4))
    got = attention(q, k, v, Segments.of(lengths), 0.3)
    expected = []
    for part in zip(*(x.split(lengths) for x in (q, k, v)), strict=True):
        rows = [x.transpose(0, 1).unsqueeze(0) for x in part]
        expected.append(F.scaled_dot_product_attention(*rows, is_causal=True, scale=0.3)[0].transpose(0, 1))
    assert torch.allclose(got, torch.cat(expected))


def test_gradients_reach_every_token() -> None:
    inputs = [torch.randn(9, 2, 4, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    assert torch.autograd.gradcheck(lambda q, k, v: attention(q, k, v, Segments.of([2, 4, 3]), 0.5), inputs)


@settings(max_examples=25)
@given(
    st.lists(st.tuples(st.integers(0, 5), st.lists(st.integers(1, 6), min_size=1, max_size=3)), min_size=1, max_size=3)
)
def test_a_shared_prefix_gives_the_outputs_and_gradients_of_separate_sequences(
    groups: list[tuple[int, list[int]]],
) -> None:
    prefixes, suffixes = [g[0] for g in groups], [g[1] for g in groups]
    segments = Segments.sharing(prefixes, suffixes)
    torch.manual_seed(len(segments.ids))
    shared = torch.randn(len(segments.ids), 3, 2, 4, dtype=torch.float64, requires_grad=True)
    rows = [row[:n] for row, n in zip(segments.source.view(-1, segments.longest), segments.lengths, strict=True)]
    apart = shared[torch.cat(rows)]
    expected = attention(*apart.unbind(1), Segments.of(segments.lengths), 0.5)
    got = attention(*shared.unbind(1), segments, 0.5)
    # A loss on every sequence's own tokens; a prefix's output counts once a sequence in both layouts.
    flat = got[torch.cat(rows)]
    assert torch.allclose(flat, expected)
    weight = torch.randn_like(flat)
    ours, theirs = (torch.autograd.grad((out * weight).sum(), shared, retain_graph=True)[0] for out in (flat, expected))
    assert torch.allclose(ours, theirs)


def test_positions_restart_with_each_segment() -> None:
    segments = Segments.of([3, 1, 2])
    assert segments.positions.tolist() == [0, 1, 2, 0, 0, 1]
    assert segments.ids.tolist() == [0, 0, 0, 1, 2, 2]
    assert segments.longest == 3
