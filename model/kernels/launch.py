"""Triton's own entry into a kernel costs more time on the host than many kernels take on the device: it looks at every
argument and option anew, asks for the device, its stream and hooks, and has CUDA look up every address. Here what it
compiled for arguments of the same kinds is launched as it is, on addresses that are numbers already."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from torch import Tensor
from triton.runtime import JITFunction, driver


class Tiles(NamedTuple):
    """A tensor descriptor of Gluon's, by which a kernel copies tiles of ``block_shape``; it is checked the first time
    that a kernel is given one of its kind."""

    base: Tensor
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    block_shape: tuple[int, int]
    layout: Any
    padding: str = "zero"

    def checked(self) -> Any:
        from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

        return TensorDescriptor(self.base, list(self.shape), list(self.strides), list(self.block_shape), self.layout)


PREFERRED_SHARED_MEMORY_CARVEOUT = 9
"""Of CUDA's function attributes (driver API, CUfunction_attribute): a share of the memory of a multiprocessor, in %."""


class launched:
    """Of a kernel whose compile-time parameters are the last ones, and are named in their order at each launch. One of
    its arguments is a tensor; all lie on the current device. With ``shared`` it asks for so many percent of a
    multiprocessor's memory as shared memory, and leaves the rest to the cache: one that needs little, and runs beside
    others, need then not end on a multiprocessor before another begins there."""

    def __init__(self, kernel: Any, shared: int | None = None) -> None:
        self.kernel, self.shared = kernel, shared
        self.compiled: dict[tuple[Any, ...], Any] = {}

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        if not isinstance(self.kernel, JITFunction):
            return self.kernel[grid]  # type: ignore[no-any-return]  # Triton's interpreter
        return partial(self._launch, grid)

    def _launch(self, grid: tuple[int, ...], *args: Any, num_warps: int, num_stages: int = 3, **constants: Any) -> None:
        active = driver.active
        device = active.get_current_device()
        # What Triton compiles for: the types, whether an address or a number is a multiple of 16, and the number 1.
        kinds, values = [device, num_warps, num_stages, *constants.values()], []
        for a in args:
            if type(a) is int:
                kinds.append(a >> 31 << 2 | (not a & 15) << 1 | (a == 1))
            elif type(a) is Tiles:
                kinds += a.base.dtype, a.block_shape
            elif isinstance(a, Tensor):
                address = a.data_ptr()
                kinds += a.dtype, address & 15
                values.append(address)
                continue
            else:
                kinds.append(type(a))
            values.append(a)
        key = tuple(kinds)
        found = self.compiled.get(key)
        if found is not None:
            run, *of_kernel = found
            x, y, z = (*grid, 1, 1)[:3]
            run(x, y, z, active.get_current_stream(device), *of_kernel, *values, *constants.values())
            return
        assert self.kernel.arg_names[len(args) :] == list(constants)
        checked = (a.checked() if type(a) is Tiles else a for a in args)
        kernel = self.kernel[grid](*checked, **constants, num_warps=num_warps, num_stages=num_stages)
        self.compiled[key] = kernel.run, kernel.function, kernel.packed_metadata, None, None, None
        if self.shared is not None:
            cuda = ctypes.CDLL("libcuda.so.1")  # a hint: what comes of it is the driver's affair
            cuda.cuFuncSetAttribute(ctypes.c_void_p(kernel.function), PREFERRED_SHARED_MEMORY_CARVEOUT, self.shared)
