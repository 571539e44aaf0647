"""Where the model's operators are chosen: `on_gpu` marks a reference in plain torch that has a faster equal on a GPU.

BF16 tensors on a CUDA device, which is what both bf16 and fp8 training compute with there, go to `model.fused`.
Everything else, FP32 on a GPU included, takes the reference.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")


def on_gpu(name: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """``name`` is the function of `model.fused` that takes the reference's arguments; where it returns NotImplemented,
    for a shape or a chip that it does not serve, the reference runs."""

    def mark(reference: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(reference)
        def chosen(*args: P.args, **kwargs: P.kwargs) -> R:
            if _served(args) and has_triton():
                from model import fused

                out: Any = getattr(fused, name)(*args, **kwargs)
                if out is not NotImplemented:
                    return out  # type: ignore[no-any-return]
            return reference(*args, **kwargs)

        return chosen

    return mark


def has_loops(x: Tensor) -> bool:
    """Whether `model.compiled_training` has loops for what follows: FP32 on a CPU, which training in FP8 computes with
    there as well."""
    return x.device.type == "cpu" and x.dtype == torch.float32


def _served(args: tuple[Any, ...]) -> bool:
    """Whether the first tensor is BF16 on a CUDA device."""
    for arg in args:
        if isinstance(arg, Tensor):
            return arg.is_cuda and arg.dtype == torch.bfloat16
    return False


@functools.cache
def has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None
