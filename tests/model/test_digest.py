"""A digest changes with the bytes, wherever they are, and is the same on every device."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from model.digest import ROW, column_factors, digests, hashes, kind_on, row_factors, sums

KINDS = [hashes, sums]
EXPERTS = torch.randn(4, 300, 7, generator=torch.Generator().manual_seed(0))


def one(kind: Callable[[list[Tensor]], Tensor], tensor: Tensor) -> list[int]:
    (found,) = kind([tensor]).tolist()
    return list(found)


def flipped(tensor: Tensor, *bits: tuple[int, int]) -> Tensor:
    """With bits changed, each given as a byte and a bit in it."""
    data = tensor.clone()
    for byte, bit in bits:
        data.view(-1).view(torch.uint8)[byte] ^= 1 << bit
    return data


def negated(tensor: Tensor, every: int) -> Tensor:
    data = tensor.clone()
    data.view(-1)[every - 1 :: every] *= -1
    return data


CHANGES: dict[str, Callable[[Tensor], Tensor]] = {
    "the first bit": lambda t: flipped(t, (0, 0)),
    "the last bit": lambda t: flipped(t, (t.nbytes - 1, 7)),
    "two signs": lambda t: flipped(t, (3, 7), (7, 7)),
    "two signs a row of words apart": lambda t: flipped(t, (3, 7), (4 * ROW + 3, 7)),
    "every sign": lambda t: -t,
    "every other sign": lambda t: negated(t, 2),
    "every sign of a column": lambda t: torch.cat([-t[..., :1], t[..., 1:]], -1),
    "two experts change places": lambda t: t[[1, 0, 2, 3]],
    "two words change places": lambda t: t.view(-1)[[1, 0, *range(2, t.numel())]].view(t.shape),
    "two rows of words change places": lambda t: torch.cat([t.view(-1)[ROW : 2 * ROW], t.view(-1)[:ROW],
                                                            t.view(-1)[2 * ROW :]]),
    "transposed": lambda t: t.mT.contiguous(),
    "a scale": lambda t: t * 2,
    "zeros behind": lambda t: torch.cat([t.view(-1), torch.zeros(1)]),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_changed_tensor_has_another_digest(kind: Callable[..., Tensor], change: Callable[..., Tensor]) -> None:
    assert one(kind, change(EXPERTS)) != one(kind, EXPERTS)
    assert one(kind, EXPERTS.clone()) == one(kind, EXPERTS)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn, torch.int64])
@pytest.mark.parametrize("size", [1, 5, ROW, 3 * ROW + 1])
def test_every_byte_of_any_tensor_counts(dtype: torch.dtype, size: int) -> None:
    tensor = torch.randint(-100, 100, (size,)).to(dtype)
    for byte in (0, tensor.nbytes // 2, tensor.nbytes - 1):
        assert one(sums, flipped(tensor.view(torch.uint8), (byte, 7))) != one(sums, tensor)


def test_a_sum_is_what_it_says() -> None:
    """Long sums included, in which all that is carried out of 64 bits is lost."""
    words = torch.randint(-(2**31), 2**31 - 1, (70 * ROW + 3,), dtype=torch.int32)
    a, b = row_factors(71, words.device).tolist(), column_factors(words.device).tolist()
    total = sum(a[i // ROW] * b[i % ROW] * word for i, word in enumerate(words.tolist()))
    found, size = one(sums, words)
    assert (found % 2**64, size) == (total % 2**64, words.nbytes)
    assert all(factor % 2 for factor in (*a, *b))
    assert (len(set(a)), len(set(b))) == (len(a), len(b))


def test_the_kind_follows_from_the_device_and_any_device_can_make_it() -> None:
    assert (kind_on(torch.device("cpu")), kind_on(torch.device("cuda"))) == ("hash", "sum")
    pair = [EXPERTS, EXPERTS[0]]
    assert torch.equal(digests(pair, "hash"), hashes(pair))
    assert torch.equal(digests(pair, "sum"), sums(pair))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_both_devices_give_the_same_sum() -> None:
    for size in (1, ROW, 3 * ROW + 1, 10**7 + 1):
        tensor = torch.randint(-100, 100, (size,), dtype=torch.int8)
        assert torch.equal(sums([tensor.cuda(), tensor.cuda()[:1]]).cpu(), sums([tensor, tensor[:1]]))
