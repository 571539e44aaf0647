"""Sizes of grids and tiles. Triton's own functions for these cost as much on the host as an operator of torch."""

from __future__ import annotations


def cdiv(size: int, part: int) -> int:
    """How many of ``part`` hold ``size``."""
    return -(-size // part)


def power_of_two(size: int) -> int:
    """The least power of two that is not below ``size`` >= 1."""
    return 1 << (size - 1).bit_length()
