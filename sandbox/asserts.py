"""Assert-style tests, run in an isolated process of their own that holds the tests and never the candidate.

What the tests call is a ``Remote``: the call crosses to the candidate's process as plain data and its result comes back
as plain data, so the ``==`` of an assert is that of the built-in types. Each top-level statement is run even when an
earlier one failed; every assert that holds is counted. A candidate cannot skip, patch or catch an assert, because none
is ever in its process.

The tests arrive compiled (``statements``).
"""

from __future__ import annotations

import builtins
import importlib
import linecache
import sys
import traceback
import types
from collections.abc import Iterator
from typing import Any

from sandbox import program, wire

FILE = "tests.py"
COUNT = "__assert_held__"
"""What the tests call after each assert that held."""


class CandidateEnded(BaseException):
    """The candidate's process is gone; no test can go on."""


class Candidate:
    """The other side: asks, and turns the answer into values and exceptions."""

    def __init__(self, descriptor: int, answer_bytes: int) -> None:
        self._descriptor = descriptor
        self._answer_bytes = answer_bytes

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """The answer, of at most ``answer_bytes``. Raises CandidateEnded when none comes, and what the candidate raised
        as the built-in exception nearest to it."""
        try:
            program.send(self._descriptor, request)
            answer = program.receive(self._descriptor, self._answer_bytes)
        except (EOFError, OSError, ValueError) as error:
            raise CandidateEnded(str(error)) from None
        if not isinstance(answer, dict):
            raise CandidateEnded("an answer that is none")
        if "raised" in answer:
            raise _exception(answer["raised"])
        return answer

    def decode(self, form: Any) -> Any:
        return wire.decode(form, self._remote)

    def encode(self, value: Any) -> Any:
        return wire.encode(value, _own_reference)

    def _remote(self, body: Any) -> Remote:
        number, kind, is_callable = body
        return Remote(self, {"object": int(number)}, f"{kind} object", bool(is_callable))


def _own_reference(value: Any) -> Any:
    if type(value) is Remote:
        return {"object": [value._target]}
    name = getattr(value, "__name__", "")
    if getattr(builtins, str(name), None) is value:
        return {"object": [{"builtin": name}]}
    raise wire.Unencodable(f"a test can pass plain data and the candidate's own objects, not {type(value).__name__}")


def _exception(raised: Any) -> BaseException:
    names = raised.get("classes", []) if isinstance(raised, dict) else []
    for name in names if isinstance(names, list) else []:
        kind = getattr(builtins, str(name), None)
        if isinstance(kind, type) and issubclass(kind, Exception):
            try:
                return kind(str(raised.get("text")))
            except TypeError:
                continue  # an exception with other arguments, UnicodeDecodeError say
    return Exception(str(raised)[:500])


class Remote:
    """A function, class or object of the candidate's, as the tests see it."""

    __slots__ = ("_callable", "_candidate", "_name", "_target")

    def __init__(self, candidate: Candidate, target: dict[str, Any], name: str, is_callable: bool) -> None:
        for attribute, value in (
            ("_candidate", candidate),
            ("_target", {"path": [], **target}),
            ("_name", name),
            ("_callable", is_callable),
        ):
            object.__setattr__(self, attribute, value)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        candidate = self._candidate
        sent = [candidate.encode(argument) for argument in args]
        request = {"call": self._target, "args": sent, "kwargs": candidate.encode(kwargs)}
        answer = candidate.ask(request)
        if "args" in answer:
            _copy_changes(args, candidate.decode(answer["args"]))
        return candidate.decode(answer.get("value"))

    def __getattr__(self, attribute: str) -> Any:
        target = {**self._target, "path": [*self._target["path"], attribute]}
        if attribute.startswith("__") and attribute not in _FORWARDED_ATTRIBUTES:
            raise AttributeError(attribute)
        return self._candidate.decode(self._candidate.ask({"get": target}).get("value"))

    def __setattr__(self, attribute: str, value: Any) -> None:
        request = {"set": self._target, "attribute": attribute, "value": self._candidate.encode(value)}
        self._candidate.ask(request)

    def __iter__(self) -> Iterator[Any]:
        iterator = _method(self, "__iter__")
        while True:
            try:
                yield _method(iterator, "__next__")
            except StopIteration:
                return

    def __eq__(self, other: object) -> bool:
        """The same object, or not equal: what the candidate's ``__eq__`` says is no evidence."""
        return type(other) is Remote and self._target == other._target

    def __hash__(self) -> int:
        return hash(str(self._target))

    def __bool__(self) -> bool:
        return True

    def __repr__(self) -> str:
        return f"<{self._name}>"


_FORWARDED_ATTRIBUTES = ("__name__", "__doc__")
_FORWARDED_METHODS = (
    *("__len__", "__getitem__", "__setitem__", "__delitem__", "__contains__", "__str__", "__add__"),
    *("__radd__", "__sub__", "__rsub__", "__mul__", "__rmul__", "__truediv__", "__floordiv__"),
    *("__mod__", "__pow__", "__neg__", "__abs__", "__lt__", "__le__", "__gt__"),
    *("__ge__", "__enter__", "__exit__", "__next__", "__int__", "__float__"),
)


def _method(remote: Remote, name: str, *args: Any) -> Any:
    target = {**remote._target, "path": [*remote._target["path"], name]}
    return Remote(remote._candidate, target, name, True)(*args)


def _forward(name: str) -> Any:
    def call(self: Remote, *args: Any) -> Any:
        try:
            return _method(self, name, *args)
        except AttributeError as error:
            raise TypeError(str(error)) from None  # as for an object whose type lacks the method

    return call


for _name in _FORWARDED_METHODS:
    setattr(Remote, _name, _forward(_name))


def _copy_changes(args: tuple[Any, ...], after: Any) -> None:
    """Arguments that the candidate changed in place, in the tests' own objects."""
    if not isinstance(after, list):
        return
    for mine, theirs in zip(args, after, strict=False):
        if type(mine) is not type(theirs) or mine is theirs:
            continue
        if isinstance(mine, list | bytearray):
            mine[:] = theirs
        elif isinstance(mine, dict | set):
            mine.clear()
            mine.update(theirs)


def _modules(wanted: dict[str, str]) -> dict[str, types.ModuleType]:
    """The modules that the tests use without importing them, by the names they use; those that are installed."""
    modules = {}
    for name, module in wanted.items():
        try:
            modules[name] = importlib.import_module(module)
        except ImportError:
            continue
    return modules


def _namespace(candidate: Candidate, tests: dict[str, Any]) -> dict[str, Any]:
    modules = _modules(tests["modules"])
    names = [name for name in tests["names"] if name not in modules] or tests["builtins"]
    namespace: dict[str, Any] = {"__name__": "tests", "__builtins__": builtins}
    found = candidate.ask({"names": names}).get("value")
    for name, form in found.items() if isinstance(found, dict) else ():
        if name in names:
            value = candidate.decode(form)
            namespace[name] = value if type(value) is not Remote else Remote(candidate, {"name": name}, name, True)
    namespace.update(modules)
    return namespace


def run(channel: int, tests: dict[str, Any], answer_bytes: int) -> int:
    """Runs the tests and reports {"held", "failures": [[line, text]...], "ended"} over the channel. ``tests`` is what
    ``statements.prepare`` makes of them."""
    held = 0
    failures: list[tuple[int, str, list[str], int | None]] = []
    ended = ""

    def count() -> None:
        nonlocal held
        held += 1

    source = tests["source"]
    linecache.cache[FILE] = (len(source), None, source.splitlines(keepends=True), FILE)
    try:
        candidate = Candidate(program.PEER, answer_bytes)
        ready = program.receive(program.PEER, answer_bytes)
        if ready != {"ready": True}:
            raise CandidateEnded("it did not define its functions")
        namespace = _namespace(candidate, tests)
        namespace[COUNT] = count
        for line, code in tests["statements"]:
            try:
                exec(code, namespace)  # noqa: S102
            except CandidateEnded:
                raise
            except BaseException as error:  # noqa: BLE001 - a failed test, whatever it raises
                failures.append(_failure(line, error))
    except CandidateEnded as end:
        ended = str(end) or "the program ended"
    except Exception as error:  # noqa: BLE001 - the tests were parsed before: what fails here is what the candidate said
        ended = str(error) or "the program ended"
    program.report(
        channel,
        {
            "held": held,
            "written": tests["written"],
            "failures": failures[:20],
            "failed": len(failures),
            "ended": ended,
        },
    )
    sys.stdout.flush()
    return 0


def _failure(line: int, error: BaseException) -> tuple[int, str, list[str], int | None]:
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == FILE]
    line = (lines or [line])[-1] or line
    text = linecache.getline(FILE, line).strip()
    said = "" if isinstance(error, AssertionError) and not str(error) else f" ({type(error).__name__}: {error})"
    described = program.describe(error)
    return line, f"line {line}: {text[:200]}{said[:300]}", described["classes"], described["errno"]
