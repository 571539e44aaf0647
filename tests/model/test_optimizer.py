from __future__ import annotations

import torch
from torch import nn

from model.optimizer import AdamW
from model.policy import OptimizerSettings
from tests.fakes import tiny_policy


def trained(optimizer: torch.optim.Optimizer, p: nn.Parameter, steps: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        p.grad = torch.randn(p.shape, generator=generator)
        optimizer.step()
    return p.detach().clone()


def test_it_is_adamw_but_for_the_rounding_of_its_moments() -> None:
    ours, theirs = (nn.Parameter(torch.linspace(-1, 1, 1000)) for _ in range(2))
    got = trained(AdamW([ours], lr=1e-2, betas=(0.9, 0.95), weight_decay=0.1), ours, 20)
    expected = trained(torch.optim.AdamW([theirs], lr=1e-2, betas=(0.9, 0.95), weight_decay=0.1), theirs, 20)
    # Twenty steps move a weight by up to 0.2; a moment is rounded by up to 2^-9 of it.
    torch.testing.assert_close(got, expected, atol=1e-3, rtol=0)
    assert not torch.equal(got, expected)


def test_a_gradient_is_scaled_as_it_is_read() -> None:
    scaled, read = (nn.Parameter(torch.linspace(-1, 1, 1000)) for _ in range(2))
    optimizer = AdamW([read], lr=1e-2, betas=(0.9, 0.95))
    optimizer.param_groups[0]["grad_scale"] = 0.3
    scaled.grad, read.grad = torch.linspace(2, -2, 1000) * 0.3, torch.linspace(2, -2, 1000)
    AdamW([scaled], lr=1e-2, betas=(0.9, 0.95)).step()
    optimizer.step()
    assert torch.equal(scaled, read)
    assert torch.equal(read.grad, torch.linspace(2, -2, 1000))


def test_moments_are_bf16_also_after_a_restart() -> None:
    p = nn.Parameter(torch.ones(3))
    optimizer = AdamW([p], lr=1e-2, betas=(0.9, 0.95))
    trained(optimizer, p, 3)
    again = AdamW([p], lr=1e-2, betas=(0.9, 0.95))
    again.load_state_dict(optimizer.state_dict())
    for name in ("exp_avg", "exp_avg_sq"):
        assert again.state[p][name].dtype == torch.bfloat16
        assert torch.equal(again.state[p][name], optimizer.state[p][name])
    assert again.state[p]["step"] == 3


def test_a_policy_takes_the_moments_it_is_told() -> None:
    assert isinstance(tiny_policy(settings=OptimizerSettings(moments="bf16")).optimizer.optimizer, AdamW)
    assert isinstance(tiny_policy().optimizer.optimizer, torch.optim.AdamW)
