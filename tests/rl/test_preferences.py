from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from model import checkpoint
from model.policy import OptimizerSettings
from model.reward import RewardModel, RewardPolicy, bundle, lay, load
from rl.preferences import (
    Pair,
    Point,
    correlation,
    losses,
    measured,
    pairwise_loss,
    pointwise_loss,
    reliability,
    update,
    wilson,
)
from tests.fakes import tiny_policy


@pytest.fixture
def base(tmp_path: Path) -> Path:
    folder = tmp_path / "base"
    folder.mkdir()
    policy = tiny_policy()
    checkpoint.save(policy.model, policy.tokenizer, folder)
    return folder


def policy_of(base: Path, lr: float = 1e-2) -> RewardPolicy:
    policy = RewardPolicy(base, OptimizerSettings(lr=lr), "fp32", "{prompt}=")
    torch.manual_seed(0)
    torch.nn.init.normal_(policy.scorer.score.weight, std=0.3)
    return policy


def ids(length: int, seed: int) -> tuple[int, ...]:
    return tuple(torch.randint(2, 300, (length,), generator=torch.Generator().manual_seed(seed)).tolist())


def scores(policy: RewardPolicy, *sequences: tuple[int, ...]) -> list[float]:
    return policy.scorer(*lay([bundle([each]) for each in sequences], policy.scorer.device)).scores.tolist()


def test_bradley_terry_is_its_closed_form() -> None:
    chosen, rejected, margin = torch.tensor([1.5, -2.0]), torch.tensor([0.5, 1.0]), torch.tensor([0.0, 0.5])
    expected = [math.log(1 + math.exp(-(1.5 - 0.5))), math.log(1 + math.exp(-(-2.0 - 1.0 - 0.5)))]
    assert pairwise_loss(chosen, rejected, margin).tolist() == pytest.approx(expected)


def test_the_pointwise_loss_is_cross_entropy() -> None:
    found = pointwise_loss(torch.tensor([2.0, -1.0]), torch.tensor([1.0, 0.25]))
    p, q = 1 / (1 + math.exp(-2)), 1 / (1 + math.exp(1))
    expected = [-math.log(p), -(0.25 * math.log(q) + 0.75 * math.log(1 - q))]
    assert found.tolist() == pytest.approx(expected)


def test_each_preference_has_the_scores_of_its_own_sequences() -> None:
    some = [Point((1,), 1.0), Pair((1,), (2,), 0.5), Point((1,), 0.0)]
    found = losses(torch.tensor([3.0, 0.25, -0.5, 1.0]), some)
    expected = [
        pairwise_loss(torch.tensor(0.25), torch.tensor(-0.5), torch.tensor(0.5)),
        pointwise_loss(torch.tensor(3.0), torch.tensor(1.0)),
        pointwise_loss(torch.tensor(1.0), torch.tensor(0.0)),
    ]
    assert found.tolist() == pytest.approx([float(each) for each in expected])


def test_the_head_reads_the_last_token_whatever_stands_beside(base: Path) -> None:
    policy = policy_of(base)
    sequences = [ids(3, 0), ids(17, 1), ids(8, 2)]
    alone = [scores(policy, each)[0] for each in sequences]
    assert scores(policy, *sequences) == pytest.approx(alone, abs=1e-5)
    assert scores(policy, (*sequences[1], 5))[0] != pytest.approx(alone[1], abs=1e-3)


def test_a_shared_beginning_changes_no_score(base: Path) -> None:
    policy = policy_of(base)
    prompt = ids(6, 3)
    chosen, rejected = (*prompt, *ids(4, 4)), (*prompt, *ids(9, 5))
    made = bundle([chosen, rejected])
    assert len(made.shared) == 6
    together = policy.scorer(*lay([made], policy.scorer.device)).scores.tolist()
    assert together == pytest.approx(scores(policy, chosen, rejected), abs=1e-5)
    assert bundle([chosen, chosen]).rests == ((chosen[-1],), (chosen[-1],))


def test_it_is_not_changed_by_micro_batches_and_learns_its_pairs(base: Path) -> None:
    pairs = [Pair((*ids(4, i), 7), (*ids(4, i), 9)) for i in range(6)] + [
        Point(ids(5, 20), 1.0),
        Point(ids(5, 21), 0.0),
    ]
    whole, split = policy_of(base), policy_of(base)
    first, again = update(whole, pairs, 1000), update(split, pairs, 8)
    assert again["loss"] == pytest.approx(first["loss"], rel=1e-5)
    assert again["grad_norm"] == pytest.approx(first["grad_norm"], rel=1e-4)
    for _ in range(25):
        last = update(whole, pairs, 1000)
    assert last["loss"] < 0.3 * first["loss"]


def test_what_is_saved_scores_the_same(base: Path, tmp_path: Path) -> None:
    policy = policy_of(base)
    saved = tmp_path / "saved"
    saved.mkdir()
    policy.save_weights(saved)
    model = RewardModel(saved)
    expected = scores(policy, *(model.layout.answered("1+1", text).ids for text in ("2", "3", "17")))
    assert model.scores([("1+1", "2"), ("1+1", "3"), ("1+1", "17")]) == pytest.approx(expected, abs=1e-5)
    assert model.scores([("1+1", "2" * 200), ("1+1", "2")]) == [None, pytest.approx(expected[0], abs=1e-5)]
    assert torch.equal(load(saved)[0].score.weight, policy.scorer.score.weight)


def test_measures_on_pairs_and_points() -> None:
    found = [(Pair((1, 2, 3), (1, 4)), [2.0, 0.0]), (Pair((1, 2), (1, 4, 5)), [0.0, 1.0]), (Point((1,), 1.0), [0.5])]
    result = measured(found)
    assert result["pairs"]["accuracy"] == 0.5
    assert result["pairs"]["longer_preferred"] == 0.5
    assert result["pairs"]["length_correlation"] == pytest.approx(1.0)
    assert result["points"]["accuracy"] == 1.0


def test_wilsons_interval() -> None:
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)  # Newcombe 1998, table I
    assert wilson(20, 20)[1] == pytest.approx(1.0)


def test_a_calibrated_forecast_has_no_error_and_an_overconfident_one_has() -> None:
    right = np.array([True] * 8 + [False] * 2)
    assert reliability(np.full(10, 0.8), right)["calibration_error"] == pytest.approx(0.0)
    assert reliability(np.full(10, 0.95), right)["calibration_error"] == pytest.approx(0.15)
    assert reliability(np.full(10, 0.8), right)["reliability"] == [
        {"count": 10, "confidence": pytest.approx(0.8), "outcome": pytest.approx(0.8)}
    ]


def test_a_correlation_of_what_does_not_vary_is_none() -> None:
    assert correlation([1.0, 1.0], [1, 2]) == 0.0
    assert correlation([1.0, 2.0, 3.0], [2, 4, 6]) == pytest.approx(1.0)
