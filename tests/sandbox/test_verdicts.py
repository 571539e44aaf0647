# ruff: noqa: E501 - a program is one line where it can be
"""What each way to end means, test by test."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sandbox import InvalidTests, Limits, client
from tests.sandbox.conftest import Bench
from tests.sandbox.programs import SMALL


def test_counts_and_first_failure(bench: Bench) -> None:
    tests = [{"stdin": str(n), "stdout": str(n * n)} for n in range(5)]
    verdict = bench.judge("n=int(input())\nprint(n*n if n!=2 else 0)\nassert n!=3", tests)
    assert (verdict.status, verdict.passed, verdict.total) == ("wrong_answer", 3, 5)
    assert [test.status for test in verdict.tests] == ["passed", "passed", "wrong_answer", "runtime_error", "passed"]
    assert "0" in verdict.detail


def test_verdict_measures(bench: Bench) -> None:
    verdict = bench.judge("x=bytearray(50<<20)\nfor i in range(10**6): pass\nimport time; time.sleep(.2)\nprint('a')")
    assert verdict.status == "passed"
    assert verdict.cpu_seconds > 0.01
    assert verdict.wall_seconds > 0.2
    assert 50 < verdict.peak_memory_mb < 90
    assert verdict.stdout == "a\n"


def test_streams_are_truncated(bench: Bench) -> None:
    verdict = bench.judge(
        "import sys\nprint('x'*5000)\nprint('y'*5000,file=sys.stderr)", None, replace(SMALL, report_kb=1)
    )
    assert verdict.stdout.startswith("x" * 1024 + "\n... (5001 bytes")
    assert verdict.stderr.startswith("y" * 1024 + "\n... (5001 bytes")


def test_traceback_shows_the_candidate_alone(bench: Bench) -> None:
    verdict = bench.judge("def f():\n    return 1/0\nf()")
    assert (verdict.status, verdict.detail) == ("runtime_error", "ZeroDivisionError: division by zero")
    assert "return 1/0" in verdict.stderr
    assert "program.py" not in verdict.stderr


def test_syntax_error_is_a_compile_error(bench: Bench) -> None:
    for tests in (None, [{"function": "f", "args": [], "expected": 1}] * 2, "assert f()==1"):
        verdict = bench.judge("def f(:", tests)
        assert verdict.status == "compile_error"
        assert "SyntaxError" in verdict.detail
        assert verdict.passed == 0


def test_exit_status_alone_fails(bench: Bench) -> None:
    verdict = bench.judge("import sys\nprint(1)\nsys.exit(3)", [{"stdout": "1"}])
    assert (verdict.status, verdict.detail) == ("runtime_error", "exit status 3")


def test_a_call_that_ends_the_process_costs_only_itself(bench: Bench) -> None:
    code = "import os\ndef f(x):\n    if x==1: os._exit(0)\n    return x"
    verdict = bench.judge(code, [{"function": "f", "args": [n], "expected": n} for n in range(4)])
    assert [test.status for test in verdict.tests] == ["passed", "runtime_error", "passed", "passed"]


def test_calls_arrive_one_at_a_time(bench: Bench) -> None:
    code = """
import os
def f(x):
    os.set_blocking(3, False)
    try:
        return os.read(3, 99).decode()
    except BlockingIOError:
        return x
    finally:
        os.set_blocking(3, True)
"""
    assert bench.judge(code, [{"function": "f", "args": [n], "expected": n} for n in range(3)]).passed == 3


def test_time_is_limited_for_each_call(bench: Bench) -> None:
    code = "import time\ndef f(x):\n    time.sleep(x)\n    return x"
    limits = replace(SMALL, wall_seconds=0.5)
    verdict = bench.judge(code, [{"function": "f", "args": [n], "expected": n} for n in (0.3, 0.3, 0.3, 9)], limits)
    assert [test.status for test in verdict.tests] == ["passed"] * 3 + ["time_limit"]


def test_time_is_limited_for_the_submission(bench: Bench) -> None:
    limits = replace(SMALL, total_seconds=0.6)
    verdict = bench.judge("import time; time.sleep(.25)", [{"stdin": ""}] * 6, limits)
    statuses = [test.status for test in verdict.tests]
    assert statuses[0] == "passed"
    assert statuses[-1] == "time_limit"
    assert verdict.wall_seconds < 1.5


def test_keyword_arguments_and_missing_function(bench: Bench) -> None:
    tests = [{"function": "f", "args": [1], "kwargs": {"b": 2}, "expected": 3}, {"function": "g", "expected": 1}]
    verdict = bench.judge("def f(a,b): return a+b", tests)
    assert [test.status for test in verdict.tests] == ["passed", "runtime_error"]
    assert "no function 'g'" in verdict.tests[1].detail


def test_what_a_function_returns_is_compared_as_plain_data(bench: Bench) -> None:
    code = "class A: pass\ndef f(x): return [A(), {1,2}, 10**5000, float('nan'), 's'][x]"
    expected = [None, {1, 2}, 10**5000, float("nan"), "s"]
    verdict = bench.judge(code, [{"function": "f", "args": [n], "expected": e} for n, e in enumerate(expected)])
    assert [test.status for test in verdict.tests] == ["wrong_answer", "passed", "passed", "passed", "passed"]
    assert "not plain data" in verdict.tests[0].detail


@pytest.mark.parametrize(
    "value", ["Decimal('sNaN')", "Decimal('1e999999')", "float('nan')", "[[]]*99999", "{1:{2:{3:4}}}"]
)
def test_values_that_resist_comparison_are_wrong_and_not_our_error(bench: Bench, value: str) -> None:
    code = f"from decimal import Decimal\ndef f(): return {value}"
    assert bench.judge(code, [{"function": "f", "expected": 1.5}]).status == "wrong_answer"
    assert bench.judge(code, "assert f() == 1.5").status in ("wrong_answer", "runtime_error")


def test_a_candidate_cannot_claim_that_the_sandbox_failed(bench: Bench) -> None:
    send = "import os,struct,json\ndef say(m):\n    b=json.dumps(m).encode()\n    for n in (3,4):\n        try: os.write(n,struct.pack('!I',len(b))+b)\n        except OSError: pass\n"
    for message in (
        "{'failed':'x'}",
        "{'run':0,'failed':'x'}",
        "{'verdict':{'status':'sandbox_error'}}",
        "['x']",
        "None",
    ):
        for end in ("os._exit(125)", "os._exit(0)", "os.kill(os.getpid(),9)", "1/0", "pass"):
            for tests in ([{"stdout": "x"}], [{"function": "f", "expected": 1}], "assert f()==1"):
                verdict = bench.judge(f"{send}say({message})\n{end}", tests)
                assert verdict.status in ("wrong_answer", "runtime_error"), (message, end, tests, verdict)


def test_output_flood_on_the_channel_is_bounded(bench: Bench) -> None:
    code = "import os,struct\nb=b'{\"a\":1}'\nf=(struct.pack('!I',len(b))+b)*5000\nwhile True: os.write(3,f)"
    assert bench.judge(code, [{"function": "f", "expected": 1}]).status in ("output_limit", "runtime_error")
    assert bench.judge(code).status == "output_limit"


def test_a_run_that_ended_before_its_streams_were_read_is_held_to_the_same(bench: Bench) -> None:
    assert bench.judge("print('x' * 3000)", limits=replace(SMALL, output_kb=1)).status == "output_limit"
    assert bench.judge("import os\nos.write(3, b'\\0\\0\\0\\4{{{{')").status == "runtime_error"


def test_floods_towards_the_tests_do_not_end_them(bench: Bench) -> None:
    flood = "import os,struct\n{}\ndef f(): pass"
    for attack in (
        "os.write(4,struct.pack('!I',1<<31))\nwhile True: os.write(4,b'['*65536)",
        "b=b'{\"value\":'+b'['*100000+b']'*100000+b'}'\nos.write(4,struct.pack('!I',len(b))+b)",
        "b=b'{\"value\":['+b'[],'*300000+b'[]]}'\nos.write(4,struct.pack('!I',len(b))+b)",
    ):
        verdict = bench.judge(flood.format(attack), "assert f()==1")
        assert verdict.status in ("runtime_error", "time_limit", "memory_limit", "wrong_answer"), verdict


def test_asserts_count_those_that_held(bench: Bench) -> None:
    verdict = bench.judge("def f(x): return x", "assert f(1)==1\nassert f(2)==3\nassert f(3)==3")
    assert (verdict.status, verdict.passed, verdict.total) == ("wrong_answer", 2, 3)
    assert verdict.detail == "line 2: assert f(2)==3"


def test_asserts_in_a_check_function(bench: Bench) -> None:
    tests = "def check(candidate):\n    for i in range(3):\n        assert candidate(i)==i\n    assert candidate(9)==9\ncheck(f)"
    verdict = bench.judge("def f(x): return x", tests)
    assert (verdict.status, verdict.passed, verdict.total) == ("passed", 4, 4)


def test_tests_without_a_reached_assert_do_not_pass(bench: Bench) -> None:
    verdict = bench.judge("def f(): return []", "for x in f():\n    assert x")
    assert (verdict.status, verdict.detail) == ("wrong_answer", "no assertion was reached")


def test_asserts_and_the_time_limit(bench: Bench) -> None:
    verdict = bench.judge("def f(): \n    while True: pass", "assert f()==1\nassert f()==2")
    assert verdict.status == "time_limit"
    verdict = bench.judge("def f():\n    i=0\n    while True:\n        i+=1\n        yield i", "assert sum(f())==1")
    assert verdict.status == "time_limit"


def test_names_that_a_test_takes_from_the_solution(bench: Bench) -> None:
    solution = (
        "LIMIT=3\nclass Node:\n    def __init__(s,v): s.v=v\n    def __len__(s): return s.v\ndef f(n): return n.v+LIMIT"
    )
    verdict = bench.judge(
        solution, "n=Node(4)\nassert f(n)==7\nassert len(n)==4\nassert LIMIT==3\nn.v=1\nassert f(n)==4"
    )
    assert verdict.status == "passed", verdict


def test_a_solution_cannot_shadow_what_tests_call(bench: Bench) -> None:
    solution = "import math\nmath.isclose=lambda *a: True\nabs=len=sorted=lambda *a: 0\ndef f(x): return 1"
    for tests in ("assert math.isclose(f(1),2)", "assert abs(f(1)-2)<.1", "assert len([f(1)])==0"):
        assert bench.judge(solution, tests).status == "wrong_answer"
    assert bench.judge("def sum(a,b): return a+b", "assert sum(1,2)==3").status == "passed"


@pytest.mark.parametrize(
    ("tests", "message"),
    [
        ([{}], "neither"),
        ([{"stdin": 3}], "string"),
        ([{"function": "f"}], "expected"),
        ([{"function": "f", "args": 3, "expected": 1}], "args"),
        ([{"function": "f", "expected": object()}], "plain data"),
        ([{"stdin": "", "stdout": "", "compare": "loosely"}], "compare"),
        ([{"stdin": "", "expekted": ""}], "expekted"),
        ([7], "object"),
        ("assert (", "not Python"),
    ],
)
def test_bad_tests_are_the_callers_fault(tests: object, message: str) -> None:
    with pytest.raises(InvalidTests, match=message) as caught:
        client.request("", tests, "python", Limits())  # type: ignore[arg-type]
    assert caught.value.exit_status == 2


@pytest.mark.parametrize(
    "change", [{"wall_seconds": 0}, {"memory_mb": -1}, {"memory_mb": 1.5}, {"processes": True}, {"cpu_seconds": "1"}]
)
def test_bad_limits_are_the_callers_fault(change: dict[str, object]) -> None:
    with pytest.raises(InvalidTests):
        Limits(**change)  # type: ignore[arg-type]


def test_input_is_sealed(bench: Bench) -> None:
    code = "import os\ntry:\n    os.write(os.open('/proc/self/fd/0',os.O_RDWR),b'x')\nexcept OSError: print('sealed')"
    assert bench.judge(code, [{"stdin": "abc", "stdout": "sealed"}]).status == "passed"


CHECKER = "def check(stdin, stdout, expected):\n    a, b = map(int, stdout.split())\n    return a + b == int(expected)"


def test_a_custom_checker_decides(bench: Bench) -> None:
    test = {"stdin": "5", "stdout": "10", "checker": CHECKER}
    assert bench.judge("print(3, 7)", [test]).status == "passed"
    assert bench.judge("n=int(input())\nprint(n, n)", [test]).status == "passed"
    assert bench.judge("print(3, 8)", [test]).status == "wrong_answer"
    assert bench.judge("print('x')", [test]).status == "wrong_answer"
    assert bench.judge("import sys\nprint(3, 7)\nsys.exit(1)", [test]).status == "runtime_error"
    assert (
        bench.judge("print(1)", [{"stdout": "1", "checker": "def check(*a):\n    while True: pass"}]).status
        == "wrong_answer"
    )


@pytest.mark.parametrize("checker", ["def", "x = 1", 3])
def test_a_bad_checker_is_the_callers_fault(checker: object) -> None:
    with pytest.raises(InvalidTests, match="check"):
        client.request("", [{"stdout": "1", "checker": checker}], "python", Limits())
