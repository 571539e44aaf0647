"""`zeroth bench sandbox`: runs per second and latency of an empty Python program, beside a plain subprocess, bubblewrap
and nsjail where they are installed; and a soak that mixes good, bad and hostile programs and looks for leaks.

Systems take turns within each round, so that other work on the machine falls on all of them; the figure of a system is
the median of its rounds. The rivals start `python -I -S` on a file, their fastest way, without the installed
packages that a program can import in ours. Ours also judges the output.
"""

from __future__ import annotations

import asyncio
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from jobs import console
from jobs.bench import record
from jobs.options import Out

PROGRAM = "print(int(input()) + 1)\n"
TESTS = [{"stdin": "41\n", "stdout": "42\n"}]
Command = list[str]
Turn = tuple[float, float, list[float]]
"""Runs per second, CPU seconds a run, and the seconds of single runs."""


def rivals(program: Path) -> dict[str, Command]:
    """The command of each rival that is installed, running ``program`` as isolated as it can."""
    python = os.path.realpath(sys.executable)
    prefix = os.path.dirname(os.path.dirname(python))
    run = [python, "-I", "-S"]
    found: dict[str, Command] = {"subprocess": [*run, str(program)]}
    system = [path for path in ("/usr", "/lib", "/lib64", "/bin") if os.path.exists(path)]
    if bubblewrap := shutil.which("bwrap"):
        binds = [word for path in [*system, prefix] for word in ("--ro-bind", path, path)]
        flags = ["--unshare-all", "--die-with-parent", "--new-session", "--proc", "/proc", "--dev", "/dev"]
        inside = "/tmp/program.py"  # noqa: S108 - inside the jail
        found["bubblewrap"] = [
            *(bubblewrap, *flags, "--tmpfs", "/tmp", *binds),  # noqa: S108
            *("--ro-bind", str(program), inside, "--cap-drop", "ALL", *run, inside),
        ]
    if nsjail := shutil.which("nsjail"):
        binds = [word for path in [*system, prefix, str(program)] for word in ("-R", path)]
        found["nsjail"] = [
            *(nsjail, "-Mo", "-Q", "-T", "/tmp", *binds),  # noqa: S108
            *("--seccomp_string", "POLICY p { KILL { ptrace } } USE p DEFAULT ALLOW", "--", *run, str(program)),
        ]
    return found


def _run_rival(command: Command) -> None:
    done = subprocess.run(command, input=b"41\n", capture_output=True, check=True)
    if done.stdout != b"42\n":
        raise RuntimeError(f"{command[0]} answered {done.stdout!r}")


def measure_rival(command: Command, clients: int, seconds: float) -> Turn:
    """With ``clients`` at once: runs per second and CPU seconds a run; with one alone: the seconds of each run."""
    cpu = _own_cpu_seconds()
    deadline = time.perf_counter() + seconds

    def client(_: int) -> int:
        count = 0
        while time.perf_counter() < deadline:
            _run_rival(command)
            count += 1
        return count

    started = time.perf_counter()
    with ThreadPoolExecutor(clients) as threads:
        count = sum(threads.map(client, range(clients)))
    rate = count / (time.perf_counter() - started)
    used = (_own_cpu_seconds() - cpu) / count
    return rate, used, _alone(lambda: _run_rival(command), seconds / 2)


def _alone(run: Callable[[], None], seconds: float) -> list[float]:
    took = []
    deadline = time.perf_counter() + seconds
    while time.perf_counter() < deadline:
        started = time.perf_counter()
        run()
        took.append(time.perf_counter() - started)
    return took


async def measure_ours(pool: Any, clients: int, seconds: float) -> Turn:
    """As ``measure_rival``, through a pool."""

    async def one() -> None:
        verdict = await pool.run(PROGRAM, TESTS)
        if verdict.status != "passed":
            raise RuntimeError(f"the sandbox answered {verdict}")

    deadline = time.perf_counter() + seconds

    async def client() -> int:
        count = 0
        while time.perf_counter() < deadline:
            await one()
            count += 1
        return count

    cpu = _own_cpu_seconds() + _cpu_seconds_of(pool)
    started = time.perf_counter()
    count = sum(await asyncio.gather(*(client() for _ in range(clients))))
    rate = count / (time.perf_counter() - started)
    used = (_own_cpu_seconds() + _cpu_seconds_of(pool) - cpu) / count
    took = []
    deadline = time.perf_counter() + seconds / 2
    while time.perf_counter() < deadline:
        before = time.perf_counter()
        await one()
        took.append(time.perf_counter() - before)
    return rate, used, took


def _own_cpu_seconds() -> float:
    """Of this process and of its children that have ended."""
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def _cpu_seconds_of(pool: Any) -> float:
    """Of the pool's workers and zygotes, with the runs that have ended."""
    from sandbox import watch

    return sum(watch.usage_below(worker._process.pid, 1 << 62).cpu_seconds for worker in pool._started) + sum(
        watch.cpu_seconds(worker._process.pid) for worker in pool._started
    )


async def compare(workers: int, rounds: int, seconds: float) -> dict[str, Any]:
    """Rates, latencies and ratios of all systems."""
    from sandbox import Pool

    turns: dict[str, list[Turn]] = {}
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "program.py"
        program.write_text(PROGRAM)
        commands = rivals(program)
        async with Pool(workers) as pool:
            await measure_ours(pool, workers, 0.5)
            for number in range(rounds):
                console.say(f"round {number + 1} of {rounds}")
                turns.setdefault("zeroth", []).append(await measure_ours(pool, workers * 2, seconds))
                for name, command in commands.items():
                    turn = await asyncio.to_thread(measure_rival, command, workers, seconds)
                    turns.setdefault(name, []).append(turn)
    return {name: _summary(mine, turns["zeroth"], name in ("zeroth", "subprocess")) for name, mine in turns.items()}


def _summary(mine: list[Turn], ours: list[Turn], counted: bool) -> dict[str, Any]:
    """``counted``: whether the CPU time of its programs reaches us; a jail that does not wait for its own hides it."""
    rate, our_rate = (statistics.median(turn[0] for turn in turns) for turns in (mine, ours))
    took = sorted(second for turn in mine for second in turn[2])
    cpu = round(1000 * statistics.median(turn[1] for turn in mine), 2)
    return {
        "runs_per_second": round(rate, 1),
        "runs_per_second_of_rounds": [round(turn[0], 1) for turn in mine],
        "cpu_ms_per_run": cpu if counted else None,
        "latency_ms_p50": round(1000 * took[len(took) // 2], 2),
        "latency_ms_p99": round(1000 * took[int(len(took) * 0.99)], 2),
        "zeroth_is_times_faster": round(our_rate / rate, 2),
    }


def _mechanisms() -> list[dict[str, Any]]:
    from sandbox.check import report

    return [asdict(mechanism) for mechanism in report().mechanisms]


def command(
    workers: Annotated[int, typer.Option(help="Programs at once; 0: one for each processor.")] = 0,
    rounds: Annotated[int, typer.Option(help="How often each system has its turn.")] = 3,
    seconds: Annotated[float, typer.Option(help="Length of a turn.")] = 3.0,
    soak: Annotated[int, typer.Option(help="Instead: so many runs of mixed programs, 8 at a time.")] = 0,
    out: Out = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON is what is printed in any case.")] = False,
) -> None:
    """Runs per second and latency beside a subprocess, bubblewrap and nsjail; or a soak."""
    del as_json
    from sandbox.client import processors

    if soak:
        from jobs.bench.soak import run_soak

        record.emit(record.stamped({"soak": asyncio.run(run_soak(soak))}), out)
        return
    count = workers or processors()
    systems = asyncio.run(compare(count, rounds, seconds))
    record.emit(
        record.stamped(
            {"workers": count, "program": PROGRAM, "systems": systems, "mechanisms": _mechanisms()},
        ),
        out,
    )
