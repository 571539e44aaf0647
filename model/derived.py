"""What is derived from weights and kept for as long as they stay as they are: their FP8 blocks, or the BF16 terms of a
router's. It is made once an optimizer step, however many micro-batches that has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

R = TypeVar("R")


class _Kept(NamedTuple):
    state: list[tuple[int, int]]
    value: Any
    make: Callable[..., Any]
    others: list[Tensor]


_kept: Any = WeakTensorKeyDictionary()


def of(make: Callable[..., R], *parameters: Tensor) -> R:
    """``make`` of these parameters, which are the first's alone, as long as none is written or replaced."""
    first, *others = parameters
    state = [_state(p) for p in parameters]
    found = _kept.get(first)
    if found is None or found.state != state:
        found = None
        _kept.pop(first, None)  # which gives its memory to the new value
        found = _kept[first] = _Kept(state, make(*(p.detach() for p in parameters)), make, others)
    value: R = found.value
    return value


def kept(p: Tensor) -> Any:
    """What is kept of p and no other parameter, be it of the present p or not; None where nothing is."""
    found = _kept.get(p)
    return None if found is None or found.others else found.value


def renewed(p: Tensor) -> None:
    """Says that `kept` of p was rewritten with p, and is that of the present one."""
    _kept[p] = _kept[p]._replace(state=[_state(p)])


def bf16_terms(weight: Tensor) -> Tensor:
    """FP32 [N, K] as three BF16 [3 N, K] that add up to it, the largest first: three times 8 digits hold FP32's 24."""
    terms = []
    for _ in range(3):
        terms.append(weight.to(torch.bfloat16))
        weight = weight - terms[-1].float()
    return torch.cat(terms)


def refresh() -> None:
    """Makes again what was derived from parameters that were written since: after an update, at once, while the device
    still works on it, and not between the products of the next pass."""
    for first in list(_kept.keys()):
        make, others = _kept[first].make, _kept[first].others
        of(make, first, *others)


def _state(p: Tensor) -> tuple[int, int]:
    return p.data_ptr(), p._version
