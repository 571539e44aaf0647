"""The process that worker processes are forked from, and what a worker does.

Run as ``python -c ...`` by ``rewards.workers`` and never imported by the trainer's process for its own use. It has
one thread, imports the heavy modules once, and then forks a worker whenever asked, which takes milliseconds, where a
new interpreter with sympy takes a second. The order below is the argument: what is imported before the fork is shared,
what is limited after the fork binds one worker only, and the worker ends when its socket does.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import resource
import signal
import socket
import struct
import sys
from collections.abc import Callable
from typing import Any

HEADER = struct.Struct("!I")
MAX_FRAME = 64 * 1024 * 1024
RECURSION = 4000


def send_frame(connection: socket.socket, message: object) -> None:
    """Writes one length-prefixed JSON message."""
    body = json.dumps(message).encode()
    connection.sendall(HEADER.pack(len(body)) + body)


def receive_frame(connection: socket.socket) -> Any:
    """Reads one message; raises EOFError when the other side is gone."""
    (length,) = HEADER.unpack(_exactly(connection, HEADER.size))
    if length > MAX_FRAME:
        raise EOFError(f"a frame of {length} bytes")
    return json.loads(_exactly(connection, length))


def _exactly(connection: socket.socket, count: int) -> bytes:
    chunks = []
    while count:
        chunk = connection.recv(min(count, 1 << 20))
        if not chunk:
            raise EOFError("the other side closed the connection")
        chunks.append(chunk)
        count -= len(chunk)
    return b"".join(chunks)


def run_nursery(control: socket.socket, task: str, initial: list[Any]) -> None:
    """Forks a worker for ``task`` ("module:function") at each request; ends with the connection."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    os.dup2(2, 1)  # standard output belongs to the command that the user runs
    module_name, _, attribute = task.partition(":")
    module = importlib.import_module(module_name)
    warm_up = getattr(module, "warm_up", None)
    if warm_up is not None:
        warm_up(*initial)
    function = getattr(module, attribute)
    children: set[int] = set()
    try:
        _serve(control, function, children)
    finally:
        for child in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)


def _serve(control: socket.socket, function: Callable[..., object], children: set[int]) -> None:
    while True:
        request, descriptors, _, _ = socket.recv_fds(control, HEADER.size * 2, 1)
        if len(request) < HEADER.size * 2:
            return
        bury, memory_mb = struct.unpack("!II", request)
        if bury:
            with contextlib.suppress(ChildProcessError, ProcessLookupError):
                os.kill(bury, signal.SIGKILL)
                os.waitpid(bury, 0)
            children.discard(bury)
            continue
        child = os.fork()
        if child == 0:
            control.close()
            _work(socket.socket(fileno=descriptors[0]), function, memory_mb)
        for descriptor in descriptors:
            os.close(descriptor)
        children.add(child)
        control.sendall(HEADER.pack(child))


def _work(connection: socket.socket, function: Callable[..., object], memory_mb: int) -> None:
    """A worker's life: limits first, then one answer for each request, until the connection ends."""
    status = 0
    try:
        _die_with_parent()
        _limit_memory(memory_mb)
        sys.setrecursionlimit(RECURSION)
        while True:
            cpu_s, arguments = receive_frame(connection)
            _limit_cpu(cpu_s)
            send_frame(connection, _answer(function, arguments))
    except (EOFError, OSError):
        pass
    except BaseException:  # noqa: BLE001  a worker never returns into the nursery's loop
        status = 1
    finally:
        os._exit(status)


def _answer(function: Callable[..., object], arguments: list[Any]) -> dict[str, object]:
    try:
        return {"result": function(*arguments)}
    except MemoryError:
        return {"error": "out of memory", "spent": True}
    except RecursionError:
        return {"error": "nested too deeply"}
    except Exception as error:  # noqa: BLE001  whatever the task raises is the caller's to read
        return {"error": f"{type(error).__name__}: {error}"[:2000]}


def _die_with_parent() -> None:
    """On Linux a worker is killed when the nursery ends, however it ends."""
    if sys.platform != "linux":
        return
    import ctypes

    set_parent_death_signal = 1
    ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL, 0, 0, 0)
    if os.getppid() == 1:
        os._exit(1)


def _limit_memory(memory_mb: int) -> None:
    """Bounds what the worker may map beyond what it was forked with."""
    if memory_mb and sys.platform == "linux":
        with open("/proc/self/statm") as statm:
            mapped = int(statm.read().split()[0]) * resource.getpagesize()
        limit = mapped + memory_mb * 1024 * 1024
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _limit_cpu(seconds: float) -> None:
    """Bounds the CPU time from now on; the kernel's unit is whole seconds, and its signal ends the worker."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    soft = int(usage.ru_utime + usage.ru_stime + seconds) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (soft, resource.RLIM_INFINITY))


def main() -> None:
    """Entry: argv holds the control socket's descriptor, the task, and its warm-up's arguments."""
    run_nursery(socket.socket(fileno=int(sys.argv[1])), sys.argv[2], json.loads(sys.argv[3]))
