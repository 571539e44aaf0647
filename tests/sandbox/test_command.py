"""`zeroth sandbox`: JSON on standard output, messages on standard error, exit status 0, 1 and 2."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.jobs.conftest import Zeroth, zeroth

__all__ = ["zeroth"]

ROOT = Path(__file__).resolve().parents[2]


def _zeroth(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "jobs", "sandbox", *arguments]
    return subprocess.run(command, cwd=ROOT, input=stdin, capture_output=True, text=True, timeout=120, check=False)


def test_run_prints_one_verdict(tmp_path: Path) -> None:
    solution, tests = tmp_path / "solution.py", tmp_path / "tests.json"
    solution.write_text("print(int(input())+1)")
    tests.write_text(json.dumps([{"stdin": "1", "stdout": "2"}, {"stdin": "2", "stdout": "4"}]))
    done = _zeroth("run", str(solution), "--tests", str(tests), "--time", "5", "--memory", "256")
    assert done.returncode == 0, done.stderr
    verdict = json.loads(done.stdout)
    assert (verdict["status"], verdict["passed"], verdict["total"]) == ("wrong_answer", 1, 2)


def test_run_takes_standard_input_and_asserts(tmp_path: Path) -> None:
    tests = tmp_path / "tests.py"
    tests.write_text("assert f(1)==2")
    done = _zeroth("run", "-", "--tests", str(tests), stdin="def f(x): return x+1")
    assert json.loads(done.stdout)["status"] == "passed"


def test_time_limit_is_a_verdict() -> None:
    done = _zeroth("run", "-", "--time", "0.5", stdin="while True: pass")
    assert (done.returncode, json.loads(done.stdout)["status"]) == (0, "time_limit")


@pytest.mark.parametrize(
    "arguments",
    [
        ("/nowhere.py",),
        ("-", "--tests", "bad.json"),
        ("-", "--language", "cobol"),
        ("-", "--time", "-1"),
        ("-", "--no-such-option"),
    ],
)
def test_bad_calls_exit_with_2(
    arguments: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zeroth: Zeroth
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO()))
    (tmp_path / "bad.json").write_text("{")
    done = zeroth("sandbox", "run", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr
    assert "Traceback" not in done.stderr


def test_check_names_every_mechanism() -> None:
    done = _zeroth("check", "--json")
    assert done.returncode == 0, done.stdout
    report = json.loads(done.stdout)
    names = {mechanism["name"] for mechanism in report["mechanisms"]}
    wanted = {f"{kind} namespace" for kind in ("user", "mount", "pid", "network", "ipc", "uts", "cgroup")}
    assert wanted | {"seccomp filter", "Landlock", "private /proc", "memory control group"} <= names
    assert all(mechanism["available"] for mechanism in report["mechanisms"] if mechanism["required"])
    assert report["languages"]["python"] == ""
