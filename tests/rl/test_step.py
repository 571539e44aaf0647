"""One training step on a policy of a few thousand weights."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from model.policy import Policy
from model.ranks import Alone
from model.segments import Segments
from rl.loss import LossSettings
from rl.rollout import Group
from rl.step import StepSettings, step
from rl.trainer import LocalTrainer
from tests.fakes import tiny_policy
from tests.model.test_ranks import together
from tests.rl.makers import completion, group

SETTINGS = StepSettings(loss=LossSettings(kl=0.0))
GOOD, BAD = [20, 21, 22, 1], [30, 31, 1]


def measured(policy: Policy, groups: list[Group]) -> list[Group]:
    """The groups with the log-probabilities that the policy gives them now, as an exact engine would record."""
    done = []
    for g in groups:
        completions = []
        for c in g.completions:
            tokens = torch.tensor((*g.prompt_ids, *c.token_ids))
            at = torch.arange(len(g.prompt_ids) - 1, len(tokens) - 1)
            with torch.no_grad():
                logp = policy.forward(tokens[:-1], Segments.of([len(tokens) - 1]), at, tokens[at + 1], 1.0).logp
            completions.append(replace(completion(c.token_ids), logprobs=tuple(logp.tolist())))
        done.append(replace(g, completions=tuple(completions)))
    return done


def likelihood(policy: Policy, ids: list[int]) -> float:
    tokens = torch.tensor([3, 4, *ids])
    with torch.no_grad():
        out = policy.forward(
            tokens[:-1], Segments.of([len(tokens) - 1]), torch.arange(1, len(tokens) - 1), tokens[2:], 1.0
        )
    return float(out.logp.sum())


def test_a_step_makes_better_samples_likelier_and_worse_ones_less() -> None:
    policy = tiny_policy(lr=3e-3)
    before = likelihood(policy, GOOD), likelihood(policy, BAD)
    step(policy, measured(policy, [group([GOOD, BAD], [1.0, -1.0])]), SETTINGS)
    assert likelihood(policy, GOOD) > before[0]
    assert likelihood(policy, BAD) < before[1]


def test_without_advantages_nothing_is_learned() -> None:
    policy = tiny_policy(lr=3e-3)
    before = {n: p.clone() for n, p in policy.model.named_parameters()}
    metrics = step(policy, measured(policy, [group([GOOD, BAD], [0.5, 0.5], [0.0, 0.0])]), SETTINGS)
    assert metrics["grad_norm"] == 0
    assert all(torch.equal(p, before[n]) for n, p in policy.model.named_parameters())


def test_groups_with_nothing_to_train_on_make_no_update() -> None:
    policy = tiny_policy()
    metrics = step(policy, [group([GOOD], [None])], SETTINGS)
    assert metrics["updates"] == 0
    assert policy.updates == 0


@pytest.mark.parametrize("aggregation", ["token", "sequence"])
def test_how_a_batch_is_split_does_not_matter(aggregation: str) -> None:
    results = []
    for limit in (1000, 6):
        policy = tiny_policy(lr=1e-3)
        groups = measured(policy, [group([GOOD, BAD, [40, 1]], [1.0, -1.0, 0.3]), group([BAD, GOOD], [0.5, -0.5])])
        settings = replace(SETTINGS, micro_batch_tokens=limit, aggregation=aggregation, balance=0.0)  # type: ignore[arg-type]
        metrics = step(policy, groups, settings)
        results.append((metrics["grad_norm"], metrics["loss"], metrics["entropy"]))
    assert results[0] == pytest.approx(results[1], rel=1e-4)


def shared_step(
    trainers: int, settings: StepSettings, policies: list[Policy], groups: list[Group]
) -> list[dict[str, float]]:
    """The metrics of trainers that share a step."""

    def trained(ranks: Alone) -> dict[str, float]:
        policies[ranks.rank].ranks = ranks
        return step(policies[ranks.rank], groups, settings)

    return together(trainers, trained)


TWO = [group([GOOD, BAD, [40, 1]], [1.0, -1.0, 0.3], name="a"), group([BAD, GOOD], [0.5, -0.5], prompt=(5, 6, 7))]


@pytest.mark.parametrize("trainers", [2, 3])  # the third has nothing to do
def test_trainers_that_share_a_step_take_the_step_of_one(trainers: int) -> None:
    groups = measured(tiny_policy(), TWO)
    start, alone, *policies = (tiny_policy(lr=1e-3) for _ in range(2 + trainers))
    metrics = step(alone, groups, SETTINGS)
    for found in shared_step(trainers, SETTINGS, policies, groups):
        assert found == pytest.approx(metrics, rel=1e-4, abs=1e-6)
    for policy in policies:
        before, one, shared = (torch.cat([*map(torch.flatten, p.model.parameters())]) for p in (start, alone, policy))
        # Adam makes steps of rounding errors too, where a gradient should be zero.
        assert torch.linalg.vector_norm(shared - one) < 0.01 * torch.linalg.vector_norm(one - before)


def test_trainers_that_share_steps_hold_the_same_bits() -> None:
    groups = measured(tiny_policy(), TWO * 2)
    policies = [tiny_policy() for _ in range(2)]
    settings = replace(SETTINGS, balance=0.1, minibatches=2, loss=LossSettings(kl=0.1))
    for _ in range(2):
        shared_step(2, settings, policies, groups)
    first, second = (policy.model.state_dict() for policy in policies)
    assert policies[0].updates == 4
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def test_exact_samples_have_no_gap_and_full_importance() -> None:
    policy = tiny_policy()
    metrics = step(policy, measured(policy, [group([GOOD, BAD], [1.0, -1.0])]), SETTINGS)
    assert metrics["logprob_gap_max"] < 1e-5
    assert metrics["importance"] == pytest.approx(1, abs=1e-5)
    assert metrics["lag"] == 0


def test_the_lag_is_measured_in_updates() -> None:
    policy = tiny_policy()
    policy.updates = 5
    old = replace(group([GOOD], [1.0]), completions=(completion(GOOD, version=3),))
    assert step(policy, [old], SETTINGS)["lag_max"] == 2


def test_several_minibatches_make_several_updates_against_the_start() -> None:
    policy = tiny_policy(lr=3e-2)
    groups = measured(policy, [group([GOOD, BAD], [1.0, -1.0]), group([GOOD, BAD], [1.0, -1.0])])
    metrics = step(policy, groups, replace(SETTINGS, minibatches=2))
    assert (metrics["updates"], policy.updates) == (2, 2)
    assert metrics["clip_share"] > 0


def test_the_reference_pulls_back() -> None:
    """Away from its reference, a policy without advantages moves towards it when kl weighs."""
    policy = tiny_policy(lr=1e-3)
    policy.replace_reference()
    step(policy, measured(policy, [group([GOOD, BAD], [1.0, -1.0])]), SETTINGS)
    settings = replace(SETTINGS, loss=LossSettings(kl=1.0))
    groups = [group([GOOD, BAD], [0.0, 0.0])]
    first = step(policy, measured(policy, groups), settings)["kl"]
    for _ in range(5):
        last = step(policy, measured(policy, groups), settings)["kl"]
    assert 0 <= last < first


def test_the_reference_is_replaced_every_so_many_steps() -> None:
    policy = tiny_policy(lr=1e-2)
    trainer = LocalTrainer(policy, replace(SETTINGS, loss=LossSettings(kl=0.1), reference_every=2), "fp32")
    divergences = []
    for _ in range(4):
        groups = measured(policy, [group([GOOD, BAD], [1.0, -1.0])])
        divergences.append(trainer.update_now(groups)["kl"])
    assert divergences[0] == divergences[2] == 0
    assert divergences[1] > 0
    assert divergences[3] > 0


def test_the_balance_loss_reaches_the_router() -> None:
    norms = []
    for balance in (0.0, 1.0):
        policy = tiny_policy()
        groups = measured(policy, [group([GOOD, BAD], [0.5, 0.5], [0.0, 0.0])])
        norms.append(step(policy, groups, replace(SETTINGS, balance=balance))["grad_norm"])
    assert norms[0] == 0
    assert norms[1] > 0


def test_the_temperature_of_sampling_is_the_temperature_of_training() -> None:
    policy = tiny_policy()
    tokens = torch.tensor([3, 4, *GOOD])
    with torch.no_grad():
        hidden = policy.model(tokens[:-1], Segments.of([len(tokens) - 1])).hidden[1:]
        logp = (policy.model.logits(hidden) / 0.5).log_softmax(-1).gather(-1, tokens[2:, None])[:, 0]
    exact = replace(completion(GOOD), logprobs=tuple(logp.tolist()))
    metrics = step(policy, [replace(group([GOOD], [1.0]), completions=(exact,))], replace(SETTINGS, temperature=0.5))
    assert metrics["logprob_gap_max"] < 1e-5
