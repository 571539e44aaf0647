"""Where the memory of a run lies: the code in huge pages, and as read-only as it was."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

from sandbox import kernel, pages, run
from tests.sandbox.programs import SMALL

MOVED = """
import ctypes
from sandbox import pages
start, end = pages.whole(*pages.code())
before = ctypes.string_at(start, max(0, end - start))
pages.use_huge_code()
assert ctypes.string_at(start, len(before)) == before, "the code is another"
print(sum(row.end - row.start for row in pages.mappings() if "x" in row.access and not row.path), len(before))
"""

ARENAS = f"""
{pages.TAKE_ARENAS}
from sandbox import pages
numbers = [str(number) for number in range(30_000)]
pages.use_huge_arenas()
assert numbers == [str(number) for number in range(30_000)]
print(sum(int(line.split()[1]) for line in open("/proc/self/smaps") if line.startswith("AnonHugePages")))
"""


def _makes_huge_pages() -> bool:
    memory = pages.reserve(pages.HUGE_BYTES, pages.READ_AND_WRITE)
    ctypes.memset(memory, 1, 1)
    try:
        kernel.memory("madvise", memory, pages.HUGE_BYTES, pages.MADV_COLLAPSE)
    except OSError:
        return False
    finally:
        kernel.memory("munmap", memory, pages.HUGE_BYTES)
    return True


def test_code_keeps_its_place_and_bytes_in_huge_pages() -> None:
    done = subprocess.run([sys.executable, "-c", MOVED], capture_output=True, text=True, check=True)
    moved, size = map(int, done.stdout.split())
    if not _makes_huge_pages():
        pytest.skip("this kernel makes no huge pages on request")
    assert moved == size


def test_objects_keep_their_values_in_huge_pages() -> None:
    done = subprocess.run([sys.executable, "-c", ARENAS], capture_output=True, text=True, check=True)
    if not _makes_huge_pages():
        pytest.skip("this kernel makes no huge pages on request")
    assert int(done.stdout) > 0


def test_a_run_has_no_memory_that_is_writable_and_executable() -> None:
    source = "print([line for line in open('/proc/self/maps') if {'w', 'x'} <= set(line.split()[1])])"
    verdict = run(source, [{"stdout": "[]"}], limits=SMALL)
    assert verdict.status == "passed", verdict
