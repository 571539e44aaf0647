"""What a run is given and what it answers: limits, a test's result, the verdict, and the errors meant for the user."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal, get_args

Status = Literal[
    "passed",
    "wrong_answer",
    "runtime_error",
    "compile_error",
    "time_limit",
    "memory_limit",
    "process_limit",
    "output_limit",
    "denied",
    "sandbox_error",
]
STATUSES: tuple[str, ...] = get_args(Status)


class SandboxUnavailable(RuntimeError):
    """This machine cannot isolate a program; the message says what is missing and how to get it."""

    exit_status = 1


class InvalidTests(ValueError):
    """Tests, a language or limits that cannot be used, whatever the solution is."""

    exit_status = 2


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of one run of a program; each has a unit in its name.

    A *run* is one process tree: one stdin/stdout test, or the process that answers all function calls. The judge's
    own time is never counted.
    """

    wall_seconds: float = 10.0
    """Real time of a run, and of one function call; enforced from outside. Verdict ``time_limit``."""
    cpu_seconds: float = 10.0
    """User and system time of all processes of a run together. Verdict ``time_limit``."""
    total_seconds: float = 60.0
    """Real time of a submission: all its tests, without compilation. Verdict ``time_limit``."""
    compile_seconds: float = 30.0
    """Real and CPU time of the compiler. Verdict ``compile_error``."""
    memory_mb: int = 512
    """Memory of all processes of a run together, with what they wrote to /tmp (MiB). Verdict ``memory_limit``."""
    stack_mb: int = 64
    """Stack of the main thread (MiB). Verdict ``runtime_error`` (the kernel sends SIGSEGV)."""
    processes: int = 64
    """Processes and threads at the same time. Verdict ``process_limit``."""
    open_files: int = 256
    """File descriptors of one process. Verdict ``runtime_error``, named in the detail."""
    file_mb: int = 64
    """Size of one file (MiB). Verdict ``output_limit``."""
    disk_mb: int = 128
    """All files together (MiB); they live in memory. Verdict ``output_limit``."""
    disk_files: int = 8192
    """Files and directories (inodes). Verdict ``output_limit``."""
    output_kb: int = 8192
    """Standard output and standard error together, and one function's result (KiB). Verdict ``output_limit``."""
    report_kb: int = 16
    """How much of each stream the verdict keeps (KiB)."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, int | float) or isinstance(value, bool) or not value > 0:
                raise InvalidTests(f"limit {field.name} must be a positive number, not {value!r}")
            if field.type == "int" and not isinstance(value, int):
                raise InvalidTests(f"limit {field.name} must be a whole number, not {value!r}")

    def values(self) -> tuple[float, ...]:
        """All of them in their order: ``Limits(*values)`` is the same again."""
        return tuple(getattr(self, name) for name in LIMIT_NAMES)


LIMIT_NAMES = tuple(field.name for field in fields(Limits))


@dataclass(frozen=True, slots=True)
class TestResult:
    """One test: its status and, when it did not pass, one line that says why."""

    status: Status
    detail: str = ""
    wall_seconds: float = 0.0

    __test__ = False  # not a test class of pytest's


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one submission. ``status`` is that of the first test that did not pass."""

    status: Status
    passed: int = 0
    total: int = 0
    cpu_seconds: float = 0.0
    wall_seconds: float = 0.0
    peak_memory_mb: float = 0.0
    stdout: str = ""
    stderr: str = ""
    exit_status: int | None = None
    """Of the run whose streams are shown; that of a signal is negative."""
    detail: str = ""
    tests: tuple[TestResult, ...] = ()


def plain(verdict: Verdict) -> dict[str, object]:
    """A verdict as JSON can say it: ``dataclasses.asdict`` without its copies."""
    form: dict[str, object] = {name: getattr(verdict, name) for name in _VERDICT_FIELDS}
    form["tests"] = [{name: getattr(test, name) for name in _RESULT_FIELDS} for test in verdict.tests]
    return form


_VERDICT_FIELDS = tuple(field.name for field in fields(Verdict))
_RESULT_FIELDS = tuple(field.name for field in fields(TestResult))
