"""Running without isolation, where the user asked for it by name: limits and clean-up by best effort, no boundary.

A program run this way has the user's own rights. It gets a folder of its own and the resource limits; what it leaves
running is searched for and killed, and what it does elsewhere stays.
"""

from __future__ import annotations

import os
import signal

from sandbox import jail, kernel, program, watch


class NoIsolation:
    """Takes the place of ``jail.Isolation``."""

    def __init__(self, base: str) -> None:
        """``base`` is a folder for the runs' folders; the supervisor removes it at the end."""
        kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1)
        self._base = base
        self._count = 0

    def before_fork(self, limits: tuple[int, ...]) -> tuple[tuple[kernel.Call, ...], str]:
        """Makes the run's folder; returns the calls that the run makes first, and the path of a Python program."""
        self._count += 1
        os.mkdir(self._folder())
        calls = (
            kernel.call("a signal at the zygote's end", "prctl", kernel.PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0),
            kernel.call(f"entering {self._folder()}", "chdir", os.fsencode(self._folder())),
            kernel.call("a process group", "setpgid", 0, 0),
            *jail.resource_limits(jail.RunLimits(*limits)),
        )
        return calls, f"{self._folder()}/{program.SOURCE}"

    def ended(self, path: str, living: list[int]) -> None:
        """Kills what the run left behind, which the zygote has adopted, and removes its folder. ``path``: that of its
        program; ``living``: the process ids of other runs."""
        while strangers := [child for child in watch.children(os.getpid()) if child not in living]:
            for child in strangers:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
        import shutil

        shutil.rmtree(os.path.dirname(path), ignore_errors=True)

    def _folder(self) -> str:
        return f"{self._base}/{self._count}"
