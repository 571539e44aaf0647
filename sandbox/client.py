"""The owner's side of a worker: starting it, the form of a request, and the form of a verdict.

Works from any thread and in any process, a Ray actor included: it starts a new program and never forks the owner, whose
memory may be large and whose threads may hold locks.
"""

from __future__ import annotations

import ast
import atexit
import contextlib
import os
import socket
import subprocess
import sysconfig
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from sandbox import bare, compare, languages, statements, wire
from sandbox.verdict import InvalidTests, Limits, SandboxUnavailable, TestResult, Verdict

Tests = Sequence[Mapping[str, Any]] | str | None

_START_SECONDS = 60.0
DEFAULT_MODULES = (
    *("bisect", "collections", "copy", "functools", "heapq", "itertools"),
    *("math", "operator", "random", "re", "string", "typing"),
)
_CALL_KEYS = {"function", "args", "kwargs", "expected", "tolerance"}
_STDIN_KEYS = {"stdin", "stdout", "compare", "tolerance", "checker"}


def request(solution: str, tests: Tests, language: str, limits: Limits) -> dict[str, Any]:
    """A submission as a worker takes it. Raises InvalidTests, naming the test, for tests that no solution can pass."""
    if not isinstance(solution, str):
        raise InvalidTests(f"a solution is a string, not {type(solution).__name__}")
    toolchain = languages.find(language)
    name = toolchain.language.name
    return {
        "solution": solution,
        "tests": _plain_tests(tests, name),
        "commands": None if name == "python" else _commands(toolchain, limits),
        "limits": limits.values(),
    }


def _commands(toolchain: languages.Toolchain, limits: Limits) -> dict[str, Any]:
    """How to compile and run a solution, as an isolated process does it."""
    language = toolchain.language
    folders = sorted({os.path.dirname(path) for path in toolchain.programs.values()} | {"/usr/bin", "/bin"})
    return {
        "source": language.source,
        "compile": toolchain.command(language.compile, limits.memory_mb, limits.stack_mb),
        "run": toolchain.command(language.run, limits.memory_mb, limits.stack_mb),
        "environment": {**languages.ENVIRONMENT, "PATH": ":".join(folders)},
    }


def _plain_tests(tests: Tests, language: str) -> str | list[dict[str, Any]]:
    if tests is None:
        return []
    if isinstance(tests, str):
        if language != "python":
            raise InvalidTests(f"assert-style tests are Python; the solution's language is {language}")
        try:
            statements.parse(tests)
        except (SyntaxError, ValueError, RecursionError) as error:
            raise InvalidTests(f"the tests are not Python: {error}") from None
        return tests
    return [_plain_test(index, test, language) for index, test in enumerate(tests)]


def _plain_test(index: int, test: Mapping[str, Any], language: str) -> dict[str, Any]:
    where = f"test {index}"
    if not isinstance(test, Mapping):
        raise InvalidTests(f"{where} is {type(test).__name__}, not an object")
    is_call = "function" in test
    if not is_call and "stdin" not in test and "stdout" not in test:
        raise InvalidTests(f"{where} has neither 'stdin'/'stdout' nor 'function'")
    unknown = set(test) - (_CALL_KEYS if is_call else _STDIN_KEYS)
    if unknown:
        raise InvalidTests(f"{where} has unknown keys: {', '.join(sorted(map(str, unknown)))}")
    if is_call:
        return _plain_call(where, test, language)
    for key in ("stdin", "stdout"):
        if not isinstance(test.get(key, ""), str):
            raise InvalidTests(f"{where}: {key!r} is a string")
    if test.get("compare", compare.DEFAULT_COMPARISON) not in compare.COMPARISONS:
        raise InvalidTests(f"{where}: 'compare' is one of {', '.join(compare.COMPARISONS)}")
    if "checker" in test:
        _require_checker(where, test)
    return dict(test)


def _require_checker(where: str, test: Mapping[str, Any]) -> None:
    try:
        tree = ast.parse(test["checker"])
    except (SyntaxError, TypeError, ValueError, RecursionError) as error:
        raise InvalidTests(f"{where}: the checker is not Python: {error}") from None
    if "stdout" not in test or not any(
        isinstance(node, ast.FunctionDef) and node.name == "check" for node in tree.body
    ):
        raise InvalidTests(f"{where}: a checker defines check(stdin, stdout, expected), and the test has 'stdout'")


def _plain_call(where: str, test: Mapping[str, Any], language: str) -> dict[str, Any]:
    if language != "python":
        raise InvalidTests(f"{where} calls a function, which Python solutions alone can have; use stdin and stdout")
    if "expected" not in test or not isinstance(test.get("args", []), list | tuple):
        raise InvalidTests(f"{where} needs 'expected' and a list 'args'")
    try:
        return {
            "function": str(test["function"]),
            "args": [wire.encode(argument) for argument in test.get("args", [])],
            "kwargs": wire.encode(dict(test.get("kwargs", {}))),
            "expected": wire.encode(test["expected"]),
            **({"tolerance": float(test["tolerance"])} if "tolerance" in test else {}),
        }
    except (wire.Unencodable, TypeError, ValueError) as error:
        raise InvalidTests(f"{where}: {error}") from None


def verdict(form: Mapping[str, Any]) -> Verdict:
    """A worker's answer as a Verdict."""
    tests = tuple(TestResult(**test) for test in form["tests"])
    return Verdict(**{**form, "tests": tests})


class WorkerProcess:
    """A worker that has been started, and the owner's end of its socket."""

    def __init__(self, *, unsafe: bool, modules: Sequence[str] = DEFAULT_MODULES) -> None:
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        number = theirs.fileno()
        command = bare.command("sandbox.worker", "main", number, os.getpid())
        environment = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8", "HOME": "/tmp"}  # noqa: S108
        with theirs:
            self._process = subprocess.Popen(
                command, pass_fds=[number], env=environment, stdin=subprocess.DEVNULL, start_new_session=True
            )
        packages = sorted({path for name in ("purelib", "platlib") if (path := sysconfig.get_path(name))})
        directories = [*packages, *languages.all_directories()]
        hello = {"unsafe": unsafe, "modules": list(modules), "directories": directories, "paths": packages}
        self.socket.sendall(wire.pack(hello))

    def ready(self) -> dict[str, Any]:
        """Waits for the jail; returns its mechanisms. Raises SandboxUnavailable with the reason."""
        self.socket.settimeout(_START_SECONDS)
        try:
            answer = self.receive()
        except (OSError, EOFError) as error:
            self.close()
            raise SandboxUnavailable(f"the sandbox's worker did not start: {error}") from None
        self.socket.settimeout(None)
        if "refused" in answer:
            self.close()
            raise SandboxUnavailable(str(answer["refused"]))
        return dict(answer["ready"])

    def receive(self) -> dict[str, Any]:
        """The next message. Raises EOFError when the worker has ended."""
        (length,) = wire.HEADER.unpack(self._read(wire.HEADER.size))
        return dict(wire.unpack(self._read(length)))

    def _read(self, count: int) -> bytes:
        data = bytearray()
        while len(data) < count:
            chunk = self.socket.recv(count - len(data))
            if not chunk:
                raise EOFError("it ended")
            data += chunk
        return bytes(data)

    def judge(self, message: dict[str, Any]) -> Verdict:
        """Sends a request and waits for its verdict."""
        self.socket.sendall(wire.pack(message))
        return verdict(self.receive()["verdict"])

    def close(self) -> None:
        """Ends the worker and with it the jail."""
        self.end()
        self.socket.close()

    def hang_up(self) -> None:
        """Tells the worker to end, which ends what it runs at once, and does not wait."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)

    def end(self) -> None:
        """Hangs up and waits for the end."""
        self.hang_up()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class _Shared:
    """Workers that ``run`` uses: as many as processors, started when first needed, each by one thread at a time."""

    def __init__(self) -> None:
        self._owner = os.getpid()
        self._lock = threading.Lock()
        self._idle: dict[bool, list[WorkerProcess]] = {False: [], True: []}
        self._slots = threading.BoundedSemaphore(processors())

    def judge(self, message: dict[str, Any], unsafe: bool) -> Verdict:
        with self._slots:
            with self._lock:
                worker = self._idle[unsafe].pop() if self._idle[unsafe] else None
            if worker is None:
                worker = WorkerProcess(unsafe=unsafe)
                worker.ready()
            try:
                answer = worker.judge(message)
            except BaseException as error:
                worker.close()
                if isinstance(error, OSError | EOFError):
                    return Verdict("sandbox_error", detail=f"the worker ended: {error}")
                raise
            with self._lock:
                self._idle[unsafe].append(worker)
            return answer

    def end(self) -> None:
        """Ends the idle workers of this process; what another process started is left to it."""
        if self._owner == os.getpid():
            for worker in (*self._idle[False], *self._idle[True]):
                worker.close()


def _end_shared() -> None:
    if _shared is not None:
        _shared.end()


atexit.register(_end_shared)
_shared: _Shared | None = None
_shared_lock = threading.Lock()


def run(
    solution: str,
    tests: Tests = None,
    *,
    language: str = "python",
    limits: Limits = Limits(),  # noqa: B008 - frozen
    unsafe: bool = False,
) -> Verdict:
    """Runs ``solution`` against ``tests`` in the sandbox and waits for the verdict. Safe from any thread.

    Raises InvalidTests for tests that cannot be used and SandboxUnavailable where the machine cannot isolate, unless
    ``unsafe`` asks for a run without isolation.
    """
    global _shared  # noqa: PLW0603 - one set of workers a process
    message = request(solution, tests, language, limits)
    with _shared_lock:
        if _shared is None or _shared._owner != os.getpid():
            _shared = _Shared()
    return _shared.judge(message, unsafe)


def processors() -> int:
    """Processors that this process may use."""
    return max(1, len(os.sched_getaffinity(0)))
