from __future__ import annotations

from typing import Any

import numba
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from model.loops.tiles import LANES, ROWS, add_outer, product

Matrix = np.ndarray[Any, Any]


@numba.njit
def multiplied(a: Matrix, b: Matrix, count: int, c: Matrix, width: int) -> None:
    product(a, b, count, c, width)


@numba.njit
def added(a: Matrix, b: Matrix, count: int, c: Matrix, rows: int, width: int) -> None:
    add_outer(a, b, count, c, rows, width)


def drawn(seed: int, *shape: int) -> Matrix:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


@settings(deadline=None)
@given(st.integers(0, 70), st.integers(1, 5), st.integers(0, 3), st.integers(0, 9))
def test_a_product_is_that_of_numpy_and_writes_nothing_else(count: int, vectors: int, more: int, seed: int) -> None:
    width = vectors * LANES
    a, b, c = (
        drawn(seed, ROWS, count + more),
        drawn(seed + 1, count + 1, width + more),
        drawn(seed, ROWS + 1, width + more),
    )
    expected = c.copy()
    expected[:ROWS, :width] = a[:, :count] @ b[:count, :width]
    multiplied(a, b, count, c, width)
    np.testing.assert_allclose(c, expected, rtol=1e-4, atol=1e-4)


@settings(deadline=None)
@given(st.integers(0, ROWS), st.integers(1, 50), st.integers(1, 5), st.integers(0, 3), st.integers(0, 9))
def test_an_outer_product_is_added_as_numpy_adds_it(count: int, rows: int, vectors: int, more: int, seed: int) -> None:
    width, there = vectors * LANES, -(-rows // ROWS) * ROWS
    a, b, c = drawn(seed, ROWS, there + more), drawn(seed + 1, ROWS, width + more), drawn(seed, there + 1, width + more)
    expected = c.copy()
    expected[:there, :width] += a[:count, :there].T @ b[:count, :width]
    added(a, b, count, c, rows, width)
    np.testing.assert_allclose(c, expected, rtol=1e-4, atol=1e-4)
