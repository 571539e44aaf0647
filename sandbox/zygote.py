"""The zygote: a small warm interpreter inside the jail that forks one isolated process for every run.

It is process 1 of the jail's PID namespace and each run is process 1 of one below it, so the kernel ends all processes
of a run with the run and all runs with the zygote. It reads no candidate code and no tests: a run reads its job itself,
from its own channel, after it is isolated.

Messages over one SOCK_SEQPACKET socket
    from the supervisor   (id, limits) with descriptors stdin, stdout, stderr, channel [, peer]; (id, None) to kill. As
                          marshal writes them: the supervisor is trusted
    to the supervisor     {"ready": {...}} and, from a run that could not be isolated, {"run": id, "failed": why}, JSON;
                          an ``ENDED`` for each run. The supervisor trusts nobody, so never marshal

After a fork this process copies every page that it touches while the run lives, so what the loop does for a run it does
with few functions, and at the run's end.
"""

from __future__ import annotations

import _socket
import atexit
import gc
import importlib
import io
import json
import marshal
import os
import select
import signal
import struct
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from sandbox import jail, kernel, pages, program, unsafe, wire

ENDED = struct.Struct("!cqqdq")
"""b"e", the run, its exit status, CPU seconds, and its peak memory (KiB)."""
_MESSAGE_BYTES = 1 << 12
_ANCILLARY_BYTES = _socket.CMSG_SPACE(5 * 4)
_CHANNEL = 3
_ALL_DESCRIPTORS = 1 << 20
_OUR_FOLDER = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


class Zygote:
    """The loop that starts runs, kills them when told, and reports how they ended."""

    def __init__(self, control: _socket.socket, isolation: jail.Isolation | unsafe.NoIsolation) -> None:
        self._control = control
        self._isolation = isolation
        self._runs: dict[int, tuple[int, int, list[int], str]] = {}
        self._poll = select.poll()
        self._poll.register(control, select.POLLIN)

    def serve(self) -> None:
        """Until the supervisor closes its end."""
        while True:
            for descriptor, _ in self._poll.poll():
                if descriptor in self._runs:
                    self._reap(descriptor)
                elif not self._handle_message():
                    return

    def _handle_message(self) -> bool:
        data, ancillary, _, _ = self._control.recvmsg(_MESSAGE_BYTES, _ANCILLARY_BYTES)
        if not data:
            return False
        run, limits = marshal.loads(data)  # noqa: S302 - from the supervisor
        if limits is None:
            for handle, (living, *_) in self._runs.items():
                if run == living:
                    signal.pidfd_send_signal(handle, signal.SIGKILL)
        else:
            self._spawn(run, limits, memoryview(ancillary[0][2]).cast("i").tolist())
        return True

    def _spawn(self, run: int, limits: tuple[int, ...], descriptors: list[int]) -> None:
        calls, path = self._isolation.before_fork(limits)
        pid = kernel.fork()
        if pid == 0:
            self._become_run(run, descriptors, calls, path)
        handle = os.pidfd_open(pid)
        self._runs[handle] = (run, pid, descriptors, path)
        self._poll.register(handle, select.POLLIN)

    def _become_run(self, run: int, descriptors: list[int], calls: Sequence[kernel.Call], path: str) -> NoReturn:
        """In the child. Only before the candidate's code is read can a failure be ours, and only then is the socket
        open on which it is told: a candidate cannot claim that the sandbox failed."""
        try:
            isolate(descriptors, calls)
        except BaseException as error:  # noqa: BLE001 - nothing may leave this function
            self._control.send(json.dumps({"run": run, "failed": f"{type(error).__name__}: {error}"}).encode())
            os._exit(125)
        status = 125
        try:
            status = do_job(len(descriptors), path)
        finally:
            os._exit(status)

    def _reap(self, handle: int) -> None:
        run, pid, descriptors, path = self._runs.pop(handle)
        self._poll.unregister(handle)
        for descriptor in (handle, *descriptors):
            os.close(descriptor)
        status, cpu_seconds, peak_kb = kernel.wait(pid)
        self._isolation.ended(path, [pid for _, pid, *_ in self._runs.values()])
        self._control.send(ENDED.pack(b"e", run, status, cpu_seconds, peak_kb))


def load_modes() -> None:
    """Loads what a run may need of ours while the jail does not hide it yet."""
    for name in ("asserts", "commands"):
        importlib.import_module(f"sandbox.{name}")


def isolate(descriptors: Sequence[int], calls: Sequence[kernel.Call]) -> None:
    """In the run: its own descriptors, then what ``calls`` take from it, then random numbers that no other run sees.
    The generator's own method: the module's does the same in more steps."""
    for target, descriptor in enumerate(descriptors):
        os.dup2(descriptor, target)
    kernel.perform(calls)
    random = sys.modules.get("random")
    if random is not None:
        random._random.Random.seed(random._inst)


def do_job(descriptors: int, path: str) -> int:
    """In the run: its exit status. Its first ``descriptors`` are all that it keeps."""
    os.closerange(descriptors, _ALL_DESCRIPTORS)
    return program.run_job(_CHANNEL, path)


def rehearse(times: int = 16) -> None:
    """Does in this process what runs do, so that the interpreter has specialised the code and filled the caches that
    all of them use; a run would do so by itself, in pages of its own. Standard streams and the channel end as
    nothing."""
    if atexit._ncallbacks():
        return  # imported modules want to end with the interpreter, and a rehearsal ends
    main, nowhere = sys.modules["__main__"], os.open(os.devnull, os.O_RDWR)
    channel, judge = _socket.socketpair()
    reading, typing = os.pipe()
    source = "import sys\ndef f(x): return x\nfor number in range(3): f(number)\nprint(int(input()) + 1)\n"
    for _ in range(times):
        os.write(typing, b"1\n")
        judge.sendall(wire.pack_job({"mode": "program", "source": source}))
        isolate((reading, nowhere, nowhere, channel.fileno()), kernel.NOTHING)
        do_job(_ALL_DESCRIPTORS, os.devnull)
    for _ in range(times):
        judge.sendall(wire.pack({"call": {"name": "f"}, "args": [1], "kwargs": {"dict": []}}))
    judge.shutdown(_socket.SHUT_WR)
    code = compile("def f(x): return x + 1", os.devnull, "exec")
    program.serve(_CHANNEL, code, program.module("solution", os.devnull))
    del sys.modules["solution"]
    sys.modules["__main__"] = main
    isolate((nowhere,) * (_CHANNEL + 1), kernel.NOTHING)
    for descriptor in (reading, typing, channel.detach(), judge.detach(), nowhere):
        os.close(descriptor)


def use_interpreter(paths: Sequence[str], shown_at: Callable[[str], str]) -> None:
    """A candidate that starts Python again gets this interpreter and these packages, not a virtual environment whose
    folder the jail does not show."""
    packages = [shown_at(path) for path in paths]
    sys.executable = shown_at(sys.executable)
    os.environ["PYTHONPATH"] = os.pathsep.join(packages)
    sys.path[:] = [shown_at(path) for path in sys.path if path != _OUR_FOLDER] + packages


def preload(modules: Sequence[str]) -> None:
    """Imports what candidates are expected to import, and fixes what has been allocated so that forks share it."""
    for name in modules:
        try:
            importlib.import_module(name)
        except ImportError:
            continue  # not installed here; a candidate that needs it will say so
    _open_streams()
    gc.collect()
    pages.fill_holes()
    rehearse()
    _open_streams()  # those of the rehearsal have read and written
    gc.collect()
    gc.freeze()
    pages.fill_holes()
    kernel.trim_memory()
    pages.use_huge_arenas()


def _open_streams() -> None:
    sys.stdin = io.TextIOWrapper(io.BufferedReader(io.FileIO(0, closefd=False)), encoding="utf-8")
    sys.stdout = io.TextIOWrapper(io.BufferedWriter(io.FileIO(1, "w", closefd=False)), encoding="utf-8")
    sys.stderr = io.TextIOWrapper(
        io.BufferedWriter(io.FileIO(2, "w", closefd=False)),
        encoding="utf-8",
        errors="backslashreplace",
        line_buffering=True,
    )
    sys.__stdin__, sys.__stdout__, sys.__stderr__ = sys.stdin, sys.stdout, sys.stderr  # type: ignore[misc]
