"""The candidate's side: what an isolated process does with its job. Nothing here is trusted by anybody.

The job arrives over the channel (descriptor 3) as one frame:
    {"mode": "program", "source"}         run as ``python solution.py`` would
    {"mode": "functions", "source"}       define it, then answer calls over the channel
    {"mode": "tests", "tests", ...}       our side of assert-style tests (sandbox/asserts.py), in a process of its own
    {"mode": "checker", "source", ...}    a test author's own comparison, in a process of its own
    {"mode": "command", "files", ...}     write files, run compilers, execute a program

A candidate can read and change everything in this process, this module included. It gains nothing: expected values are
elsewhere, and what it sends is only data that the judge compares.
"""

from __future__ import annotations

import atexit
import builtins
import os
import sys
import threading
import traceback
import types
from collections.abc import Callable
from typing import Any

from sandbox import wire

PEER = 4
"""The descriptor of the socket between a tests' process and its candidate's."""
SOURCE = "solution.py"
"""Written to the working directory, which is the run's own."""
MAX_MESSAGE_BYTES = 1 << 30


def send(channel: int, message: Any) -> None:
    view = memoryview(wire.pack(message))
    while view:
        view = view[os.write(channel, view) :]


def report(channel: int, message: Any) -> None:
    """Says something that may be of use and is never needed."""
    try:
        send(channel, message)
    except (OSError, ValueError):
        return


def receive(channel: int, limit_bytes: int = MAX_MESSAGE_BYTES) -> Any:
    """The next message. Raises EOFError when the other side is gone, and Malformed for more than ``limit_bytes``."""
    return wire.unpack(_read_frame(channel, limit_bytes))


def _read_frame(channel: int, limit_bytes: int = MAX_MESSAGE_BYTES) -> bytes:
    (length,) = wire.HEADER.unpack(_read(channel, 4))
    if length > limit_bytes:
        raise wire.Malformed(f"a message of {length} bytes, where {limit_bytes} are allowed")
    return _read(channel, length)


def _read(channel: int, count: int) -> bytes:
    data = os.read(channel, min(count, 1 << 20))
    if len(data) == count:
        return data
    whole = bytearray(data)
    while len(whole) < count:
        chunk = os.read(channel, min(count - len(whole), 1 << 20))
        if not chunk:
            raise EOFError("the channel is closed")
        whole += chunk
    return bytes(whole)


def run_job(channel: int, path: str) -> int:
    """Does the job that the channel brings, with a Python program at ``path``; returns the exit status."""
    job = wire.unpack_job(_read_frame(channel))
    mode = job["mode"]
    if mode == "command":
        return sys.modules["sandbox.commands"].run(channel, job)  # type: ignore[no-any-return]
    if mode == "tests":
        return sys.modules["sandbox.asserts"].run(channel, job["tests"], job["answer_bytes"])  # type: ignore[no-any-return]
    if mode == "checker":
        return _check(channel, job)
    code = _compile(channel, job["source"], path)
    if code is None:
        return 1
    if mode == "program":
        main = module("__main__", path)
        return _finish(_run(channel, exec, code, main.__dict__), main)
    solution = module("solution", path)
    return _finish(_run(channel, serve, job.get("serve_on", channel), code, solution), solution)


def _check(channel: int, job: dict[str, Any]) -> int:
    """Whether the test's ``check(stdin, stdout, expected)`` accepts an output; the candidate is elsewhere and gone."""
    namespace: dict[str, Any] = {"__name__": "checker"}
    exec(compile(job["source"], "checker.py", "exec"), namespace)  # noqa: S102
    accepted = namespace["check"](job["stdin"], job["stdout"], job["expected"])
    send(channel, {"accepted": bool(accepted)})
    return 0


def module(name: str, path: str) -> types.ModuleType:
    made = types.ModuleType(name)
    made.__dict__.update(__file__=path, __builtins__=builtins)
    sys.modules[name] = made
    sys.argv = [path]
    return made


def _compile(channel: int, source: str, path: str) -> types.CodeType | None:
    try:
        file = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o644)
        os.write(file, source.encode("utf-8", "surrogateescape"))
        os.close(file)
        return compile(source, path, "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError) as error:
        traceback.print_exception(error, limit=0)
        sys.stderr.flush()
        report(channel, {"compile_error": f"{type(error).__name__}: {error}"})
        return None


def _finish(status: int, module: types.ModuleType) -> int:
    """Ends as the interpreter would: threads joined, exit functions run, streams flushed."""
    try:
        if len(threading._active) > 1:  # type: ignore[attr-defined]
            threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        module.__dict__.clear()
        sys.stdout.flush()
    except BaseException as error:  # noqa: BLE001
        status = status or 120
        _print_error(error)
    sys.stderr.flush()
    return status


def _run(channel: int, body: Callable[..., Any], *arguments: Any) -> int:
    """The exit status that ``body(*arguments)`` asks for."""
    try:
        body(*arguments)
    except SystemExit as stop:
        return _exit_status(stop.code)
    except BaseException as error:  # noqa: BLE001 - every way for a program to end is data
        _print_error(error)
        report(channel, {"raised": describe(error)})
        return 1
    return 0


def _exit_status(code: object) -> int:
    if code is None:
        return 0
    if isinstance(code, int):
        return code & 0xFF
    print(code, file=sys.stderr)
    return 1


def _print_error(error: BaseException) -> None:
    """The traceback from the candidate's first frame on."""
    frames = error.__traceback__
    while frames is not None and not frames.tb_frame.f_code.co_filename.endswith(f"/{SOURCE}"):
        frames = frames.tb_next
    try:
        traceback.print_exception(type(error), error, frames or error.__traceback__)
    except BaseException:  # noqa: BLE001 - a hostile __str__
        os.write(2, type(error).__name__.encode() + b"\n")


def describe(error: BaseException) -> dict[str, Any]:
    """An exception as data: the built-in classes it derives from, the nearest first, its text, and its errno."""
    classes = [kind.__name__ for kind in type(error).__mro__ if kind.__module__ == "builtins"]
    try:
        text = str(error)[:500]
    except BaseException:  # noqa: BLE001
        text = "its __str__ raises"
    return {"classes": classes, "name": type(error).__name__, "text": text, "errno": getattr(error, "errno", None)}


class Server:
    """Answers requests for the candidate's functions and objects.

    {"names": [...]}                                     which of them the module defines, each as a value
    {"call": target, "args": [...], "kwargs": {...}}     target: {"name"}, {"object": id} or {"builtin"}, then
                                                         "path": attributes
    {"get": target}, {"set": target, "attribute", "value"}
    Answers: {"value", "args"?: the arguments when the call changed them} or {"raised": describe()}
    """

    def __init__(self, module: types.ModuleType) -> None:
        self._module = module
        self._objects: dict[int, Any] = {}

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        if "names" in request:
            known = vars(self._module)
            return {"value": {name: self._encode(known[name]) for name in request["names"] if name in known}}
        if "get" in request:
            return {"value": self._encode(self._resolve(request["get"]))}
        if "set" in request:
            setattr(self._resolve(request["set"]), request["attribute"], self._decode(request["value"]))
            return {"value": None}
        function = self._resolve(request["call"])
        args = self._decode(request["args"])
        result = function(*args, **self._decode(request.get("kwargs", {"dict": []})))
        answer = {"value": self._encode(result)}
        try:
            after = [self._encode(argument) for argument in args]
        except wire.Unencodable:
            return answer
        return answer if after == request["args"] else {**answer, "args": after}

    def _encode(self, value: Any) -> Any:
        return wire.encode(value, self._reference)

    def _reference(self, value: Any) -> Any:
        self._objects[id(value)] = value
        return {"object": [id(value), type(value).__name__, callable(value)]}

    def _decode(self, form: Any) -> Any:
        return wire.decode(form, lambda body: self._resolve(body[0]))

    def _resolve(self, target: dict[str, Any]) -> Any:
        if "builtin" in target:
            return getattr(builtins, target["builtin"])
        value = self._objects[target["object"]] if "object" in target else self._named(target["name"])
        for attribute in target.get("path", ()):
            value = getattr(value, attribute)
        return value

    def _named(self, name: str) -> Any:
        known = vars(self._module)
        if name in known:
            return known[name]
        solution = known.get("Solution")
        if isinstance(solution, type) and hasattr(solution, name):
            return getattr(solution(), name)
        raise NameError(f"the solution defines no function {name!r}")


def serve(channel: int, code: types.CodeType, module: types.ModuleType) -> None:
    """Defines the candidate's names and answers requests until the channel closes."""
    exec(code, module.__dict__)  # noqa: S102
    server = Server(module)
    sys.stdout.flush()
    send(channel, {"ready": True})
    while True:
        try:
            request = receive(channel)
        except EOFError:
            return
        try:
            answer = server.answer(request)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:  # noqa: BLE001 - the caller is told
            answer = {"raised": describe(error)}
            error.__traceback__ = None
        sys.stdout.flush()
        send(channel, answer)
