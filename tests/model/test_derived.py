"""What is derived from weights stays for as long as they do."""

from __future__ import annotations

import torch
from torch import Tensor

from model import derived


def test_what_is_derived_from_weights_is_made_again_when_one_was_written() -> None:
    first, second, made = torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(3)), []

    def make(a: Tensor, b: Tensor) -> Tensor:
        made.append(1)
        return torch.cat([a, b])

    both = derived.of(make, first, second)
    assert derived.of(make, first, second) is both
    with torch.no_grad():
        second.add_(1)
    assert torch.equal(derived.of(make, first, second), torch.tensor([1.0, 1, 2, 2, 2]))
    with torch.no_grad():
        first.mul_(3)
    derived.refresh()
    assert len(made) == 3
    assert torch.equal(derived.of(make, first, second), torch.tensor([3.0, 3, 2, 2, 2]))
    assert len(made) == 3


def test_what_was_rewritten_with_its_weight_is_not_made_again() -> None:
    first, second, made = torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(3)), []

    def make(*parameters: Tensor) -> Tensor:
        made.append(1)
        return torch.cat(parameters)

    assert derived.kept(first) is None
    alone = derived.of(make, first)
    with torch.no_grad():
        first.add_(1)
    assert derived.kept(first) is alone
    alone.add_(1)
    derived.renewed(first)
    assert derived.of(make, first) is alone
    assert len(made) == 1
    derived.of(make, first, second)
    assert derived.kept(first) is None


def test_bf16_terms_add_up_to_the_weight_to_the_bit() -> None:
    weight = torch.randn(64, 32, generator=torch.Generator().manual_seed(0))
    terms = derived.bf16_terms(weight).view(3, 64, 32)
    assert terms.dtype == torch.bfloat16
    assert torch.equal(terms.double().sum(0), weight.double())
