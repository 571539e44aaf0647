"""The same verdicts wherever it runs, and a clear refusal where it cannot."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from sandbox import Limits, client, kernel

ROOT = Path(__file__).resolve().parents[2]
ORDINARY = 1000
DENY_UNSHARE = """
import os, struct, sys
from sandbox import Limits, client, kernel
number = 272 if kernel.MACHINE == "x86_64" else 97
kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
kernel.Filter(b"".join(struct.pack("HBBI", *i) for i in (
    (0x20, 0, 0, 0), (0x15, 0, 1, number), (0x06, 0, 0, 0x00050001), (0x06, 0, 0, 0x7FFF0000)))).load()
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


_USABLE = "import os,sys; sys.exit(sys.version_info < (3, 11) or not os.access(sys.executable, os.X_OK))"


def _python_for_all() -> str:
    """An interpreter that an ordinary user can start."""
    for python in (sys.executable, "/usr/bin/python3"):
        command = [*_as_user(), python, "-c", _USABLE]
        try:
            if subprocess.run(command, capture_output=True, check=False).returncode == 0:
                return python
        except OSError:
            continue
    pytest.skip("no interpreter that an ordinary user may run")


def _as_user() -> list[str]:
    if os.geteuid() != 0:
        return []
    if shutil.which("setpriv") is None:
        pytest.skip("needs setpriv to become an ordinary user")
    return ["setpriv", f"--reuid={ORDINARY}", f"--regid={ORDINARY}", "--clear-groups"]


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd="/", env=environment, capture_output=True, text=True, timeout=300, check=False)


def _suite(command: list[str]) -> dict[str, object]:
    quick = [] if os.environ.get("ZEROTH_TEST_ALL") else ["--quick"]
    done = _run([*command, "-m", "tests.sandbox.everywhere", *quick])
    assert done.returncode == 0, done.stderr
    answer: dict[str, object] = json.loads(done.stdout)
    assert answer["wrong"] == {}
    return json.loads(done.stderr.splitlines()[0])["mechanisms"]  # type: ignore[no-any-return]


def _works(command: list[str]) -> bool:
    return _run([*command, "true"]).returncode == 0


def test_as_an_ordinary_user() -> None:
    mechanisms = _suite([*_as_user(), _python_for_all()])
    assert mechanisms["private_ids"] is False


def test_in_a_network_namespace() -> None:
    if not _works(["unshare", "-rn" if os.geteuid() else "-n"]):
        pytest.skip("needs unshare(1) and the right to make a network namespace")
    _suite(["unshare", "-rn" if os.geteuid() else "-n", sys.executable])


def test_as_root_of_a_user_namespace() -> None:
    command = [*_as_user(), "unshare", "-Ur"]
    if not _works(command):
        pytest.skip("needs unshare(1)")
    assert _suite([*command, _python_for_all()])["private_ids"] is False


def test_where_the_container_hides_parts_of_proc() -> None:
    hide = ["unshare", "-Urm" if os.geteuid() else "-m", "sh", "-c", 'mount -t tmpfs none /proc/tty && exec "$@"', "sh"]
    if not _works(hide):
        pytest.skip("needs unshare(1) and mount(8)")
    done = _run([*hide, sys.executable, "-c", "from sandbox import run; print(run('print(6*7)').stdout)"])
    assert done.stdout.split() == ["42"], done.stderr


def _refusal(command: list[str]) -> str:
    done = _run([*command, "-c", "from sandbox import run; run('print(1)')"])
    assert done.returncode == 1
    assert "SandboxUnavailable" in done.stderr
    return done.stderr.splitlines()[-1]


def test_refuses_where_user_namespaces_are_off() -> None:
    off = [*_as_user(), "unshare", "-Ur", "sh", "-c", 'echo 0 > /proc/sys/user/max_user_namespaces && exec "$@"', "sh"]
    if not _works(off):
        pytest.skip("needs unshare(1)")
    assert "sysctl -w user.max_user_namespaces" in _refusal([*off, _python_for_all()])


@pytest.mark.skipif(kernel.MACHINE not in kernel.SUPPORTED_MACHINES, reason="needs the call's number")
def test_refuses_where_the_container_forbids_namespaces() -> None:
    message = _refusal([sys.executable, "-c", DENY_UNSHARE])
    assert "seccomp=unconfined" in message
    assert "entering new namespaces failed" in message


def test_check_says_what_is_forbidden_and_exits_with_1() -> None:
    done = _run([sys.executable, "-c", DENY_UNSHARE, "-m", "jobs", "sandbox", "check"])
    assert done.returncode == 1
    lines = dict(line.split("  ", 1) for line in done.stdout.splitlines() if "  " in line)
    assert lines["user namespace"].split()[0] == "NO"
    assert lines["seccomp filter"].split()[0] == "yes"


def test_unsafe_runs_where_isolation_is_forbidden() -> None:
    code = "from sandbox import run; v=run('print(6*7)', unsafe=True); print(v.status, v.stdout)"
    done = _run([sys.executable, "-c", DENY_UNSHARE, "-c", code])
    assert done.stdout.split() == ["passed", "42"], done.stderr


def test_packages_below_tmp_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        packages = Path(folder, "site-packages")
        packages.mkdir()
        Path(folder).chmod(0o755)
        (packages / "only_here.py").write_text("answer = 42")
        monkeypatch.setattr(client.sysconfig, "get_path", lambda _: str(packages))
        worker = client.WorkerProcess(unsafe=False)
        worker.ready()
        code = "import only_here, os; print(only_here.answer, os.listdir('/tmp'))"
        verdict = worker.judge(client.request(code, None, "python", Limits()))
        worker.close()
    assert verdict.stdout == "42 ['solution.py']\n", verdict


@pytest.mark.cluster
@pytest.mark.usefixtures("only_ray")
def test_inside_a_ray_actor() -> None:
    import ray

    @ray.remote
    class Judge:
        async def judge(self, count: int) -> list[str]:
            import asyncio

            from sandbox import Pool

            async with Pool(2) as pool:
                tests = [{"stdin": "3", "stdout": "9"}]
                runs = (pool.run(f"print(int(input())*{number})", tests) for number in range(count))
                return [verdict.status for verdict in await asyncio.gather(*runs)]

    judge = Judge.remote()
    statuses = ray.get(judge.judge.remote(8), timeout=120)
    assert statuses == ["wrong_answer"] * 3 + ["passed"] + ["wrong_answer"] * 4
