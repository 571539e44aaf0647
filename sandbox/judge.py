"""The judge: runs a submission's tests one after another and compares outside the candidate's process.

Rules
- A stdin/stdout test is a run of its own: fresh process, fresh /tmp. It passes when the program exits with status 0 and
  the output matches; a program that exits early is judged by what it printed.
- Function calls share one process and are sent one at a time, so that no later call is known before the earlier ones
  are answered. A call that ends or outstays its process fails, and the next call gets a fresh one.
- Assert-style tests run in a process of their own (``statements``, ``asserts``) beside the candidate's.
- Threads that a program leaves behind are waited for as Python does, within the time limit; after the last function
  call they are ended with the process.
- Tests after the submission's total time are not run and count as ``time_limit``.
"""

from __future__ import annotations

import errno
import functools
import signal
import socket
import time
from dataclasses import dataclass, field, replace
from typing import Any

from sandbox import compare, statements, wire
from sandbox.program import PEER
from sandbox.supervisor import JailBroken, Run, Supervisor
from sandbox.verdict import Limits, Status, TestResult, Verdict

_LIMIT_STATUS: dict[str, Status] = {
    "wall_seconds": "time_limit",
    "cpu_seconds": "time_limit",
    "memory_mb": "memory_limit",
    "processes": "process_limit",
    "output_kb": "output_limit",
}
_ERRNO_LIMIT: dict[int, tuple[Status, str]] = {
    errno.ENOSPC: ("output_limit", "disk_mb or disk_files: no space left in /tmp"),
    errno.EFBIG: ("output_limit", "file_mb: a file became too large"),
    errno.EMFILE: ("runtime_error", "open_files: too many open files"),
}

_LAST_WORDS = ("compile_error", "raised")
"""What a program may say in place of being ready."""
_COMPILER_MB = 2048
_ARTIFACT_MB = 128


@dataclass
class _Totals:
    """What all runs of a submission used, and the streams of the one that the verdict shows."""

    cpu_seconds: float = 0.0
    peak_bytes: int = 0
    shown: Run | None = None
    tests: list[TestResult] = field(default_factory=list)

    def add(self, run: Run, failed: bool) -> None:
        self.cpu_seconds += run.cpu_seconds
        self.peak_bytes = max(self.peak_bytes, run.peak_bytes)
        if self.shown is None or (failed and not any(test.status != "passed" for test in self.tests)):
            self.shown = run


class Judge:
    """Judges submissions one at a time with one supervisor's jail."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._events = (0, 0)

    def judge(self, request: dict[str, Any]) -> Verdict:
        """The verdict on ``{"solution", "tests", "language", "limits"}``, whose form the owner has checked."""
        limits = _limits(*request["limits"])
        self._limit(limits)
        if self._supervisor.group is not None:
            self._events = self._supervisor.group.events()
        started = time.monotonic()
        totals = _Totals()
        tests = request["tests"]
        if isinstance(tests, str):
            result = self._asserts(request["solution"], tests, limits, totals)
            return self._verdict(result[0], totals, limits, started, result[1:])
        job, compile_error = self._job(request, limits, totals)
        if compile_error is not None:
            count = len(tests)
            return self._verdict(compile_error, totals, limits, started, (0, count), (compile_error,) * count)
        started = time.monotonic()
        if not tests:
            run = self._program(job, b"", limits)
            status, detail = self._outcome(run)
            totals.add(run, status is not None)
            single = TestResult(status or "passed", detail)
            return self._verdict(single, totals, limits, started, (0, 0))
        calls = [index for index, test in enumerate(tests) if "function" in test]
        results: dict[int, TestResult] = {}
        deadline = started + limits.total_seconds
        for index, test in enumerate(tests):
            if "function" not in test:
                results[index] = self._stdin_test(job, test, limits, totals, deadline)
                totals.tests.append(results[index])
        if calls:
            answers = self._calls(request["solution"], [tests[index] for index in calls], limits, totals, deadline)
            results.update(zip(calls, answers, strict=True))
        ordered = tuple(results[index] for index in range(len(tests)))
        first = next((test for test in ordered if test.status != "passed"), TestResult("passed"))
        passed = sum(test.status == "passed" for test in ordered)
        return self._verdict(first, totals, limits, started, (passed, len(ordered)), ordered)

    def after_break(self, broken: JailBroken) -> Verdict:
        """The verdict on a submission during which the jail itself ended."""
        run, group = broken.run, self._supervisor.group
        if run is not None and run.exceeded in _LIMIT_STATUS:
            return Verdict(_LIMIT_STATUS[run.exceeded], detail=f"{run.exceeded}: {run.why}; {broken}")
        if group is not None and group.events()[0] > self._events[0]:
            return Verdict("memory_limit", detail="memory_mb: the kernel ended the jail for its memory")
        return Verdict("sandbox_error", detail=str(broken))

    # ---- one kind of test each

    def _job(
        self, request: dict[str, Any], limits: Limits, totals: _Totals
    ) -> tuple[dict[str, Any], TestResult | None]:
        """What a run of the program has to do, compiled first where the language is; or why it does not compile."""
        commands = request["commands"]
        if commands is None:
            return {"mode": "program", "source": request["solution"]}, None
        source = request["solution"].encode("utf-8", "surrogateescape")
        job = {
            "mode": "command",
            "files": {commands["source"]: source},
            "environment": commands["environment"],
        }
        if commands["compile"]:
            made = self._compile({**job, "compile": commands["compile"]}, limits, totals)
            if isinstance(made, TestResult):
                return job, made
            job["files"] = made
        return {**job, "run": commands["run"]}, None

    def _compile(self, job: dict[str, Any], limits: Limits, totals: _Totals) -> dict[str, bytes] | TestResult:
        """The files that the compiler made."""
        generous = replace(
            limits,
            wall_seconds=limits.compile_seconds,
            cpu_seconds=limits.compile_seconds,
            memory_mb=max(limits.memory_mb, _COMPILER_MB),
            disk_mb=max(limits.disk_mb, _COMPILER_MB),
            file_mb=max(limits.file_mb, _ARTIFACT_MB),
            processes=max(limits.processes, 64),
            open_files=max(limits.open_files, 256),
        )
        self._limit(generous)
        supervisor = self._supervisor
        run = supervisor.start(job, generous, answer_bytes=_ARTIFACT_MB << 21)
        supervisor.wait(lambda: run.over)
        supervisor.discard(run)
        self._limit(limits)
        files = _artifacts(_message(run, "files"))
        if files is not None and run.exit_status == 0 and not run.exceeded:
            return files
        status, detail = self._outcome(run)
        totals.add(run, True)
        said = bytes(run.stderr or run.stdout).decode("utf-8", "replace").strip().partition("\n")[0][:300]
        if status == "sandbox_error":
            return TestResult(status, detail)
        if run.exceeded == "wall_seconds":
            detail = f"compile_seconds: the compiler was {run.why}"
        return TestResult("compile_error", said if status == "runtime_error" and said else detail)

    def _limit(self, limits: Limits) -> None:
        group = self._supervisor.group
        if group is not None:
            group.limit(limits.memory_mb, limits.disk_mb, limits.processes)

    def _program(self, job: dict[str, Any], stdin: bytes, limits: Limits, seconds: float | None = None) -> Run:
        supervisor = self._supervisor
        run = supervisor.start(job, limits, stdin=stdin, seconds=seconds)
        supervisor.wait(lambda: run.over)
        supervisor.discard(run)
        return run

    def _stdin_test(
        self, job: dict[str, Any], test: dict[str, Any], limits: Limits, totals: _Totals, deadline: float
    ) -> TestResult:
        left = deadline - time.monotonic()
        if left <= 0:
            return _out_of_time(limits)
        stdin = test.get("stdin", "").encode("utf-8", "surrogateescape")
        run = self._program(job, stdin, limits, min(limits.wall_seconds, left))
        status, detail = self._outcome(run)
        if status is None and "stdout" in test:
            actual = bytes(run.stdout).decode("utf-8", "replace")
            if not self._accepts(test, actual, limits):
                status, detail = "wrong_answer", f"printed {_shorten(actual)}, not {_shorten(test['stdout'])}"
        totals.add(run, status is not None)
        return TestResult(status or "passed", detail, run.ended - run.started)

    def _accepts(self, test: dict[str, Any], actual: str, limits: Limits) -> bool:
        """Whether an output is the expected one, by the test's own checker where it has one. A checker that raises or
        outstays its limits does not accept."""
        if "checker" not in test:
            how = test.get("compare", compare.DEFAULT_COMPARISON)
            tolerance = test.get("tolerance", compare.RELATIVE_TOLERANCE)
            return compare.outputs_match(actual, test["stdout"], how, tolerance)
        job = {"mode": "checker", "source": test["checker"], "expected": test["stdout"], "stdout": actual}
        run = self._supervisor.start({**job, "stdin": test.get("stdin", "")}, limits, quiet=True)
        self._supervisor.wait(lambda: run.over)
        self._supervisor.discard(run)
        return run.messages == [{"accepted": True}]

    def _calls(
        self, source: str, tests: list[dict[str, Any]], limits: Limits, totals: _Totals, deadline: float
    ) -> list[TestResult]:
        results: list[TestResult] = []
        run: Run | None = None
        for test in tests:
            now = time.monotonic()
            if now >= deadline:
                results.append(_out_of_time(limits))
                continue
            if run is None:
                run = self._supervisor.start({"mode": "functions", "source": source}, limits, talks=True)
            result, alive = self._call(run, test, limits, min(limits.wall_seconds, deadline - now))
            results.append(result)
            totals.tests.append(result)
            if not alive:
                totals.add(self._supervisor.finish(run), True)
                run = None
                if result.status == "compile_error":
                    results += [result] * (len(tests) - len(results))
                    break
        if run is not None:
            totals.add(self._supervisor.finish(run), False)
        return results

    def _call(self, run: Run, test: dict[str, Any], limits: Limits, seconds: float) -> tuple[TestResult, bool]:
        """One call's result, and whether the process can take another."""
        started = time.monotonic()
        run.deadline = started + seconds
        answer = None if run.ready else self._next_message(run)
        if answer == {"ready": True}:
            run.ready, answer = True, None
        if run.ready:
            call = {"call": {"name": test["function"]}, "args": test["args"], "kwargs": test["kwargs"]}
            self._supervisor.send(run, call)
            answer = self._next_message(run)
        elapsed = time.monotonic() - started
        if isinstance(answer, dict) and "value" in answer:
            return _compare_value(answer["value"], test, elapsed), True
        if isinstance(answer, dict) and "raised" in answer:
            status, detail = _raised(answer["raised"])
            return TestResult(status, detail, elapsed), True
        if answer is not None:
            self._supervisor.kill(run, "protocol", "sent something that is no answer")
        self._supervisor.wait(lambda: run.over)
        ended, detail = self._outcome(run)
        elapsed = time.monotonic() - started
        return TestResult(ended or "runtime_error", detail or "the program ended before it answered", elapsed), False

    def _next_message(self, run: Run) -> Any:
        """What the candidate says next; None when it ends first. What it says at its end stays for ``_outcome``."""
        self._supervisor.wait(lambda: bool(run.messages) or run.over)
        if not run.messages or (not run.ready and any(_message(run, key) is not None for key in _LAST_WORDS)):
            return None
        return run.messages.pop(0) or {}

    def _asserts(self, source: str, tests: str, limits: Limits, totals: _Totals) -> tuple[TestResult, int, int]:
        supervisor = self._supervisor
        prepared = statements.prepare(tests)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with ours, theirs:
            seconds = min(limits.wall_seconds, limits.total_seconds)
            job = {"mode": "functions", "source": source, "serve_on": PEER}
            candidate = supervisor.start(job, limits, seconds=seconds, peer=theirs)
            tester = supervisor.start(
                {"mode": "tests", "tests": prepared, "answer_bytes": limits.output_kb * 1024},
                limits,
                seconds=seconds + 1.0,
                quiet=True,
                peer=ours,
            )
        supervisor.wait(lambda: tester.over)
        report = tester.messages[-1] if tester.messages else None
        ended_first = candidate.exit_status is not None or candidate.exceeded != ""
        if isinstance(report, dict) and report.get("ended"):
            supervisor.wait(lambda: candidate.over)
            ended_first = True
        supervisor.finish(candidate)
        supervisor.discard(tester)
        result, passed, total = self._assert_result(candidate, tester, report, ended_first)
        totals.add(candidate, result.status != "passed")
        return result, passed, total

    def _assert_result(self, candidate: Run, tester: Run, report: Any, ended: bool) -> tuple[TestResult, int, int]:
        if not isinstance(report, dict) or "held" not in report:
            status, detail = self._outcome(candidate) if ended else (None, "")
            if status is None:
                status, detail = self._outcome(tester)
            if status in (None, "runtime_error"):
                status, detail = "sandbox_error", f"the tests' own process ended: {detail}"
            return TestResult(status, detail), 0, 0
        held, failed = report["held"], report["failed"]
        total = max(held + failed, report["written"] if failed or ended else 0)
        if report["ended"]:
            status, detail = self._outcome(candidate)
            return TestResult(status or "runtime_error", detail or report["ended"]), held, max(total, held + 1)
        if failed:
            status, detail = self._failure_status(report)
            return TestResult(status, detail), held, total
        if held == 0:
            return TestResult("wrong_answer", "no assertion was reached"), 0, max(1, report["written"])
        return TestResult("passed"), held, held

    def _failure_status(self, report: dict[str, Any]) -> tuple[Status, str]:
        _, text, classes, number = report["failures"][0]
        if "AssertionError" in classes:
            return "wrong_answer", text
        return _raised({"classes": classes, "errno": number, "name": "", "text": text}, text)

    # ---- what a run's end means

    def _outcome(self, run: Run) -> tuple[Status | None, str]:
        """The status of a run that did not end well, and None for one that did. The first rule that knows decides."""
        if run.failed_setup:
            return "sandbox_error", run.failed_setup
        for rule in (self._ended_by_us, _said_at_the_end, _used_too_much):
            found = rule(run)
            if found is not None:
                return found
        if run.exit_status == 0 or run.exceeded:
            return None, ""
        return self._refused_by_kernel(run) or _bad_exit(run)

    def _ended_by_us(self, run: Run) -> tuple[Status, str] | None:
        if run.exceeded == "protocol":
            return "runtime_error", f"disturbed the judge's channel: {run.why}"
        if run.exceeded not in _LIMIT_STATUS:
            return None
        stuck = self._refused_by_kernel(run) if _LIMIT_STATUS[run.exceeded] == "time_limit" else None
        if stuck is not None:
            return stuck[0], f"{stuck[1]}, until the {run.exceeded} ended"
        return _LIMIT_STATUS[run.exceeded], f"{run.exceeded}: {run.why}"

    def _refused_by_kernel(self, run: Run) -> tuple[Status, str] | None:
        """What the control group counted against the run, or the watch saw where there is no group."""
        group = self._supervisor.group
        if group is not None:
            events, before = group.events(), self._events
            self._events = events
            if events[0] > before[0]:
                return "memory_limit", f"memory_mb: more than {run.limits.memory_mb} MiB"
            if events[1] > before[1]:
                return "process_limit", f"processes: more than {run.limits.processes} at the same time"
        if run.crowded and (group is None or not group.counts_processes):
            return "process_limit", f"processes: {run.limits.processes} at the same time"
        return None

    def _verdict(
        self,
        first: TestResult,
        totals: _Totals,
        limits: Limits,
        started: float,
        counts: tuple[int, ...],
        tests: tuple[TestResult, ...] = (),
    ) -> Verdict:
        shown = totals.shown
        keep = limits.report_kb * 1024
        return Verdict(
            status=first.status,
            passed=counts[0],
            total=counts[1],
            cpu_seconds=round(totals.cpu_seconds, 6),
            wall_seconds=round(time.monotonic() - started, 6),
            peak_memory_mb=round(totals.peak_bytes / (1 << 20), 2),
            stdout=_kept(shown.stdout, keep) if shown else "",
            stderr=_kept(shown.stderr, keep) if shown else "",
            exit_status=shown.exit_status if shown else None,
            detail=first.detail,
            tests=tests,
        )


_limits = functools.lru_cache(16)(Limits)


def _artifacts(files: Any) -> dict[str, bytes] | None:
    """A compiler's files by name; None for what are none."""
    try:
        return {str(name): bytes.fromhex(content) for name, content in files.items() if "/" not in str(name)}
    except (AttributeError, TypeError, ValueError):
        return None


def _said_at_the_end(run: Run) -> tuple[Status, str] | None:
    compile_error = _message(run, "compile_error")
    return None if compile_error is None or run.exceeded else ("compile_error", str(compile_error)[:500])


def _used_too_much(run: Run) -> tuple[Status, str] | None:
    if run.peak_bytes <= run.limits.memory_mb << 20 or run.exceeded:
        return None
    return "memory_limit", f"memory_mb: used {run.peak_bytes >> 20} MiB"


def _bad_exit(run: Run) -> tuple[Status, str]:
    """What an exit status other than 0 means; that of a signal is negative."""
    status = run.exit_status or 0
    raised = _message(run, "raised")
    if status == -signal.SIGSYS:
        answer: tuple[Status, str] = ("denied", "a forbidden system call ended the program")
    elif status == -signal.SIGXCPU or (status == -signal.SIGKILL and run.cpu_seconds >= run.limits.cpu_seconds):
        answer = ("time_limit", f"cpu_seconds: used {run.cpu_seconds:.1f} s of CPU time")
    elif status == -signal.SIGXFSZ:
        answer = _ERRNO_LIMIT[errno.EFBIG]
    elif raised is not None:
        answer = _raised(raised)
    elif status < 0:
        answer = ("runtime_error", f"ended by {_signal_name(-status)}")
    else:
        answer = ("runtime_error", f"exit status {status}")
    return answer


def _out_of_time(limits: Limits) -> TestResult:
    return TestResult("time_limit", f"total_seconds: the submission's {limits.total_seconds:g} s were used up")


def _message(run: Run, key: str) -> Any:
    for message in run.messages:
        if isinstance(message, dict) and key in message:
            return message[key]
    return None


def _raised(raised: Any, text: str | None = None) -> tuple[Status, str]:
    """An exception that ended a call or a program; what it says about itself only chooses among failures."""
    if not isinstance(raised, dict):
        return "runtime_error", "raised something unreadable"
    classes, number = raised.get("classes") or [], raised.get("errno")
    text = text or f"{raised.get('name')}: {raised.get('text')}"[:500]
    if "MemoryError" in classes:
        return "memory_limit", text
    if ("BlockingIOError" in classes and number == errno.EAGAIN) or "can't start new thread" in str(raised.get("text")):
        return "process_limit", text
    if isinstance(number, int) and number in _ERRNO_LIMIT and "OSError" in classes:
        status, limit = _ERRNO_LIMIT[number]
        return status, f"{limit} ({text})"
    return "runtime_error", text


def _compare_value(form: Any, test: dict[str, Any], elapsed: float) -> TestResult:
    try:
        actual = wire.decode(form)
        expected = wire.decode(test["expected"])
        if compare.values_match(actual, expected, test.get("tolerance", compare.RELATIVE_TOLERANCE)):
            return TestResult("passed", "", elapsed)
        detail = f"returned {_shorten(_text(actual))}, not {_shorten(_text(expected))}"
    except wire.Malformed:
        detail = "returned something that is not plain data"
    except Exception as error:  # noqa: BLE001 - whatever comparing it raises (a signalling NaN does), it is not equal
        detail = f"returned something that cannot be compared: {type(error).__name__}"
    return TestResult("wrong_answer", detail, elapsed)


def _text(value: Any) -> str:
    try:
        return repr(value)
    except (ValueError, RecursionError):  # an integer with more digits than Python writes
        return f"a {type(value).__name__} too long to show"


def _shorten(text: str, length: int = 120) -> str:
    text = repr(text) if "\n" in text else text
    return text if len(text) <= length else f"{text[:length]}..."


def _kept(data: bytearray, keep: int) -> str:
    text = bytes(data[:keep]).decode("utf-8", "replace")
    return text if len(data) <= keep else f"{text}\n... ({len(data)} bytes in all)"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
