"""Hostile programs: each gets a verdict that is right for it, reaches nothing, and leaves nothing behind."""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from sandbox import kernel
from tests.sandbox.attacks import ATTACKS, Attack
from tests.sandbox.conftest import Bench

SECRET = "the secret outside"


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """Things outside that a program would like to reach."""
    folder = tmp_path_factory.mktemp("outside")
    folder.chmod(0o777)
    mark = folder / "mark"
    mark.write_text(SECRET)
    mark.chmod(0o666)
    path = folder / "socket"
    abstract = f"zeroth-test-{id(folder)}"
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as unix:
        with socket.socket(socket.AF_UNIX) as hidden:
            unix.bind(str(path))
            unix.listen()
            path.chmod(0o777)
            hidden.bind(f"\0{abstract}")
            hidden.listen()
            yield SimpleNamespace(
                mark=mark, spot=folder / "spot", socket=path, port=server.getsockname()[1], abstract=abstract
            )


def _fill(code: str, outside: SimpleNamespace) -> str:
    for word, value in (
        ("MARK", outside.mark),
        ("SPOT", outside.spot),
        ("SOCKET'", f"{outside.socket}'"),
        ("PORT", outside.port),
        ("ABSTRACT", outside.abstract),
    ):
        code = code.replace(word, str(value))
    return code


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.id)
def test_attack_gets_its_verdict_and_reaches_nothing(attack: Attack, bench: Bench, outside: SimpleNamespace) -> None:
    if "call(" in attack.code and kernel.MACHINE != "x86_64":
        pytest.skip("written with x86_64 call numbers")
    before = bench.holdings()
    verdict = bench.judge(_fill(attack.code, outside), attack.tests)
    assert verdict.status in attack.expected, verdict
    assert verdict.passed < max(1, verdict.total)
    assert "ESCAPED" not in verdict.stdout
    assert SECRET not in verdict.stdout + verdict.stderr
    assert not outside.spot.exists()
    assert outside.mark.read_text() == SECRET
    assert bench.holdings() == before
    assert bench.judge("import os; print(sorted(os.listdir('/tmp')))").stdout == "['solution.py']\n"


def test_there_are_enough_of_each_family() -> None:
    families = Counter(attack.family for attack in ATTACKS)
    assert len(ATTACKS) >= 80
    assert min(families.values()) >= 5
    assert len({attack.id for attack in ATTACKS}) == len(ATTACKS)


def test_secret_file_is_readable_outside(outside: SimpleNamespace) -> None:
    """Without this the attacks on it would prove nothing."""
    assert Path(outside.mark).read_text() == SECRET
    socket.create_connection(("127.0.0.1", outside.port), 1).close()
