"""What loops over numbers in FP32 on a CPU are made of. Numba compiles them, and they run without the interpreter's
lock."""

# What numba compiles has the types that it is called with.
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import numba
import numpy as np

f4, i4, u4 = np.float32, np.int32, np.uint32


def _keep_apart() -> None:
    """Compiled code is kept until its own file changes; here, until one of this folder does, which it calls."""
    folder = Path(__file__).parent
    sources = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(folder.glob("*.py"))))
    numba.config.CACHE_DIR = os.path.join(numba.config.CACHE_DIR or folder / "__pycache__", sources.hexdigest()[:16])


def _can_keep() -> bool:
    """Whether there is a place for compiled code, which then compiles once and not in every process."""
    try:
        numba.njit(cache=True)(_can_keep)
    except RuntimeError:
        return False
    return True


_keep_apart()
EXACT: dict[str, Any] = {
    "nogil": True, "cache": _can_keep(), "error_model": "numpy", "fastmath": {"contract"}, "forceinline": True,
}  # fmt: skip
"""Functions become part of what calls them: a process that has just compiled one by itself would call it, and one that
finds its caller kept the copy in there, which has been optimised once more and may round otherwise."""
FREE: dict[str, Any] = {**EXACT, "fastmath": {"contract", "reassoc", "nsz"}}
"""Sums may be taken in an order that fits into vectors, which is always the same."""
LOG2_E, LN_2_HIGH, LN_2_LOW = f4(1.44269504), f4(0.693359375), f4(-2.12194440e-4)


@numba.njit(**EXACT)
def bits_of(x):
    return np.float32(x).view(np.int32)


@numba.njit(**EXACT)
def number_of(bits):
    return np.int32(bits).view(np.float32)


@numba.njit(**EXACT)
def in_order(bits):
    """Of a number's bits a whole number in the order of the numbers, and back: maxima of those are taken in vectors."""
    return i4(bits ^ ((bits >> i4(31)) & i4(0x7FFFFFFF)))


@numba.njit(**EXACT)
def exp(x):
    """To 2 units of the last place, and 0 below e^-87.3. The reduction and the polynomial are those of Cephes' expf."""
    bounded = min(max(x, f4(-87.3)), f4(88.3))
    whole = np.floor(bounded * LOG2_E + f4(0.5))
    r = bounded - whole * LN_2_HIGH - whole * LN_2_LOW
    p = f4(1.9875691500e-4)
    p = p * r + f4(1.3981999507e-3)
    p = p * r + f4(8.3334519073e-3)
    p = p * r + f4(4.1665795894e-2)
    p = p * r + f4(1.6666665459e-1)
    p = p * r + f4(5.0000001201e-1)
    p = p * (r * r) + r + f4(1.0)
    power = number_of((i4(whole) + i4(127)) << i4(23))
    return p * power if x >= f4(-87.3) else f4(0.0)


# Rows are taken out as views and walked through from 0: of an index that could be negative numba asks whether it is,
# and such loops do not become vectors.


@numba.njit(**EXACT)
def round_row(x):
    """A row in its place as `fp8.round_tiles` has it, to the bit."""
    for first in range(0, len(x), 128):
        tile, largest = x[first : first + 128], bits_of(f4(1e-4))
        for i in range(len(tile)):
            largest = max(largest, i4(bits_of(tile[i]) & i4(0x7FFFFFFF)))
        scale = number_of(largest) / f4(448.0)
        for i in range(len(tile)):
            y = tile[i] / scale
            quanta = max(number_of(bits_of(y) & i4(0x7F800000)), f4(2.0**-6)) * f4(1.5 * 2.0**20)
            tile[i] = ((y + quanta) - quanta) * scale


@numba.njit(**EXACT)
def turn(x, turns, out):
    for i in range(0, len(turns), 2):
        out[i] = x[i] * turns[i] - x[i + 1] * turns[i + 1]
        out[i + 1] = x[i] * turns[i + 1] + x[i + 1] * turns[i]


@numba.njit(**EXACT)
def turn_back(x, turns, out):
    for i in range(0, len(turns), 2):
        out[i] = x[i] * turns[i] + x[i + 1] * turns[i + 1]
        out[i + 1] = x[i + 1] * turns[i] - x[i] * turns[i + 1]


@numba.njit(**FREE)
def norm_row(x, weight, eps, out):
    """RMSNorm of as many numbers as there are weights; returns 1 over the root of their mean square."""
    squares = f4(0.0)
    for i in range(len(weight)):
        squares += x[i] * x[i]
    inverse = f4(1.0) / np.sqrt(squares / f4(len(weight)) + eps)
    for i in range(len(weight)):
        out[i] = x[i] * inverse * weight[i]
    return inverse


@numba.njit(**EXACT)
def swiglu_row(gate, up, factor, out):
    """silu(gate) * up, times a number; as many as ``out`` has."""
    for i in range(len(out)):
        out[i] = gate[i] / (f4(1.0) + exp(-gate[i])) * up[i] * factor


@numba.njit(**FREE)
def exponentials(scores, used):
    """Of the first ``used`` scores less their maximum, in their place; those behind, of which there are as many as fill
    vectors, become 0. Returns the maximum and the sum."""
    largest, total = i4(-(2**31)), f4(0.0)
    for t in range(used):
        largest = max(largest, in_order(bits_of(scores[t])))
    for t in range(used, len(scores)):
        scores[t] = f4(-np.inf)
    top = number_of(in_order(largest))
    for t in range(len(scores)):
        scores[t] = exp(scores[t] - top)
        total += scores[t]
    return top, total
