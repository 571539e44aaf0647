"""The pool: back-pressure, cancellation, closing, and nothing left however it ends."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from sandbox import InvalidTests, Limits, Pool, run, watch
from tests.sandbox.programs import SMALL, asynchronous

ROOT = Path(__file__).resolve().parents[2]
ONE = [{"stdin": "1", "stdout": "1"}]
ECHO = "print(input())"


def _descendants(pid: int) -> set[int]:
    found: set[int] = set()
    pending = [pid]
    while pending:
        pending += (children := watch.children(pending.pop()))
        found |= set(children)
    return found


def _wait_for(condition: object, seconds: float = 20.0) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():  # type: ignore[operator]
            return True
        time.sleep(0.05)
    return False


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except OSError:
        return False


@asynchronous
async def test_many_at_once_on_few_workers() -> None:
    async with Pool(2, limits=SMALL) as pool:
        verdicts = await asyncio.gather(
            *(pool.run("print(int(input())**2)", [{"stdin": str(n), "stdout": str(n * n)}]) for n in range(40))
        )
    assert [verdict.status for verdict in verdicts] == ["passed"] * 40


@asynchronous
async def test_runs_really_overlap() -> None:
    async with Pool(4, limits=SMALL) as pool:
        await asyncio.gather(*(pool.run(ECHO, ONE) for _ in range(4)))
        started = time.monotonic()
        await asyncio.gather(*(pool.run("import time; time.sleep(1)") for _ in range(4)))
    assert time.monotonic() - started < 3.0


@asynchronous
async def test_limits_can_be_given_for_one_run() -> None:
    async with Pool(1, limits=SMALL) as pool:
        verdict = await pool.run("while True: pass", limits=Limits(wall_seconds=0.3, cpu_seconds=0.3))
        assert verdict.status == "time_limit"
        assert (await pool.run(ECHO, ONE)).status == "passed"


@asynchronous
async def test_cancelled_run_ends_its_program_and_frees_its_place() -> None:
    others = _descendants(os.getpid())
    async with Pool(1, limits=Limits(wall_seconds=100)) as pool:
        await pool.run(ECHO, ONE)
        before = _descendants(os.getpid()) - others
        task = asyncio.create_task(pool.run("import time; time.sleep(100)"))
        await asyncio.sleep(0.3)
        sleeping = _descendants(os.getpid()) - before - others
        assert sleeping
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.to_thread(_wait_for, lambda: not any(map(_alive, sleeping | before)))
        assert (await pool.run(ECHO, ONE)).status == "passed"


@asynchronous
async def test_closing_ends_runs_in_progress() -> None:
    others = _descendants(os.getpid())
    pool = Pool(1, limits=Limits(wall_seconds=100))
    await pool.run(ECHO, ONE)
    tasks = [asyncio.create_task(pool.run("import time; time.sleep(100)")) for _ in range(2)]
    await asyncio.sleep(0.5)
    started = _descendants(os.getpid()) - others
    await pool.close()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert answers[0].status == "sandbox_error"  # type: ignore[union-attr]
    assert isinstance(answers[1], RuntimeError)
    assert not any(map(_alive, started))
    with pytest.raises(RuntimeError, match="closed"):
        await pool.run(ECHO)


@asynchronous
async def test_killed_worker_is_replaced() -> None:
    async with Pool(1, limits=Limits(wall_seconds=100)) as pool:
        await pool.run(ECHO, ONE)
        (worker,) = pool._started
        task = asyncio.create_task(pool.run("import time; time.sleep(100)"))
        await asyncio.sleep(0.3)
        started = _descendants(worker._process.pid)
        worker._process.kill()
        assert (await task).status == "sandbox_error"
        assert await asyncio.to_thread(_wait_for, lambda: not any(map(_alive, started)))
        assert (await pool.run(ECHO, ONE)).status == "passed"


@asynchronous
async def test_killed_zygote_is_replaced() -> None:
    async with Pool(1, limits=SMALL) as pool:
        await pool.run(ECHO, ONE)
        (worker,) = pool._started
        (zygote,) = watch.children(worker._process.pid)
        os.kill(zygote, signal.SIGKILL)
        await pool.run(ECHO, ONE)
        assert (await pool.run(ECHO, ONE)).status == "passed"
        assert pool._started == {worker}


@asynchronous
async def test_bad_tests_are_refused_before_anything_runs() -> None:
    pool = Pool(1)
    for tests in (
        [{}],
        [{"stdin": 3}],
        [{"function": "f"}],
        [{"stdin": "", "compare": "x"}],
        "def",
        [{"stdout": "", "typo": 1}],
    ):
        with pytest.raises(InvalidTests):
            await pool.run(ECHO, tests)  # type: ignore[arg-type]
    assert not pool._started
    await pool.close()


_OWNER = """
import asyncio, os, sys
from sandbox import Pool, Limits
async def main():
    async with Pool(2, limits=Limits(wall_seconds=100, cpu_seconds=100)) as pool:
        busy = [asyncio.create_task(pool.run(code)) for code in (
            "import os,time\\nfor _ in range(3):\\n    if os.fork()==0: os.setsid(); time.sleep(99)\\ntime.sleep(99)",
            "while True: pass")]
        await asyncio.sleep(1.0)
        print("running", flush=True)
        await asyncio.gather(*busy)
asyncio.run(main())
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_owner_that_is_killed_leaves_nothing(number: signal.Signals) -> None:
    owner = subprocess.Popen([sys.executable, "-c", _OWNER], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    assert owner.stdout.readline() == "running\n"
    started = _descendants(owner.pid)
    assert len(started) >= 8
    owner.send_signal(number)
    owner.wait()
    owner.stdout.close()
    assert _wait_for(lambda: not any(map(_alive, started)))
    assert _wait_for(lambda: not _groups(started))


def _groups(pids: set[int]) -> list[Path]:
    """The control groups that these processes have made."""
    return [
        path
        for root in ("memory", "pids", "unified", ".")
        for path in Path("/sys/fs/cgroup", root).glob("**/zeroth-sandbox-*")
        if int(path.name.split("-")[2]) in pids
    ]


def test_run_from_many_threads() -> None:
    statuses: list[str] = []
    threads = [threading.Thread(target=lambda: statuses.append(run(ECHO, ONE).status)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == ["passed"] * 8


def test_run_survives_the_thread_that_started_its_worker() -> None:
    first = threading.Thread(target=lambda: run(ECHO, ONE))
    first.start()
    first.join()
    assert run(ECHO, ONE).status == "passed"


def test_run_works_in_a_forked_child() -> None:
    assert run(ECHO, ONE).status == "passed"
    pid = os.fork()
    if pid == 0:
        os._exit(0 if run(ECHO, ONE).status == "passed" else 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert run(ECHO, ONE).status == "passed"


def test_two_runs_draw_different_random_numbers() -> None:
    code = "import random; print(random.random())"
    assert run(code).stdout != run(code).stdout


def test_environment_of_the_owner_stays_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_TOKEN", "hunter2")
    assert "hunter2" not in run("import os; print(os.environ)").stdout


@asynchronous
async def test_unsafe_mode_cleans_up_as_far_as_it_can() -> None:
    code = """
import os, time
print(os.getcwd(), flush=True)
for _ in range(2):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            time.sleep(99)
        os._exit(0)
open("left-behind", "w").close()
"""
    others = _descendants(os.getpid())
    async with Pool(1, limits=SMALL, unsafe=True) as pool:
        verdict = await pool.run(code)
        assert verdict.status == "passed"
        folder = verdict.stdout.strip()
        assert "zeroth-unsafe-" in folder
        assert not os.path.exists(folder)
        mine = _descendants(os.getpid()) - others
        assert len(mine) == 2  # the worker and its zygote
        assert (await pool.run("while True: pass")).status == "time_limit"
        assert (await pool.run("def f(x): return x", "assert f(2) == 2")).status == "passed"
    assert not os.path.exists(os.path.dirname(folder))
