"""A real service for a test: a process of its own on a free port."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


class Service:
    def __init__(self, *arguments: str, kind: str = "rewards") -> None:
        command = [sys.executable, "-m", "jobs", "serve", kind, "--port", "0", *arguments]
        environment = {**os.environ, "COLUMNS": "200", "NO_COLOR": "1"}
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=environment)
        self.log: list[str] = []
        self.url = self._wait()
        threading.Thread(target=self._drain, daemon=True).start()

    def _wait(self) -> str:
        for line in self.process.stderr:
            self.log.append(line)
            if found := re.search(r"http://\S+:\d+", line):
                return found.group()
        raise RuntimeError("the service did not start: " + "".join(self.log))

    def _drain(self) -> None:
        self.log.extend(self.process.stderr)

    def terminate(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


@contextlib.contextmanager
def service(*arguments: str, kind: str = "rewards"):
    running = Service(*arguments, kind=kind)
    try:
        yield running
    finally:
        running.process.kill()
        running.process.wait()
