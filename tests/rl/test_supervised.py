from __future__ import annotations

import pytest
import torch

from model.chat import Dialogue
from rl.supervised import lay, pack, update, validate
from tests.fakes import tiny_policy


def dialogue(length: int, prompt: int, seed: int = 0) -> Dialogue:
    ids = torch.randint(2, 300, (length,), generator=torch.Generator().manual_seed(seed)).tolist()
    return Dialogue(tuple(ids), (False,) * prompt + (True,) * (length - prompt))


SOME = [dialogue(9, 4, 1), dialogue(14, 3, 2), dialogue(5, 2, 3), dialogue(14, 10, 4)]


def test_a_samples_loss_does_not_depend_on_its_neighbours() -> None:
    policy = tiny_policy()
    alone = [validate(policy, [each], 1000)["validation/loss"] for each in SOME]
    tokens = [sum(each.trained) for each in SOME]
    packed = validate(policy, SOME, 1000)["validation/loss"]
    assert packed == pytest.approx(sum(a * n for a, n in zip(alone, tokens, strict=True)) / sum(tokens), abs=1e-5)


def test_prompt_tokens_are_read_and_not_learned() -> None:
    part = lay(SOME)
    assert sorted(part.targets.tolist()) == sorted(
        token for each in SOME for token, trained in zip(each.ids, each.trained, strict=True) if trained
    )
    policy = tiny_policy()
    hidden = policy.wrapped(part.tokens, part.segments).hidden.detach().requires_grad_()
    policy.model.logits(hidden[part.at]).sum().backward()
    touched = hidden.grad.abs().sum(-1) > 0  # type: ignore[union-attr]
    assert touched.nonzero().squeeze(-1).tolist() == sorted(part.at.tolist())


@pytest.mark.parametrize("limit", [1, 20, 1000])
def test_micro_batches_change_nothing(limit: int) -> None:
    whole, split = tiny_policy(), tiny_policy()
    expected, found = update(whole, SOME, 10_000), update(split, SOME, limit)
    assert len(pack(SOME, limit)) == {1: 4, 20: 3, 1000: 1}[limit]
    assert found["loss"] == pytest.approx(expected["loss"], rel=1e-5)
    assert found["grad_norm"] == pytest.approx(expected["grad_norm"], rel=1e-4)


def test_it_learns_what_assistants_say_alone() -> None:
    policy = tiny_policy(lr=1e-2)
    before = validate(policy, SOME, 1000)["validation/loss"]
    unread = [Dialogue(each.ids, tuple(not t for t in each.trained)) for each in SOME]
    prompts = validate(policy, unread, 1000)["validation/loss"]
    for _ in range(30):
        update(policy, SOME, 1000)
    assert validate(policy, SOME, 1000)["validation/loss"] < 0.5 * before
    assert validate(policy, unread, 1000)["validation/loss"] > 0.9 * prompts
