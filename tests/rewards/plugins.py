"""Rewards as an outsider would write them."""

import asyncio
import time

import numpy as np

from rewards import Score


class Undecided:
    """Never knows."""

    async def __call__(self, samples):
        return [Score(None, "error", detail="cannot tell") for _ in samples]

    async def close(self):
        pass


class Slow:
    """Takes as many seconds as the response says."""

    async def __call__(self, samples):
        await asyncio.sleep(max(float(sample.response) for sample in samples))
        return [Score(1.0) for _ in samples]

    async def close(self):
        pass


def lengths(samples):
    """A plain function that answers plain numbers."""
    return [len(sample.response) for sample in samples]


def no_samples():
    return 1.0


def raising(samples):
    raise KeyError("no such thing")


def too_few(samples):
    return [1.0]


def exits(samples):
    raise SystemExit(3)  # as sys.exit does, whose place wandb gives to a function of its own


def infinite(samples):
    return [float("inf") for _ in samples]


def unwritable(samples):
    """With a part that no line of JSON holds."""
    return [Score(1.0, parts={"share": float("nan")}) for _ in samples]


def array(samples):
    """As NumPy users write them."""
    print("scoring")
    return np.ones(len(samples), np.float32)


def scalars(samples):
    return [Score(np.float32(0.5), parts={"words": np.int64(3)}) for _ in samples]


def words(samples):
    return ["good" for _ in samples]


def hanging(samples):
    if samples[0].response == "hang":
        time.sleep(60)
    return [1.0 for _ in samples]


async def sleeping(samples):
    await asyncio.sleep(600)


async def asynchronous(samples):
    return [0.5 for _ in samples]


NOT_CALLABLE = 7
