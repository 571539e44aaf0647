"""Honest programs pass untouched."""

from __future__ import annotations

import importlib.util
from dataclasses import replace

import pytest

from tests.sandbox.conftest import Bench
from tests.sandbox.honest import HONEST, Honest
from tests.sandbox.programs import SMALL

ROOMY = replace(SMALL, wall_seconds=30.0, cpu_seconds=30.0, memory_mb=512, output_kb=8192, disk_mb=64)


@pytest.mark.parametrize("program", HONEST, ids=lambda program: program.name)
def test_honest_program_passes(program: Honest, bench: Bench) -> None:
    if program.needs and importlib.util.find_spec(program.needs) is None:
        pytest.skip(f"{program.needs} is not installed")
    before = bench.holdings()
    verdict = bench.judge(program.code, program.tests, ROOMY)
    assert verdict.status == "passed", verdict
    assert verdict.passed == verdict.total > 0
    assert bench.holdings() == before


def test_there_are_twenty_kinds() -> None:
    assert len({program.name for program in HONEST}) == len(HONEST) >= 20
