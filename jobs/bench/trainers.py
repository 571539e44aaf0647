"""`zeroth bench step --gpu --trainers N`: a training step of a 3.4-billion-weight DeepSeek-V3 that N processes share,
one a GPU, beside that of one, with as many tokens for each. A step is forward and backward passes, the sum of gradients
over all, clipping, AdamW and the routing bias; who is slower than the others is waited for in it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jobs.bench import rollout, training
from jobs.bench.publish import seeing_one_gpu
from jobs.config import Precision

if TYPE_CHECKING:
    from socket import socket

    from rich.table import Table

    from jobs.bench.record import Log
    from jobs.bench.training import Work
    from model.transport import Meeting

PRECISIONS: tuple[Precision, ...] = ("bf16", "fp8")


def measure(sequences: int, tokens: int, steps: int, trainers: int, log: Log) -> None:
    """Raises RecipeError where there are fewer CUDA devices than trainers."""
    work = training.made(sequences, tokens, steps, trainers)
    rows: dict[str, dict[str, float]] = {}
    log.results |= {"bench": "trainers", **training.said(work), "steps": rows}
    for precision in PRECISIONS:
        for count in (1, trainers):
            row = together(work, precision, count)
            name = f"{precision}, {count} trainer" + "s" * (count > 1)
            rows[name] = {**row, "tokens_per_s": count * work.total / row["step_seconds"]}
            rows[name]["efficiency"] = rows[f"{precision}, 1 trainer"]["step_seconds"] / row["step_seconds"]
            log.say(f"{name}: {1e3 * row['step_seconds']:.0f} ms")
            log.keep()
            rollout.free()


def together(work: Work, precision: Precision, trainers: int) -> dict[str, float]:
    """Seconds of a step, and the peak of memory in GiB, in this process as the first of them."""
    import torch

    from model import transport

    listener = transport.listening("127.0.0.1")
    host, port, *_ = listener.getsockname()
    meeting = transport.Meeting(host, port, trainers, True, 300.0)
    processes = torch.multiprocessing.get_context("spawn")
    others = [processes.Process(target=share, args=(work, precision, meeting, rank)) for rank in range(1, trainers)]
    for rank, process in enumerate(others, 1):
        with seeing_one_gpu(rank):
            process.start()
    found = share(work, precision, meeting, 0, listener)
    for process in others:
        process.join()
    return found


def share(
    work: Work, precision: Precision, meeting: Meeting, rank: int, listener: socket | None = None
) -> dict[str, float]:
    from model.ranks import Ranks

    policy = training.make_policy(work, precision)
    if meeting.size > 1:
        policy.ranks = Ranks(meeting, rank, policy.model.device, listener)
    step = training.whole(policy, training.gradients(work, policy))
    return {"step_seconds": training.median(step, work.steps), **training.memory()}


def table(results: dict[str, dict[str, dict[str, float]]]) -> Table:
    from rich.table import Table

    shown = Table("3B, whole step", "tokens/s", "ms", "of as many times one trainer's speed", "peak GiB")
    for name, row in results["steps"].items():
        shown.add_row(name, f"{row['tokens_per_s']:,.0f}", f"{1e3 * row['step_seconds']:.0f}",
                      f"{row['efficiency']:.0%}", f"{row['peak_gib']:.1f}")  # fmt: skip
    return shown
