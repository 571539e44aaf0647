from __future__ import annotations

import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import pytest
import torch

from model import derived
from model.parts import Part
from model.policy import OptimizerSettings, Policy, PolicyError
from model.segments import Segments
from tests.fakes import tiny_policy

TOKENS = torch.arange(5, 29)
AT = torch.arange(23)


def one_update(policy: Policy, scale: float = 1.0) -> None:
    out = policy.forward(TOKENS, Segments.of([24]), AT, TOKENS[1:], 1.0)
    policy.backward(-out.logp.mean() * scale, out.routing)
    policy.apply()


def weights(policy: Policy) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in policy.model.state_dict().items()}


def test_a_restored_policy_goes_on_bit_for_bit(tmp_path: Path) -> None:
    policy = tiny_policy()
    policy.replace_reference()
    one_update(policy)
    policy.save(tmp_path)
    one_update(policy)
    resumed = tiny_policy(seed=9)
    resumed.restore(tmp_path)
    one_update(resumed)
    assert resumed.updates == policy.updates == 2
    assert all(torch.equal(t, weights(policy)[name]) for name, t in weights(resumed).items())
    arguments = (TOKENS, Segments.of([24]), AT, TOKENS[1:], 1.0)
    assert torch.equal(resumed.reference_logprobs(*arguments), policy.reference_logprobs(*arguments))


def test_a_step_waits_for_the_publish_that_reads_its_weights() -> None:
    policy = tiny_policy()
    before, update, waits = weights(policy), threading.Thread(target=lambda: one_update(policy)), []

    def place(parts: Iterable[Part]) -> list[Part]:
        update.start()
        update.join(0.5)
        waits.append(update.is_alive())
        return list(parts)

    published = policy.publish("fp32", place)
    update.join()
    sent = {name: tensor for part in published.parts for name, tensor in part.tensors.items()}
    assert waits == [True]
    assert all(torch.equal(sent[name], tensor) for name, tensor in before.items())


def test_a_checkpoint_of_another_shape_is_not_restored(tmp_path: Path) -> None:
    tiny_policy().save(tmp_path)
    with pytest.raises(PolicyError, match=r"go on with the recipe") as error:
        tiny_policy(moe_intermediate_size=64).restore(tmp_path)
    assert "down_proj" in str(error.value) or "gate_up_proj" in str(error.value)


def test_updates_raise_the_likelihood_of_what_is_trained() -> None:
    policy = tiny_policy()
    before = policy.forward(TOKENS, Segments.of([24]), AT, TOKENS[1:], 1.0).logp.mean()
    for _ in range(5):
        one_update(policy)
    assert policy.forward(TOKENS, Segments.of([24]), AT, TOKENS[1:], 1.0).logp.mean() > before + 0.5


def test_a_gradient_that_is_not_finite_changes_nothing_and_is_counted() -> None:
    policy = tiny_policy()
    before = weights(policy)
    out = policy.forward(TOKENS, Segments.of([24]), AT, TOKENS[1:], 1.0)
    policy.backward(out.logp.mean() * float("nan"), out.routing)
    assert policy.apply()["skipped_updates"] == 1.0
    assert all(torch.equal(t, before[name]) for name, t in weights(policy).items())


def test_the_routing_bias_moves_after_the_step_by_its_speed() -> None:
    policy = tiny_policy()
    one_update(policy)
    bias = policy.model.routers()[0].e_score_correction_bias
    moved = bias[bias != 0].abs()
    assert len(moved) > 0
    assert torch.allclose(moved, torch.tensor(1e-3))


def test_the_load_is_what_was_trained_on_since_it_was_last_taken() -> None:
    policy = tiny_policy(num_nextn_predict_layers=1)
    one_update(policy)
    one_update(policy)
    load = policy.take_load()
    assert list(load) == [1], "the MTP layer saw no token"
    assert sum(load[1]) == 2 * len(TOKENS) * policy.model.c.num_experts_per_tok
    assert policy.take_load() == {}


def test_the_reference_stays_while_the_policy_moves() -> None:
    policy = tiny_policy()
    policy.replace_reference()
    arguments = (TOKENS, Segments.of([24]), AT, TOKENS[1:], 1.0)
    before = policy.reference_logprobs(*arguments)
    one_update(policy)
    assert torch.equal(policy.reference_logprobs(*arguments), before)
    policy.replace_reference()
    assert not torch.equal(policy.reference_logprobs(*arguments), before)


def test_the_learning_rate_warms_up_and_decays() -> None:
    settings = OptimizerSettings(lr=1.0, warmup_steps=4, decay_steps=12, lr_floor=0.1)
    rates = [settings.lr_at(step) for step in range(14)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert rates[4] == 1.0
    assert rates[8] == pytest.approx(0.55)
    assert rates[12] == rates[13] == pytest.approx(0.1)
    assert OptimizerSettings(lr=1.0).lr_at(10**6) == 1.0


@pytest.mark.parametrize("moments", ["fp32", "bf16"])
def test_what_is_derived_from_weights_follows_an_update(moments: Literal["fp32", "bf16"]) -> None:
    """Torch does not count what its fused optimizers write."""
    policy = tiny_policy(settings=OptimizerSettings(lr=1e-2, moments=moments))
    before = [derived.of(torch.clone, p) for p in policy.model.parameters()]
    one_update(policy)
    trained = [p for p, old in zip(policy.model.parameters(), before, strict=True) if not torch.equal(p, old)]
    assert len(trained) > len(before) / 2
    assert all(torch.equal(derived.of(torch.clone, p), p) for p in trained)


@pytest.mark.parametrize("moments", ["fp32", "bf16"])
def test_the_settings_reach_the_optimizer(moments: Literal["fp32", "bf16"]) -> None:
    settings = OptimizerSettings(lr=1e-3, weight_decay=0.3, beta2=0.7, clip_norm=1e-3, moments=moments)
    policy = tiny_policy(settings=settings)
    matrices, vectors = policy.optimizer.param_groups
    assert (matrices["weight_decay"], vectors["weight_decay"]) == (0.3, 0.0)
    assert matrices["betas"] == (0.9, 0.7)
    assert all(p.dim() > 1 for p in matrices["params"])
    one_update(policy)
    first_moments = [state["exp_avg"].float().square().sum() for state in policy.optimizer.state.values()]
    # After one step the first moment is a tenth of the gradient, which was clipped to the norm asked for.
    assert float(torch.stack(first_moments).sum().sqrt()) == pytest.approx(0.1 * 1e-3, rel=0.01)
