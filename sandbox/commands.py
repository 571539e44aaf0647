"""Running a toolchain's commands inside an isolated process: compile and hand back what was made, or become it."""

from __future__ import annotations

import os
import signal
import stat
import sys
from typing import Any

from sandbox import program


def run(channel: int, job: dict[str, Any]) -> int:
    """Writes the job's files to /tmp; then compiles (``"compile"``) or becomes the program (``"run"``)."""
    for name, content in job["files"].items():
        _write(name, content)
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    if "run" in job:
        os.set_inheritable(channel, False)
        _execute(job["run"], job["environment"])
    before = set(os.listdir("."))
    child = os.fork()
    if child == 0:
        os.closerange(channel, 64)
        _execute(job["compile"], job["environment"])
    _, status = os.waitpid(child, 0)
    if status != 0:
        return 1
    made = [name for name in os.listdir(".") if name not in before and stat.S_ISREG(os.lstat(name).st_mode)]
    kept = made or list(job["files"])
    program.send(channel, {"files": {name: _read(name).hex() for name in kept}})
    return 0


def _execute(command: list[str], environment: dict[str, str]) -> None:
    try:
        os.execve(command[0], command, environment)  # noqa: S606 - no shell is wanted
    except OSError as error:
        print(f"{command[0]}: {error}", file=sys.stderr, flush=True)
        os._exit(127)


def _write(name: str, content: bytes) -> None:
    descriptor = os.open(name, os.O_CREAT | os.O_WRONLY | os.O_EXCL | os.O_NOFOLLOW, 0o755)
    with open(descriptor, "wb") as file:
        file.write(content)


def _read(name: str) -> bytes:
    with open(name, "rb") as file:
        return file.read()
