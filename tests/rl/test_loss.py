"""The GRPO loss beside the formulas of its papers, one token at a time."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from rl.loss import LossSettings, TokenLoss, grpo_loss, importance_weights

SETTINGS = LossSettings(clip_low=0.2, clip_high=0.3, kl=0.1, importance_cap=2.0)
NATS = st.floats(-3, 0)


def loss(
    logp: Tensor, start: float | None, sampled: float, reference: float | None, advantage: float, **changes: float
) -> TokenLoss:
    from dataclasses import replace

    def one(value: float | None) -> Tensor | None:
        return None if value is None else torch.tensor([value], dtype=torch.float64)

    return grpo_loss(
        logp, one(start), torch.tensor([sampled], dtype=torch.float64), one(reference),
        torch.tensor([advantage], dtype=torch.float64), torch.ones(1, dtype=torch.float64),
        torch.zeros(1, dtype=torch.int64), replace(SETTINGS, **changes),
    )  # fmt: skip


@given(NATS, NATS, NATS, NATS, st.floats(-2, 2))
def test_a_token_reads_as_the_papers(logp: float, start: float, sampled: float, ref: float, advantage: float) -> None:
    ratio = math.exp(logp - start)
    clipped = min(max(ratio, 0.8), 1.3)
    weight = min(math.exp(start - sampled), 2.0)
    divergence = math.exp(ref - logp) - (ref - logp) - 1
    expected = -weight * min(ratio * advantage, clipped * advantage) + 0.1 * divergence
    got = loss(torch.tensor([logp], dtype=torch.float64), start, sampled, ref, advantage)
    assert float(got.loss) == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_the_first_update_has_the_plain_policy_gradient() -> None:
    logp = torch.tensor([-1.0], dtype=torch.float64, requires_grad=True)
    loss(logp, None, -1.0, None, 0.7).loss.backward()
    assert logp.grad is not None
    assert float(logp.grad) == pytest.approx(-0.7)


@pytest.mark.parametrize(("advantage", "ratio", "moves"), [
    (1.0, 1.4, False), (1.0, 1.25, True), (1.0, 0.5, True), (-1.0, 0.7, False), (-1.0, 0.9, True), (-1.0, 1.5, True),
])  # fmt: skip
def test_clipping_stops_the_gradient_only_where_it_would_go_further(
    advantage: float, ratio: float, moves: bool
) -> None:
    logp = torch.tensor([math.log(ratio) - 1], dtype=torch.float64, requires_grad=True)
    out = loss(logp, -1.0, -1.0, None, advantage, kl=0.0)
    out.loss.backward()
    assert logp.grad is not None
    assert (float(logp.grad) != 0) == moves
    assert float(out.clipped) == float(not moves)


def test_the_correction_for_the_sampler_is_capped() -> None:
    out = loss(torch.tensor([-1.0], dtype=torch.float64), None, -9.0, None, 1.0)
    assert float(out.importance) == 2.0
    assert float(out.loss) == -2.0


@given(NATS, NATS)
def test_the_divergence_is_never_negative_and_zero_at_the_reference(logp: float, reference: float) -> None:
    out = loss(torch.tensor([logp], dtype=torch.float64), None, logp, reference, 0.0)
    assert float(out.kl) >= 0
    assert float(loss(torch.tensor([logp], dtype=torch.float64), None, logp, logp, 0.0).kl) == 0


def test_without_weight_the_reference_does_not_count() -> None:
    assert float(loss(torch.tensor([-1.0], dtype=torch.float64), None, -1.0, -3.0, 0.0, kl=0.0).loss) == 0


GAPS = torch.tensor([0.5, 0.5, -2.0, 0.1, 0.1])
SEQUENCES = torch.tensor([0, 0, 0, 1, 1])


def test_importance_over_a_sequence_is_the_product_of_its_tokens() -> None:
    weights = importance_weights(GAPS, SEQUENCES, LossSettings(importance="sequence", importance_cap=10.0))
    assert torch.allclose(weights, torch.tensor([-1.0, -1.0, -1.0, 0.2, 0.2]).exp())


def test_importance_beyond_its_bounds_is_cut_off_or_left_out() -> None:
    truncated = importance_weights(GAPS, SEQUENCES, LossSettings(importance_cap=1.5))
    assert torch.allclose(truncated, GAPS.exp().clamp(max=1.5))
    outside = torch.tensor([0.0, 0.0, 0.0, 1.0, 1.0])
    masked = LossSettings(importance_cap=1.5, importance_mask=True, importance_floor=0.5)
    assert torch.allclose(importance_weights(GAPS, SEQUENCES, masked), outside * math.exp(0.1))
    whole = LossSettings(importance="sequence", importance_floor=0.5)
    assert torch.allclose(importance_weights(GAPS, SEQUENCES, whole), outside * math.exp(0.2))
