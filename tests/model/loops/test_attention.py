"""Attention by loops beside attention by torch's operators in FP64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from model import compiled_training
from model.attention import keys_and_values
from model.loops import threads as threads_module
from model.segments import Segments, attention
from tests.model.loops import torch_threads

HEADS, SCALE = 3, 0.3
Sizes = tuple[int, int, int]
"""Of a head: not turned, turned, and of its values."""


def inputs(segments: Segments, sizes: Sizes) -> tuple[list[Tensor], Tensor]:
    nope, turned, values = sizes
    count = len(segments.ids)
    widths = HEADS * (nope + turned), HEADS * (nope + values), turned
    turns = torch.polar(torch.ones(count, turned // 2), torch.randn(count, turned // 2))
    return [torch.randn(count, width) for width in widths], turns


def by_loops(given: list[Tensor], turns: Tensor, segments: Segments) -> Tensor:
    return compiled_training.attend(given[0], given[1], given[2], turns, segments, HEADS, SCALE)


def by_operators(given: list[Tensor], turns: Tensor, segments: Segments) -> Tensor:
    q, expanded, key = given
    nope = q.shape[1] // HEADS - key.shape[1]
    k, v = keys_and_values(expanded.unflatten(-1, (HEADS, -1)), key, nope)
    plain, tail = q.unflatten(-1, (HEADS, -1)).tensor_split([nope], -1)
    pairs = torch.view_as_complex(tail.unflatten(-1, (-1, 2)).contiguous()) * turns.unsqueeze(1)
    return attention(torch.cat([plain, torch.view_as_real(pairs).flatten(-2)], -1), k, v, segments, SCALE).flatten(-2)


def gradients(out: Tensor, given: list[Tensor], weights: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad((out * weights).sum(), given)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 21), st.lists(st.integers(1, 40), min_size=1, max_size=3)), min_size=1, max_size=3
    ),
    st.tuples(st.integers(0, 40), st.sampled_from([2, 6, 16]), st.integers(1, 40)),
)
def test_outputs_and_gradients_are_those_of_the_operators(groups: list[tuple[int, list[int]]], sizes: Sizes) -> None:
    segments = Segments.sharing([g[0] for g in groups], [g[1] for g in groups])
    torch.manual_seed(len(segments.ids))
    given, turns = inputs(segments, sizes)
    ours = [x.clone().requires_grad_() for x in given]
    theirs = [x.double().requires_grad_() for x in given]
    out, expected = by_loops(ours, turns, segments), by_operators(theirs, turns, segments)
    weights = torch.randn_like(out)
    torch.testing.assert_close(out, expected.float(), rtol=1e-4, atol=1e-5)
    for found, exact in zip(gradients(out, ours, weights), gradients(expected, theirs, weights), strict=True):
        torch.testing.assert_close(found, exact.float(), rtol=1e-4, atol=2e-5)


def test_a_sequence_without_numbers_leaves_the_others_alone() -> None:
    """They take turns in the same memory."""
    segments = Segments.of([30, 9, 21])
    given, turns = inputs(segments, (8, 8, 16))
    found = []
    for hostile in (0.0, float("nan")):
        clean = [x.clone() for x in given]
        for x in clean:
            x[:30] = hostile
        ours = [x.requires_grad_() for x in clean]
        out = by_loops(ours, turns, segments)
        found.append([x[30:] for x in (out.detach(), *gradients(out, ours, torch.ones_like(out)))])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("threads", [2, 5])
def test_threads_change_no_bit(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads_module, "WORTH", 1)
    segments = Segments.sharing([7, 0, 3], [[20, 5], [9], [2, 2, 30]])
    given, turns = inputs(segments, (8, 8, 16))
    weights = torch.randn(len(segments.ids), HEADS * 16)

    def computed() -> list[Tensor]:
        ours = [x.clone().requires_grad_() for x in given]
        out = by_loops(ours, turns, segments)
        return [out, *gradients(out, ours, weights)]

    found = []
    for count in (1, threads):
        with torch_threads(count):
            found.append(computed())
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
