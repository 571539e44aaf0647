import asyncio
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from rewards.workers import WorkerLimits, Workers

TASK = "tests.rewards.tasks:run"
LIMITS = WorkerLimits(wall_s=20.0, cpu_s=20.0, memory_mb=512)


@pytest.fixture
def workers():
    pool = Workers(TASK, 2, LIMITS)
    yield pool
    pool.close()


def test_a_job_gives_its_result(workers):
    assert workers.run("echo", 7).result == 7


def test_a_job_that_raises_is_an_error_and_its_worker_goes_on():
    alone = Workers(TASK, 1, LIMITS)
    try:
        pid = alone.run("pid").result
        failed = alone.run("raise", "boom")
        assert (failed.status, failed.result) == ("error", None)
        assert "boom" in failed.detail
        assert alone.run("pid").result == pid
    finally:
        alone.close()


@pytest.mark.parametrize("hang", ["spin", "sleep", "bigint"])
def test_a_job_that_hangs_is_killed_at_its_limit(workers, hang):
    workers.run("echo", 1)
    started = time.monotonic()
    outcome = workers.run(hang, wall_s=0.5)
    assert outcome.status == "timeout"
    assert 0.4 < outcome.seconds < 5.0
    assert time.monotonic() - started < 10.0


def test_a_killed_worker_is_replaced_and_other_answers_are_not_lost(workers):
    futures = [
        workers.submit("spin", wall_s=0.3) if index % 10 == 5 else workers.submit("echo", index) for index in range(60)
    ]
    outcomes = [future.result(60) for future in futures]
    assert [outcome.result for index, outcome in enumerate(outcomes) if index % 10 != 5] == [
        i for i in range(60) if i % 10 != 5
    ]
    assert {outcome.status for index, outcome in enumerate(outcomes) if index % 10 == 5} == {"timeout"}


def test_jobs_run_side_by_side(workers):
    futures = [workers.submit("nap"), workers.submit("nap")]
    assert len({future.result(60).result for future in futures}) == 2


def test_a_worker_that_dies_is_an_error_and_is_replaced(workers):
    assert workers.run("exit").status == "error"
    assert workers.run("echo", 3).result == 3


def test_memory_is_limited():
    pool = Workers(TASK, 1, WorkerLimits(wall_s=30.0, cpu_s=30.0, memory_mb=64))
    try:
        outcome = pool.run("allocate", 400)
        assert outcome.status == "error"
        assert "memory" in outcome.detail
        assert pool.run("allocate", 1).status == "ok"
    finally:
        pool.close()


def test_cpu_is_limited():
    pool = Workers(TASK, 1, WorkerLimits(wall_s=300.0, cpu_s=0.5))
    try:
        outcome = pool.run("spin")
        assert outcome.status == "error"
        assert "CPU" in outcome.detail
    finally:
        pool.close()


def test_many_threads_share_the_pool_without_mixing_answers(workers):
    wrong = []

    def ask(start):
        wrong.extend(index for index in range(start, start + 50) if workers.run("echo", index).result != index)

    threads = [threading.Thread(target=ask, args=(1000 * number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_several_event_loops_share_the_pool(workers):
    async def ask(start):
        return [
            outcome.result
            for outcome in await asyncio.gather(*(workers.ask("echo", start + index) for index in range(40)))
        ]

    found = {}
    threads = [
        threading.Thread(target=lambda n=number: found.update({n: asyncio.run(ask(100 * n))})) for number in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {number: list(range(100 * number, 100 * number + 40)) for number in range(4)}


def test_a_cancelled_job_takes_no_other_answer_with_it(workers):
    async def go():
        tasks = [asyncio.create_task(workers.ask("echo", index)) for index in range(30)]
        for task in tasks[::3]:
            task.cancel()
        return await asyncio.gather(*tasks, return_exceptions=True)

    outcomes = asyncio.run(go())
    kept = [index for index in range(30) if index % 3]
    assert [outcomes[index].result for index in kept] == kept


def test_a_worker_is_replaced_after_its_number_of_jobs():
    pool = Workers(TASK, 1, WorkerLimits(wall_s=20.0, jobs=5))
    try:
        assert len({pool.run("pid").result for _ in range(20)}) == 4
    finally:
        pool.close()


def test_closing_ends_every_process():
    pool = Workers(TASK, 2, LIMITS)
    pids = {pool.run("pid").result for _ in range(10)}
    pool.close()
    deadline = time.monotonic() + 20
    while any(_alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(_alive(pid) for pid in pids)


def test_a_closed_pool_refuses_work(workers):
    workers.close()
    with pytest.raises(RuntimeError, match="closed"):
        workers.submit("echo", 1)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_copy_of_the_process_starts_workers_of_its_own(workers):
    workers.run("echo", 1)
    pid = os.fork()
    if pid == 0:
        os._exit(0 if workers.run("echo", 5).result == 5 else 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert workers.run("echo", 2).result == 2


def test_workers_end_with_a_parent_that_is_killed():
    code = (
        "import os, signal; from rewards.workers import Workers\n"
        "pool = Workers('tests.rewards.tasks:run', 1)\n"
        "print(pool.run('pid').result, flush=True)\n"
        "pool.submit('spin', wall_s=600.0)\n"
        "import time; time.sleep(0.5); os.kill(os.getpid(), signal.SIGKILL)"
    )
    pid = int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False).stdout)
    deadline = time.monotonic() + 20
    while _alive(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _alive(pid)


def _alive(pid):
    """Whether the process runs; one that has ended and is not yet reaped does not."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False
