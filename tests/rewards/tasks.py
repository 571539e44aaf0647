"""What the tests have worker processes do."""

import math
import os
import time


def run(what, *arguments):
    return {
        "echo": lambda value: value,
        "pid": os.getpid,
        "nap": _nap,
        "raise": _raise,
        "spin": _spin,
        "sleep": lambda: time.sleep(600),
        "bigint": lambda: math.factorial(10**9),
        "exit": lambda: os._exit(3),
        "allocate": lambda megabytes: len(b"x" * (megabytes << 20)),
    }[what](*arguments)


def _nap():
    time.sleep(1.0)
    return os.getpid()


def _raise(text):
    raise ValueError(text)


def _spin():
    while True:
        pass
