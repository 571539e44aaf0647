"""Isolated execution of untrusted programs, and verdicts on them.

What is defended. The machine that trains: its files, secrets, network, processes and time; the tests, whose expected
answers decide the reward; the verdict itself; and every other program being judged.

From whom. From a program that does whatever a determined and patient author would have it do. A policy under
optimisation pressure is such an author: it is paid for the verdict and for nothing else, and it tries everything
often.

By what. No single mechanism is trusted alone; each item stops what the ones before it let through.

 1. The trainer never runs a candidate. It starts a *worker*, a fresh small program with a clean environment; the
    worker starts a *zygote* inside a jail, another fresh program, and an isolated process is forked from it for every
    run (client, worker, launch, stage, zygote).
 2. Namespaces. The zygote lives in its own user, mount, PID, network, IPC, UTS and cgroup namespaces; each run in its
    own PID and mount namespace below. There is no network but an empty one, and no process but the run's own. When
    process 1 of a PID namespace ends, the kernel ends the rest, also what double-forked or changed its group.
 3. A real unprivileged id. Root maps two ids that belong to nobody and leaves its own before anything is built; a
    mapped id alone would keep the host's uid 0 underneath, which may write to /proc/sys.
 4. A small root. A read-only tmpfs with the interpreter, installed packages and toolchains, taken as detached mount
    copies, entered by pivot_root, the host's tree detached. Each run has a /tmp of its own with a size and a number of
    files, and a /proc of its own that shows processes and nothing else (jail).
 5. No privileges. Capabilities, bounding set included, are emptied; no_new_privs is set; user namespaces below this one
    are forbidden.
 6. Landlock, where the kernel has it: write to /tmp, read the rest; no TCP, no abstract sockets, no signals outside.
 7. A seccomp allow-list. What no honest program calls ends the process with the verdict ``denied``; the rest fails with
    an errno. Sockets are of the UNIX family only. The zygote loads the list, with leave for the calls that isolate a
    run, and each run inherits it and takes that leave from itself; no filter can be taken off (seccomp).
 8. Limits. Rlimits for one process; a control group for memory and processes together where one is writable, and else
    RLIMIT_DATA, RLIMIT_NPROC in the jail's own user namespace and a watch every 50 ms; deadlines and totals enforced
    from outside by the worker (supervisor, cgroup, watch).
 9. The judge. Expected values stay in the worker. The candidate sends plain data that is decoded into exactly built-in
    types, and the worker compares it in code of ours. Assert-style tests run in an isolated process of their own, to
    which the candidate's functions are remote. What a candidate says about itself only chooses among failures; it
    cannot say that it passed, nor that the sandbox failed (judge, wire, compare, statements, asserts).

It fails closed. What the kernel or the container forbids is found when the worker starts; then nothing runs, and the
error says what to change. ``unsafe=True`` runs without any of this, by the user's word alone.

What is not covered. Bugs of the kernel that the allowed calls can reach, and side channels between processes that
share a processor (use a virtual machine where those matter). Reading the interpreter, packages and toolchains. Helper
functions that tests take from the solution: they are the candidate's, and tests that trust their results trust it;
state what tests need in the tests. Time: a busy machine makes programs slower, and a limit near a program's need is a
lottery. The numbers of processors and of the kernel's version are visible.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sandbox.client import run
    from sandbox.pool import Pool
    from sandbox.verdict import STATUSES, InvalidTests, Limits, SandboxUnavailable, Status, TestResult, Verdict

__all__ = [
    "STATUSES",
    "InvalidTests",
    "Limits",
    "Pool",
    "SandboxUnavailable",
    "Status",
    "TestResult",
    "Verdict",
    "run",
]


def __getattr__(name: str) -> Any:
    """Loads a public name when it is first used: the worker, which is forked for every run, needs none of them and
    must stay small."""
    if name not in __all__:
        raise AttributeError(f"module 'sandbox' has no attribute {name!r}")
    home = {"run": "client", "Pool": "pool"}.get(name, "verdict")
    return getattr(importlib.import_module(f"sandbox.{home}"), name)
