"""Files that whoever reads them, and whoever is ended while writing them, finds whole; folders with one writer."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shlex
import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jobs import console

LOCK = ".lock"
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
"""How a filesystem says that it has none."""

_held: set[Path] = set()
"""Folders that this process holds."""


class FolderError(RuntimeError):
    """A folder that this command may not write into: another process does, or it is of another call."""

    exit_status = 2


def write_whole(path: Path, text: str) -> None:
    """Puts a text in a file, which at every moment holds one whole. What is there and is no regular file (a pipe,
    /dev/stdout, a link) is written through, for to replace it would take it away."""
    if path.exists() and (path.is_symlink() or not path.is_file()):
        path.write_text(text, encoding="utf-8")
        return
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    draft.write_text(text, encoding="utf-8")
    draft.replace(path)


def same_settings(path: Path, settings: Mapping[str, Any], what: str) -> None:
    """Keeps what ``what`` in the file's folder is made with. Raises FolderError where it was made with something
    else."""
    if not path.exists():
        write_whole(path, json.dumps(settings, indent=2) + "\n")
        return
    if other := changes(json.loads(path.read_text()), json.loads(json.dumps(settings))):
        raise FolderError(f"{path.parent} holds {what} with other settings ({'; '.join(other)}); name another folder")


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs between two tables, those within them included: a text for each key."""
    then, new = _flat(before), _flat(now)
    return [
        f"{key}: {then.get(key)!r} then, {new.get(key)!r} now"
        for key in sorted({*then, *new})
        if then.get(key) != new.get(key)
    ]


def _flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in table.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return flat


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """While it lasts, no other process writes into the folder, which is made if need be; a command that runs inside
    another one may hold the folder once more. Raises FolderError.

    A record lock (fcntl) on the folder's file `.lock`: the kernel lets go of it however the process ends, children made
    by fork do not have it, and NFS passes it on to other machines. Where a filesystem has no locks, the folder is used
    without one, and that is said."""
    whole = folder.resolve()
    if whole in _held:
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    # Nothing else of this process may open that file: a record lock ends when any descriptor of its file is closed.
    with (folder / LOCK).open("a+", encoding="utf-8") as file:
        _lock(file.fileno(), folder)
        file.truncate(0)
        file.write(f"pid {os.getpid()} on {socket.gethostname()}: {shlex.join(['zeroth', *sys.argv[1:]])}\n")
        file.flush()
        _held.add(whole)
        try:
            yield
        finally:
            _held.remove(whole)


def _lock(descriptor: int, folder: Path) -> None:
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        who = (folder / LOCK).read_text(encoding="utf-8").strip()
        raise FolderError(
            f"{folder}: another process writes into this folder ({who}); wait for its end, stop it, or name another "
            "folder"
        ) from None
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        console.say(f"{folder}: this filesystem has no locks ({error.strerror}); see to it that no second process runs")
