"""The sandbox's soak: good, bad and hostile programs, mixed, several at a time; every verdict right and nothing left.

Looked for after the first tenth and at the end: processes, descriptors and mounts of every worker and zygote, their
memory, temporary files, and control groups; and after the pool is closed, that all of it is gone.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from jobs import console

AT_ONCE = 8
PRINTS = [{"stdin": "20\n", "stdout": "21\n"}]
CALLS = [{"function": "f", "args": [n], "expected": n + 1} for n in range(3)]
ASSERTS = "assert f(1) == 2\nassert f(2) == 3"
MIX: tuple[tuple[str, str, Any, tuple[str, ...]], ...] = (
    ("prints", "print(int(input())+1)", PRINTS, ("passed",)),
    ("calls", "def f(x): return x+1", CALLS, ("passed",)),
    ("asserts", "def f(x): return x+1", ASSERTS, ("passed",)),
    ("temporary files", "open('/tmp/a','w').write('x')\nprint(int(input())+1)", PRINTS, ("passed",)),
    ("threads", "import threading\nthreading.Thread(target=lambda: print(21)).start()", PRINTS, ("passed",)),
    ("child", "import os\nif os.fork()==0: os._exit(0)\nos.wait()\nprint(21)", PRINTS, ("passed",)),
    ("wrong", "print(0)", PRINTS, ("wrong_answer",)),
    ("raises", "1/0", PRINTS, ("runtime_error",)),
    ("no syntax", "def", CALLS, ("compile_error",)),
    ("wrong call", "def f(x): return x", CALLS, ("wrong_answer",)),
    ("exits", "import os\nos._exit(0)", ASSERTS, ("runtime_error",)),
    ("equal to all", "class A(int):\n    __eq__=lambda *a: True\ndef f(x): return A(9)", ASSERTS, ("wrong_answer",)),
    ("ptrace", "import ctypes\nctypes.CDLL(None).ptrace(0,0,0,0)", PRINTS, ("denied",)),
    ("mount", "import ctypes\nctypes.CDLL(None).mount(b'a',b'/tmp',b'tmpfs',0,None)", PRINTS, ("denied",)),
    (
        "orphans",
        "import os,time\nif os.fork()==0:\n    os.setsid()\n    os.fork()\n    time.sleep(99)",
        PRINTS,
        ("wrong_answer",),
    ),
    ("fork bomb", "import os\nwhile True: os.fork()", PRINTS, ("process_limit",)),
    ("memory bomb", "x=[]\nwhile True: x.append(bytearray(1<<20))", PRINTS, ("memory_limit",)),
    ("disk bomb", "f=open('/tmp/x','wb')\nwhile True: f.write(b'x'*(1<<20))", PRINTS, ("output_limit",)),
    ("output bomb", "while True: print('x'*4096)", PRINTS, ("output_limit",)),
    (
        "signals",
        "import os\nfor p in range(2,50):\n    try: os.kill(p,9)\n    except OSError: pass",
        PRINTS,
        ("wrong_answer",),
    ),
    ("loop", "while True: pass", PRINTS, ("time_limit",)),
    ("sleep", "import time\ntime.sleep(99)", PRINTS, ("time_limit",)),
)
SELDOM = {"loop": 20, "sleep": 20, "fork bomb": 10, "memory bomb": 10}
"""One in so many rounds: each takes as long as hundreds of the others."""


def _mixed(count: int) -> list[tuple[str, str, Any, tuple[str, ...]]]:
    chosen: list[tuple[str, str, Any, tuple[str, ...]]] = []
    turn = 0
    while len(chosen) < count:
        chosen += [row for row in MIX if turn % SELDOM.get(row[0], 1) == 0]
        turn += 1
    return chosen[:count]


async def run_soak(count: int) -> dict[str, Any]:
    """Runs ``count`` programs and returns what was wrong and what was left; raises nothing for either."""
    from sandbox import Limits, Pool

    limits = Limits(
        wall_seconds=5.0, cpu_seconds=1.0, memory_mb=128, processes=16, disk_mb=16, file_mb=8, output_kb=256
    )
    temporary = _temporary_files()
    wrong: Counter[str] = Counter()
    programs = _mixed(count)
    pool = Pool(AT_ONCE, limits=limits)
    early: dict[str, Any] = {}
    started = time.monotonic()
    try:
        for start, batch in _batches(programs):
            verdicts = await asyncio.gather(*(pool.run(code, tests) for _, code, tests, _ in batch))
            for (name, _, _, right), verdict in zip(batch, verdicts, strict=True):
                if verdict.status not in right:
                    wrong[f"{name}: {verdict.status} {verdict.detail}"] += 1
            if not early and start + len(batch) >= count // 10:
                early = _holdings(pool)
            console.say(f"{start + len(batch)} of {count}, {sum(wrong.values())} wrong")
        late = _holdings(pool)
        pids = late.pop("pids")
        early.pop("pids", None)
    finally:
        await pool.close()
    seconds = time.monotonic() - started
    return {
        "runs": count,
        "at_once": AT_ONCE,
        "seconds": round(seconds, 1),
        "wrong_verdicts": dict(wrong),
        "held_after_a_tenth": early,
        "held_at_the_end": late,
        "left_after_closing": {
            "processes": [pid for pid in pids if os.path.exists(f"/proc/{pid}")],
            "temporary_files": sorted(_temporary_files() - temporary),
            "control_groups": [str(path) for path in _groups(pids)],
        },
    }


def _batches(programs: list[Any]) -> list[tuple[int, list[Any]]]:
    size = 500
    return [(start, programs[start : start + size]) for start in range(0, len(programs), size)]


def _holdings(pool: Any) -> dict[str, Any]:
    from sandbox import watch

    workers = sorted(worker._process.pid for worker in pool._started)
    zygotes = [child for worker in workers for child in watch.children(worker)]
    return {
        "workers": len(workers),
        "owner_descriptors": len(os.listdir("/proc/self/fd")),
        "owner_mb": _resident_mb(os.getpid()),
        "worker_descriptors": sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in workers),
        "worker_mb": round(sum(map(_resident_mb, workers)), 1),
        "zygote_descriptors": sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in zygotes),
        "zygote_mb": round(sum(map(_resident_mb, zygotes)), 1),
        "zygote_mounts": sum(len(Path(f"/proc/{pid}/mounts").read_text().splitlines()) for pid in zygotes),
        "processes_below_zygotes": sum(len(watch.children(pid)) for pid in zygotes),
        "pids": [*workers, *zygotes],
    }


def _resident_mb(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return round(pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20), 1)


def _temporary_files() -> set[str]:
    return {name for name in os.listdir(tempfile.gettempdir()) if name.startswith("zeroth-")}


def _groups(pids: list[int]) -> list[Path]:
    names = {f"zeroth-sandbox-{pid}" for pid in pids}
    found = Path("/sys/fs/cgroup").glob("**/zeroth-sandbox-*") if Path("/sys/fs/cgroup").exists() else ()
    return [path for path in found if path.name.rpartition("-")[0] in names]
