"""Digests of tensors' bytes, against accidents: made where the bytes lie, and at the speed of that memory.

Host memory: XXH3, 128 bits. A GPU: the bytes as 32-bit words w_ij in rows of 1,024, then the sum of a_i b_j w_ij modulo
2^64 with odd 32-bit numbers a and b for each row and column, which is multilinear hashing with a product for a
multiplier (Lemire and Kaser, arXiv:1202.4961, section 3): words are half as wide as the sum, so that a change of their
highest bits also moves its upper half, and so are the numbers, so that a word is multiplied and added in one
instruction. The b are drawn; the a are mixed from the number of the row, since a table of them took the place in a
multiprocessor's cache that the weights pass through. Sums do not depend on their order, hence both devices give the
same number. The sender's device chooses; a receiver makes the same kind.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, Literal

import torch
import xxhash
from torch import Tensor
from torch.nn import functional as F

from model.dispatch import has_triton

Kind = Literal["hash", "sum"]
ROW = 1024
"""Words in a row."""
MULTIPLIER = 0x9E3779B1
"""2^32 over the golden ratio, as a prime: consecutive rows get numbers far apart."""
ROWS_AT_ONCE = 64


def kind_on(device: torch.device) -> Kind:
    """What suits the memory that tensors lie in."""
    return "sum" if device.type == "cuda" else "hash"


def digests(tensors: Sequence[Tensor], kind: Kind) -> Tensor:
    """int64 [len(tensors), 2]; a sum and the number of bytes, or a hash's two halves. Sums are made without waiting for
    the device, and stay there."""
    return hashes(tensors) if kind == "hash" else sums(tensors)


def hashes(tensors: Sequence[Tensor]) -> Tensor:
    found = b"".join(xxhash.xxh3_128_digest(host_bytes(t)) for t in tensors)
    return torch.frombuffer(bytearray(found), dtype=torch.int64).view(-1, 2)


def sums(tensors: Sequence[Tensor]) -> Tensor:
    words = [t if t.is_contiguous() and t.nbytes % 4 == 0 else _words(t) for t in tensors]
    sizes = [t.nbytes for t in tensors]
    if words[0].is_cuda and has_triton():
        from model.kernels.transfer import word_sums

        found = word_sums([t if t.data_ptr() % 16 == 0 else t.clone() for t in words])
        return torch.stack([found[:, 0], torch.tensor(sizes).to(found.device, non_blocking=True)], 1)
    return torch.stack([torch.stack([word_sum(_words(t)), torch.tensor(n)]) for t, n in zip(words, sizes, strict=True)])


def host_bytes(tensor: Tensor) -> Any:
    """The tensor's bytes as a NumPy array, uint8 [n]."""
    return flat_bytes(tensor).cpu().numpy()


def flat_bytes(tensor: Tensor) -> Tensor:
    """The tensor's bytes where they are, uint8 [n]."""
    return tensor.detach().contiguous().flatten().view(torch.uint8)


def _words(tensor: Tensor) -> Tensor:
    """int32 [n], zeros behind the last byte."""
    data = flat_bytes(tensor)
    return (F.pad(data, (0, -len(data) % 4)) if len(data) % 4 else data).view(torch.int32)


def word_sum(words: Tensor) -> Tensor:
    """int32 [n] -> int64 []: the reference."""
    columns = torch.zeros(ROW, dtype=torch.int64, device=words.device)
    a = row_factors(-(-len(words) // ROW), words.device)
    for part, factor in zip(words.split(ROWS_AT_ONCE * ROW), a.split(ROWS_AT_ONCE), strict=False):
        whole = F.pad(part, (0, -len(part) % ROW)).view(-1, ROW)
        columns += (whole.long() * factor[: len(whole), None]).sum(0)
    return (columns * column_factors(words.device)).sum()


def row_factors(count: int, device: torch.device) -> Tensor:
    """The a: as many odd numbers, int32."""
    mixed = torch.arange(count, device=device) * MULTIPLIER % 2**32
    return (mixed ^ mixed >> 15 | 1).to(torch.int32)


@functools.lru_cache(maxsize=4)
def column_factors(device: torch.device) -> Tensor:
    """The b: 1,024 odd numbers, int32."""
    generator = torch.Generator().manual_seed(0)
    return (torch.randint(-(2**31), 2**31, (ROW,), dtype=torch.int32, generator=generator) | 1).to(device)
