"""Loops in torch's own OpenMP threads, which wait awake for more: others would wait until these sleep, and to be called
back in Python they would have to wait for the interpreter. Where torch's library is not found, loops run in one thread.
"""

# What numba compiles has the types that it is called with.
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Callable
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

            def run(builder, first, last, given):
                own = map(partial(_uncounted, context, builder), args, cgutils.unpack_tuple(builder, given))
                context.call_internal_no_propagate(builder, compiled.fndesc, compiled.signature, [first, last, *own])

            none, one = ir.Constant(WORD, 0), ir.Constant(WORD, 1)
            if LIBRARY is None:
                run(builder, none, rows, given)
                return context.get_dummy_value()
            with builder.if_else(builder.icmp_signed("==", threads, one)) as (alone, together):
                with alone:
                    run(builder, none, rows, given)
                with together:
                    _region(builder, threads, rows, given, run)
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


def _region(builder: Any, threads: Any, rows: Any, given: Any, run: Callable[..., None]) -> None:
    """Packs what the loop is given, and has each thread of a parallel region unpack it for rows of its own."""
    module = builder.module
    filled = ir.Constant(ir.LiteralStructType([WORD, WORD, given.type]), ir.Undefined)
    for k, value in enumerate((threads, rows, given)):
        filled = builder.insert_value(filled, value, k)
    room = cgutils.alloca_once_value(builder, filled)

    body = ir.Function(module, ir.FunctionType(ir.VoidType(), [POINTER]), module.get_unique_name("body"))
    body.linkage = "internal"
    inner = ir.IRBuilder(body.append_basic_block())
    passed = inner.load(inner.bitcast(body.args[0], room.type))
    count, total, own = (inner.extract_value(passed, k) for k in range(3))
    number = cgutils.get_or_insert_function(module, ir.FunctionType(NUMBER, []), THREAD)
    i = inner.sext(inner.call(number, []), WORD)
    first, last = (inner.sdiv(inner.mul(total, k), count) for k in (i, inner.add(i, ir.Constant(WORD, 1))))
    run(inner, first, last, own)
    inner.ret_void()

    kinds = ir.FunctionType(ir.VoidType(), [body.type, POINTER, NUMBER, NUMBER])
    region = cgutils.get_or_insert_function(module, kinds, REGION)
    builder.call(region, [body, builder.bitcast(room, POINTER), builder.trunc(threads, NUMBER), ir.Constant(NUMBER, 0)])


LIBRARY = _torch_s_openmp()
if LIBRARY is not None:
    for name in (REGION, THREAD):
        binding.add_symbol(name, ctypes.cast(getattr(LIBRARY, name), ctypes.c_void_p).value)
