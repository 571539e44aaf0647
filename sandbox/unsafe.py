"""Running without isolation, where the user asked for it by name: limits and clean-up by best effort, no boundary.

A program run this way has the user's own rights. It gets a folder of its own and the resource limits; what it leaves
running is searched for and killed, and what it does elsewhere stays.
"""

from __future__ import annotations

import os
import signal

from sandbox import jail, kernel, watch


class NoIsolation:
    """Takes the place of ``jail.Isolation``."""

    def __init__(self, base: str) -> None:
        """``base`` is a folder for the runs' folders; the supervisor removes it at the end."""
        kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1)
        self._base = base
        self._count = 0
        self._folders: dict[int, str] = {}

    def before_fork(self, limits: tuple[int, ...]) -> tuple[kernel.Call, ...]:
        """Makes the run's folder; returns the calls that the run makes first."""
        self._count += 1
        os.mkdir(self._folder())
        return (
            kernel.call("a signal at the zygote's end", "prctl", kernel.PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0),
            kernel.call(f"entering {self._folder()}", "chdir", os.fsencode(self._folder())),
            kernel.call("a process group", "setpgid", 0, 0),
            *jail.resource_limits(jail.RunLimits(*limits)),
        )

    def after_fork(self, pid: int) -> None:
        self._folders[pid] = self._folder()

    def ended(self, pid: int, living: set[int]) -> None:
        """Kills what the run left behind, which the zygote has adopted, and removes its folder."""
        while strangers := [child for child in watch.children(os.getpid()) if child not in living]:
            for child in strangers:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
        import shutil

        shutil.rmtree(self._folders.pop(pid), ignore_errors=True)

    def _folder(self) -> str:
        return f"{self._base}/{self._count}"
