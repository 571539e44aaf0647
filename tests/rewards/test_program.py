"""The code reward in the real sandbox."""

import asyncio
import time
from types import SimpleNamespace

import pytest

from rewards import BadProblem, BadSetting, Sample, check_problem, find
from rewards.program import extract_program, score_of

TESTS = [{"function": "double", "args": [2], "expected": 4}, {"function": "double", "args": [5], "expected": 10}]
GOOD = "Here:\n```python\ndef double(n):\n    return 2 * n\n```\nDone."


def score(*responses, tests=TESTS, **settings):
    async def go():
        reward = find("code", workers=2, **settings)
        try:
            return await reward([Sample({"id": index, "tests": tests}, text) for index, text in enumerate(responses)])
        finally:
            await reward.close()

    found = asyncio.run(go())
    if any("sandbox" in one.detail and one.status == "error" for one in found):
        pytest.skip(f"this machine cannot isolate: {found[0].detail}")
    return found


def test_a_program_that_passes_every_test_scores_one():
    assert [one.value for one in score(GOOD, GOOD.replace("2 *", "3 *"))] == [1.0, 0.0]


def test_all_or_nothing_by_default_and_shares_by_choice():
    half = "```python\ndef double(n):\n    return 4\n```"
    assert score(half)[0].value == 0.0
    assert score(half, credit="share")[0].value == 0.5


def test_a_hostile_program_is_a_zero_and_not_an_error():
    found = score(
        "```python\nwhile True: pass\n```", "import os; os._exit(0)", "", "not python", limits={"wall_seconds": 2.0}
    )
    assert [(one.value, one.status) for one in found] == [(0.0, "ok")] * 4


def test_stdin_and_assert_tests():
    assert score("print(int(input()) * 2)", tests=[{"stdin": "4\n", "stdout": "8\n"}])[0].value == 1.0
    assert score(GOOD, tests="assert double(3) == 6")[0].value == 1.0
    assert score(GOOD, tests="assert double(3) == 7")[0].value == 0.0


def test_the_sandbox_breaking_is_an_error_and_never_a_zero():
    verdict = SimpleNamespace(status="sandbox_error", passed=0, total=2, detail="no user namespaces")
    assert (score_of(verdict).value, score_of(verdict).status) == (None, "error")


def test_a_sandbox_that_raises_is_an_error():
    class Broken:
        async def run(self, *arguments, **settings):
            raise OSError("gone")

        async def close(self):
            pass

    reward = find("code")
    reward._pool = Broken()
    (one,) = asyncio.run(reward([Sample({"tests": TESTS}, GOOD)]))
    assert (one.value, one.status) == (None, "error")
    assert "gone" in one.detail


def test_a_problem_without_tests_is_refused():
    with pytest.raises(BadProblem, match="tests"):
        check_problem(find("code"), {})


def test_wrong_settings_are_refused():
    with pytest.raises(BadSetting):
        find("code", credit="some")
    with pytest.raises(BadSetting, match="no_such_limit"):
        asyncio.run(find("code", limits={"no_such_limit": 1})([Sample({"tests": TESTS}, GOOD)]))


@pytest.mark.parametrize(
    ("response", "program"),
    [
        ("x = 1", "x = 1"),
        ("```\nx = 1\n```", "x = 1\n"),
        ("```python\nx = 1\n```", "x = 1\n"),
        ("```python\nx = 1\n```\nor\n```py\nx = 2\n```\n", "x = 2\n"),
        ("```python\nx = 1\n```\n```python\nx = 2", "x = 1\n"),
        ("```python\nx = 1", "```python\nx = 1"),
        ("  ```python\n  x = 1\n  ```", "  x = 1\n"),
        ("```python\nprint('```')\n```", "print('```')\n"),
    ],
)
def test_the_last_complete_block_is_the_program(response, program):
    assert extract_program(response) == program


@pytest.mark.parametrize("piece", ["```python\n", "```\n", "```", "x\n"])
def test_extraction_is_linear(piece):
    started = time.perf_counter()
    extract_program(piece * (1_000_000 // len(piece)))
    assert time.perf_counter() - started < 10.0
