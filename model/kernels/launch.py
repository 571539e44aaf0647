"""Triton's own entry into a kernel costs more time on the host than many kernels take on the device: it looks at every
argument and option anew. Here what it compiled for arguments of the same kinds is launched as it is."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor


class launched:
    """Of a kernel whose compile-time parameters are the last ones, and are named in their order at each launch. Its
    first argument is a tensor."""

    def __init__(self, kernel: Any) -> None:
        self.kernel = kernel
        self.compiled: dict[tuple[Any, ...], Any] = {}

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        return partial(self._launch, grid)

    def _launch(self, grid: tuple[int, ...], *args: Any, num_warps: int, **constants: Any) -> None:
        # What Triton compiles for: the types, whether an address or a number is a multiple of 16, and the number 1.
        kinds = [
            (a.dtype, a.data_ptr() & 15) if isinstance(a, Tensor)
            else (a == 1, a & 15 == 0, a >> 31) if isinstance(a, int) else type(a)
            for a in args
        ]  # fmt: skip
        key = args[0].device, num_warps, *constants.values(), *kinds
        compiled = self.compiled.get(key)
        if compiled is not None:
            compiled[(*grid, 1, 1)[:3]](*args, *constants.values())
            return
        assert self.kernel.arg_names[len(args) :] == list(constants)
        # Nothing, where Triton interprets.
        self.compiled[key] = self.kernel[grid](*args, **constants, num_warps=num_warps)
