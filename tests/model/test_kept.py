"""What is kept of weights for as long as they stay as they are."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton", reason="the products are written in triton")


def test_what_is_kept_of_weights_is_made_again_when_one_was_written() -> None:
    from model.fused_fp8 import kept, refresh

    first, second, made = torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(3)), []

    def make(a: Tensor, b: Tensor) -> Tensor:
        made.append(1)
        return torch.cat([a, b])

    both = kept(make, first, second)
    assert kept(make, first, second) is both
    with torch.no_grad():
        second.add_(1)
    assert torch.equal(kept(make, first, second), torch.tensor([1.0, 1, 2, 2, 2]))
    with torch.no_grad():
        first.mul_(3)
    refresh()
    assert len(made) == 3
    assert torch.equal(kept(make, first, second), torch.tensor([3.0, 3, 2, 2, 2]))
    assert len(made) == 3
