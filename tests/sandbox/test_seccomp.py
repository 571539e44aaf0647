"""The seccomp filter's two parts together answer as the one full list, for every call that a program can make."""

from __future__ import annotations

import struct

import pytest

from sandbox import kernel, seccomp

ARCHITECTURE = 0xC000003E if kernel.MACHINE == "x86_64" else 0xC00000B7
OTHER_ARCHITECTURE = 0x40000003  # i386
ARGUMENTS = [0, 1, 2, 3, 17, 0x5412, 0x541C, 0x5401, 0x10000000, 0x00020000, 0x20000011, 0xFFFFFFFF]
NUMBERS = [*range(520), 0x40000000, 0x40000027, 0xFFFFFFFF]


def answer(program: bytes, architecture: int, number: int, first: int, second: int) -> int:
    """What the kernel's interpreter of classic BPF returns for one call."""
    memory = {0: number, 4: architecture, 16: first, 24: second}
    code = list(struct.iter_unpack("HBBI", program))
    accumulator, position = 0, 0
    while True:
        operation, if_true, if_false, value = code[position]
        position += 1
        if operation == 0x20:
            accumulator = memory[value]
        elif operation == 0x06:
            return value
        else:
            tests = {0x15: accumulator == value, 0x35: accumulator >= value, 0x45: bool(accumulator & value)}
            position += if_true if tests[operation] else if_false


def strictest(answers: list[int]) -> int:
    """The kernel compares actions as signed numbers: KILL_PROCESS is the lowest, ALLOW the highest."""
    return min(answers, key=lambda value: struct.unpack("i", struct.pack("I", value & 0xFFFF0000))[0])


@pytest.mark.parametrize("architecture", [ARCHITECTURE, OTHER_ARCHITECTURE])
def test_two_parts_answer_as_the_full_list(architecture: int) -> None:
    full, parts = seccomp.full_list(), (seccomp.zygote_part(), seccomp.run_part())
    for number in NUMBERS:
        for value in ARGUMENTS:
            call = (architecture, number, value, value)
            assert strictest([answer(part, *call) for part in parts]) == answer(full, *call), call


def test_full_list_ends_a_program_that_mounts() -> None:
    mount = 165 if kernel.MACHINE == "x86_64" else 40
    assert answer(seccomp.full_list(), ARCHITECTURE, mount, 0, 0) == 0x80000000
    assert answer(seccomp.zygote_part(), ARCHITECTURE, mount, 0, 0) == 0x7FFF0000
