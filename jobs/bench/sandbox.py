"""`zeroth bench sandbox`: runs per second and latency of an empty Python program, beside a plain subprocess, bubblewrap
and nsjail where they are installed; and a soak that mixes good, bad and hostile programs and looks for leaks.

Systems take turns within each round, so that other work on the machine falls on all of them; the figure of a system is
the median of its rounds. The rivals start `python -I -S` on a file, which is their fastest way; ours is given the
program's text and judges its output as well.
"""

from __future__ import annotations

import asyncio
import os
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

PROGRAM = "print(int(input()) + 1)\n"
TESTS = [{"stdin": "41\n", "stdout": "42\n"}]
Command = list[str]


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
            *(nsjail, "-Mo", "-Q", "--disable_clone_newcgroup", "-T", "/tmp", *binds),  # noqa: S108
            *("--seccomp_string", "KILL { ptrace } DEFAULT ALLOW", "--", *run, str(program)),
        ]
    return found


def _run_rival(command: Command) -> None:
    done = subprocess.run(command, input=b"41\n", capture_output=True, check=True)
    if done.stdout != b"42\n":
        raise RuntimeError(f"{command[0]} answered {done.stdout!r}")


def measure_rival(command: Command, clients: int, seconds: float) -> tuple[float, list[float]]:
    """Runs per second with ``clients`` at once, and the seconds of runs of one client alone."""
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
    return rate, _alone(lambda: _run_rival(command), seconds / 2)


def _alone(run: Callable[[], None], seconds: float) -> list[float]:
    took = []
    deadline = time.perf_counter() + seconds
    while time.perf_counter() < deadline:
        started = time.perf_counter()
        run()
        took.append(time.perf_counter() - started)
    return took


async def measure_ours(pool: Any, clients: int, seconds: float) -> tuple[float, list[float]]:
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

    started = time.perf_counter()
    count = sum(await asyncio.gather(*(client() for _ in range(clients))))
    rate = count / (time.perf_counter() - started)
    took = []
    deadline = time.perf_counter() + seconds / 2
    while time.perf_counter() < deadline:
        before = time.perf_counter()
        await one()
        took.append(time.perf_counter() - before)
    return rate, took


async def compare(workers: int, rounds: int, seconds: float) -> dict[str, Any]:
    """Rates, latencies and ratios of all systems."""
    from sandbox import Pool

    rates: dict[str, list[float]] = {}
    latencies: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "program.py"
        program.write_text(PROGRAM)
        commands = rivals(program)
        async with Pool(workers) as pool:
            await measure_ours(pool, workers, 0.5)
            for number in range(rounds):
                console.say(f"round {number + 1} of {rounds}")
                rate, took = await measure_ours(pool, workers * 2, seconds)
                rates.setdefault("zeroth", []).append(rate)
                latencies.setdefault("zeroth", []).extend(took)
                for name, command in commands.items():
                    rate, took = await asyncio.to_thread(measure_rival, command, workers, seconds)
                    rates.setdefault(name, []).append(rate)
                    latencies.setdefault(name, []).extend(took)
    return _summary(rates, latencies)


def _summary(rates: dict[str, list[float]], latencies: dict[str, list[float]]) -> dict[str, Any]:
    ours = statistics.median(rates["zeroth"])
    systems = {}
    for name, values in rates.items():
        took = sorted(latencies[name])
        systems[name] = {
            "runs_per_second": round(statistics.median(values), 1),
            "runs_per_second_of_rounds": [round(value, 1) for value in values],
            "latency_ms_p50": round(1000 * took[len(took) // 2], 2),
            "latency_ms_p99": round(1000 * took[int(len(took) * 0.99)], 2),
            "zeroth_is_times_faster": round(ours / statistics.median(values), 2),
        }
    return systems


def _mechanisms() -> list[dict[str, Any]]:
    from sandbox.check import report

    return [asdict(mechanism) for mechanism in report().mechanisms]


def command(
    workers: Annotated[int, typer.Option(help="Programs at once; 0: one for each processor.")] = 0,
    rounds: Annotated[int, typer.Option(help="How often each system has its turn.")] = 3,
    seconds: Annotated[float, typer.Option(help="Length of a turn.")] = 3.0,
    soak: Annotated[int, typer.Option(help="Instead: so many runs of mixed programs, 8 at a time.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Also write the JSON to this file.")] = None,
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
