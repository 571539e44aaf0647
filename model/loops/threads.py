"""Loops in torch's own OpenMP threads, which wait awake for more: others would wait until these sleep, and to be called
back in Python they would have to wait for the interpreter. Where torch's library is not found, loops run in one thread.
"""

# What numba compiles has the types that it is called with.
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from llvmlite import binding, ir
from numba.core import cgutils, types
from numba.extending import intrinsic

OPENMP = re.compile(r"lib(gomp|iomp5|omp)\b.*\.so.*")
REGION, THREAD = "GOMP_parallel", "omp_get_thread_num"
"""What GCC's compiled code calls for a parallel region, which LLVM's and Intel's libraries have too, and in one."""
WORD, NUMBER, POINTER = ir.IntType(64), ir.IntType(32), ir.IntType(8).as_pointer()
WORTH = 2**17
"""Multiplications for which another thread is worth asking: about ten microseconds' of exponentials."""


def _torch_s_openmp() -> ctypes.CDLL | None:
    maps = Path("/proc/self/maps")
    loaded = {line.split()[-1] for line in maps.read_text().splitlines()} if maps.exists() else set()
    for path in sorted(loaded, key=lambda path: "torch" not in path):
        if OPENMP.fullmatch(os.path.basename(path)):
            library = ctypes.CDLL(path)
            if hasattr(library, REGION):
                return library
    return None


def shared_out(loop: Callable[..., None], rows: int, work: int, *args: Any) -> None:
    """``loop`` (threads, rows, ...), which calls `in_threads`, in as many threads as torch has, if ``work``
    multiplications are worth it. Of any other number of threads their library would end some, and begin them anew."""
    threads = torch.get_num_threads() if LIBRARY is not None and work >= WORTH else 1
    loop(threads, rows, *args)


def in_threads(loop: Any) -> Any:
    """What a compiled function calls with threads, rows and a tuple of what else ``loop`` takes, which fails at
    nothing, for rows first to last in each thread. It is known when that function is compiled, which thus can be kept.
    """

    def call(typing_context, threads, rows, args):
        whole = types.intp
        taken = (whole, whole, *args.types)

        def generate(context, builder, signature, values):
            threads, rows, given = values
            loop.compile(taken)
            compiled = loop.overloads[taken]
            context.add_linking_libs([compiled.library])
            filled = ir.Constant(ir.LiteralStructType([WORD, WORD, given.type]), ir.Undefined)
            for k, value in enumerate((threads, rows, given)):
                filled = builder.insert_value(filled, value, k)
            room = cgutils.alloca_once_value(builder, filled)
            packed = builder.bitcast(room, POINTER)

            # One function for one thread and for several: each copy would be optimised, and round, as it comes.
            part, inner = _function(builder.module, "part", [WORD, WORD, POINTER])
            part.attributes.add("noinline")
            first, last, passed = part.args
            held = inner.extract_value(inner.load(inner.bitcast(passed, room.type)), 2)
            own = map(partial(_uncounted, context, inner), args, cgutils.unpack_tuple(inner, held))
            context.call_internal_no_propagate(inner, compiled.fndesc, compiled.signature, [first, last, *own])
            inner.ret_void()

            none, one = ir.Constant(WORD, 0), ir.Constant(WORD, 1)
            if LIBRARY is None:
                builder.call(part, [none, rows, packed])
                return context.get_dummy_value()
            with builder.if_else(builder.icmp_signed("==", threads, one)) as (alone, together):
                with alone:
                    builder.call(part, [none, rows, packed])
                with together:
                    _region(builder, threads, packed, part)
            return context.get_dummy_value()

        return types.void(whole, whole, args), generate

    return intrinsic(call)


def _uncounted(context: Any, builder: Any, kind: Any, value: Any) -> Any:
    """An array that belongs to nobody: threads that count who holds one, for every row that they take out of it, would
    wait for each other."""
    if not isinstance(kind, types.Array):
        return value
    array = context.make_array(kind)(context, builder, value)
    array.meminfo = cgutils.get_null_value(array.meminfo.type)
    array.parent = cgutils.get_null_value(array.parent.type)
    return array._getvalue()


def _function(module: Any, name: str, kinds: Sequence[Any]) -> tuple[Any, Any]:
    """One that returns nothing, and what builds it."""
    made = ir.Function(module, ir.FunctionType(ir.VoidType(), kinds), module.get_unique_name(name))
    made.linkage = "internal"
    return made, ir.IRBuilder(made.append_basic_block())


def _region(builder: Any, threads: Any, packed: Any, part: Any) -> None:
    """Has each thread of a parallel region do ``part`` of the rows. ``packed`` begins with threads and rows."""
    module = builder.module
    body, inner = _function(module, "body", [POINTER])
    numbers = inner.bitcast(body.args[0], WORD.as_pointer())
    one = ir.Constant(WORD, 1)
    count, total = inner.load(numbers), inner.load(inner.gep(numbers, [one]))
    own = cgutils.get_or_insert_function(module, ir.FunctionType(NUMBER, []), THREAD)
    i = inner.sext(inner.call(own, []), WORD)
    ends = [inner.sdiv(inner.mul(total, k), count) for k in (i, inner.add(i, one))]
    inner.call(part, [*ends, body.args[0]])
    inner.ret_void()
    kinds = ir.FunctionType(ir.VoidType(), [body.type, POINTER, NUMBER, NUMBER])
    region = cgutils.get_or_insert_function(module, kinds, REGION)
    builder.call(region, [body, packed, builder.trunc(threads, NUMBER), ir.Constant(NUMBER, 0)])


LIBRARY = _torch_s_openmp()
if LIBRARY is not None:
    for name in (REGION, THREAD):
        binding.add_symbol(name, ctypes.cast(getattr(LIBRARY, name), ctypes.c_void_p).value)
