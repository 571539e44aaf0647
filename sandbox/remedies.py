"""Why this machine cannot isolate, and what would make it: which sysctl, which container flag.

The text is made where a step of the setup failed, from the error and from what the kernel says about itself.
"""

from __future__ import annotations

import errno
import os

from sandbox import kernel

_UNSAFE = "Or run without isolation, at your own risk, by asking for the unsafe mode (unsafe=True, --unsafe)."
_CONTAINER = (
    "in a container, start it with --security-opt seccomp=unconfined --security-opt apparmor=unconfined "
    "--security-opt systempaths=unconfined (Docker, Podman), or in Kubernetes with seccompProfile Unconfined and "
    "procMount Unmasked"
)
_MINIMUM_KERNEL = (5, 12)


def missing_in_kernel() -> str:
    """What the kernel lacks altogether, empty when nothing is."""
    if os.uname().sysname != "Linux" or kernel.MACHINE not in kernel.SUPPORTED_MACHINES:
        needed = " or ".join(kernel.SUPPORTED_MACHINES)
        return sentence(f"the sandbox needs Linux on {needed}, not {os.uname().sysname} on {kernel.MACHINE}", "")
    version = tuple(int(part) for part in os.uname().release.split("-")[0].split(".")[:2] if part.isdigit())
    if version < _MINIMUM_KERNEL:
        return sentence(f"Linux {os.uname().release} is too old (mount_setattr)", "use Linux 5.12 or later")
    if not kernel.seccomp_available():
        return sentence("the kernel has no seccomp filters", "use a kernel with CONFIG_SECCOMP_FILTER")
    return ""


def explain(step: str, error: OSError) -> str:
    """One or two sentences: what failed at which step, and the remedy."""
    return sentence(f"{step} failed: {error.strerror or error}", "; ".join(_remedies(error)))


def explain_briefly(error: OSError) -> str:
    return f"{error.strerror}; {'; '.join(_remedies(error))}"


def sentence(reason: str, remedy: str) -> str:
    """The message of a refusal."""
    told = f" Remedy: {remedy}." if remedy else ""
    return f"this machine cannot isolate programs: {reason}.{told} {_UNSAFE}"


def _remedies(error: OSError) -> list[str]:
    found = []
    if _setting("user/max_user_namespaces") == "0" or error.errno in (errno.ENOSPC, errno.EUSERS):
        found.append("sysctl -w user.max_user_namespaces=15000")
    if _setting("kernel/unprivileged_userns_clone") == "0":
        found.append("sysctl -w kernel.unprivileged_userns_clone=1")
    if _setting("kernel/apparmor_restrict_unprivileged_userns") == "1" and os.geteuid() != 0:
        found.append("sysctl -w kernel.apparmor_restrict_unprivileged_userns=0")
    if error.errno == errno.EINVAL:
        found.append("a kernel with all of CONFIG_USER_NS, PID_NS, NET_NS, IPC_NS, UTS_NS and CGROUPS")
    if not found:
        found.append(_CONTAINER)
    return found


def _setting(name: str) -> str:
    try:
        with open(f"/proc/sys/{name}") as file:
            return file.read().strip()
    except OSError:
        return ""
