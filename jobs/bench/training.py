"""`zeroth bench step --gpu`: a training step of a 3.4-billion-weight DeepSeek-V3 on one GPU, in BF16 and in FP8, beside
transformers' model of the same shape in the same run.

All take the same number of random tokens, in sequences of the same length. Forward and backward passes are timed apart
from the whole step, which adds clipping, AdamW and the routing bias and which transformers' model is not asked for.
Ours are measured in both orders, for a card that is hot lowers its clock, and a figure is the mean of its two.
With several trainers there is instead a whole step of one beside that of so many, one a GPU, which have as many tokens
each and add their gradients up.
Operations are those that the model needs: two a multiply-add of every product that a token goes through, thrice for
forward and backward, and attention's over the tokens before it; recomputation is not counted. The limit is the
vendor's dense BF16 rate, for FP8 too.
"""

# torch leaves events and some tensor methods untyped.
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jobs import console
from jobs.bench import rollout
from jobs.bench.publish import seeing_one_gpu
from jobs.config import Precision

if TYPE_CHECKING:
    from socket import socket

    from rich.table import Table

    from model.config import ModelConfig
    from model.policy import Policy
    from model.transport import Meeting

BF16_TFLOPS = 989.0
"""Dense BF16 of an H100 or H200 SXM, from the vendor's datasheet."""
LARGE: dict[str, Any] = {**rollout.SHAPES["3b"], "initializer_range": 0.006}
"""Weights as DeepSeek-V3 begins with: how evenly a router spreads tokens depends on them."""


PRECISIONS: tuple[Precision, ...] = ("bf16", "fp8")
RIVAL, BF16, FP8 = "transformers, bf16", "zeroth, bf16", "zeroth, fp8"


@dataclass(frozen=True)
class Work:
    """``sequences`` of ``tokens`` tokens each; ``steps`` are timed after two that are not."""

    config: ModelConfig
    sequences: int
    tokens: int
    steps: int
    device: str = "cuda"

    @property
    def total(self) -> int:
        return self.sequences * self.tokens


def measure(sequences: int, tokens: int, steps: int, trainers: int) -> dict[str, Any]:
    """Needs as many CUDA devices as trainers; raises RecipeError where there are fewer."""
    import torch

    from jobs.config import RecipeError
    from model.config import ModelConfig

    if torch.cuda.device_count() < trainers:
        there = torch.cuda.device_count()
        raise RecipeError(f"zeroth bench step --gpu needs a CUDA device a trainer, {trainers}, and torch sees {there}")
    work = Work(ModelConfig(**LARGE), sequences, tokens, steps)
    rows = compare(work) if trainers == 1 else scale(work, trainers)
    return {
        "bench": "training step" if trainers == 1 else "trainers",
        "gpu": torch.cuda.get_device_name(),
        "shape": {**LARGE, "sequences": sequences, "tokens": tokens, "teraflops": flops(work) / 1e12},
        "steps": rows,
    }


def table(results: dict[str, Any]) -> Table:
    from rich.table import Table

    if results["bench"] == "trainers":
        shown = Table("3B, whole step", "tokens/s", "milliseconds", "of as many times one trainer's speed", "peak GiB")
        for name, row in results["steps"].items():
            shown.add_row(name, f"{row['tokens_per_s']:,.0f}", f"{1e3 * row['step_seconds']:.0f}",
                          f"{row['efficiency']:.0%}", f"{row['peak_gib']:.1f}")  # fmt: skip
        return shown
    shown = Table(
        "3B, forward + backward", "tokens/s", "BF16 utilisation", "peak GiB", "times transformers'", "whole step"
    )
    for name, row in results["steps"].items():
        whole = f"{row['step_seconds'] * 1e3:.0f} ms" if "step_seconds" in row else "-"
        shown.add_row(name, f"{row['tokens_per_s']:,.0f}", f"{row['utilisation']:.1%}", f"{row['peak_gib']:.1f}",
                      f"{row['ratio']:.2f}", whole)  # fmt: skip
    return shown


def compare(work: Work) -> dict[str, dict[str, float]]:
    runs = {RIVAL: lambda: theirs(work), BF16: lambda: ours(work, "bf16"), FP8: lambda: ours(work, "fp8")}
    found: dict[str, list[dict[str, float]]] = {name: [] for name in runs}
    for name in (RIVAL, BF16, FP8, FP8, BF16):
        console.say(f"measuring {name}")
        found[name].append(runs[name]())
        rollout.free()
    rows = {name: {key: statistics.mean(run[key] for run in of) for key in of[0]} for name, of in found.items()}
    for row in rows.values():
        row["tokens_per_s"] = work.total / row["seconds"]
        row["utilisation"] = flops(work) / row["seconds"] / 1e12 / BF16_TFLOPS
        row["ratio"] = rows[RIVAL]["seconds"] / row["seconds"]
    return rows


def scale(work: Work, trainers: int) -> dict[str, dict[str, float]]:
    rows: dict[str, dict[str, float]] = {}
    for precision in PRECISIONS:
        for count in (1, trainers):
            name = f"{precision}, {count} trainers" if count > 1 else f"{precision}, one trainer"
            console.say(f"measuring {name}")
            row = rows[name] = together(work, precision, count)
            row["tokens_per_s"] = count * work.total / row["step_seconds"]
            row["efficiency"] = rows[f"{precision}, one trainer"]["step_seconds"] / row["step_seconds"]
            rollout.free()
    return rows


def together(work: Work, precision: Precision, trainers: int) -> dict[str, float]:
    """Seconds of a whole step that ``trainers`` share, this process as the first."""
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

    policy = make_policy(work, precision)
    if meeting.size > 1:
        policy.ranks = Ranks(meeting, rank, policy.model.device, listener)
    return {"step_seconds": _median(whole(policy, gradients(work, policy)), work.steps), **_memory()}


def flops(work: Work) -> float:
    """Of one forward and backward pass."""
    from model import budget

    return 3 * math.fsum(budget.forward_flops(work.config, work.total, work.tokens / 2).values())


def ours(work: Work, precision: Precision) -> dict[str, float]:
    """Seconds of forward and backward and of the whole step, and the peak of memory in GiB."""
    policy = make_policy(work, precision)
    gradient = gradients(work, policy)
    step = _median(whole(policy, gradient), work.steps)
    return {"step_seconds": step, "seconds": _median(gradient, work.steps, policy), **_memory()}


def whole(policy: Policy, gradient: Callable[[], None]) -> Callable[[], None]:
    def step() -> None:
        gradient()
        policy.apply()

    return step


def gradients(work: Work, policy: Policy) -> Callable[[], None]:
    """What makes them, of random tokens."""
    import torch

    from model.segments import Segments

    device, tokens = policy.model.device, _random_tokens(work)
    segments = Segments.of([work.tokens] * work.sequences, device)
    at = torch.arange(work.total, device=device).view(-1, work.tokens)[:, :-1].flatten()
    targets = tokens[at + 1]

    def gradient() -> None:
        out = policy.forward(tokens, segments, at, targets, 1.0)
        policy.backward(-out.logp.mean(), out.routing)

    return gradient


def make_policy(work: Work, precision: Precision) -> Policy:
    import torch

    from model.policy import OptimizerSettings, Policy
    from model.tokenizer import train
    from model.transformer import Transformer

    torch.manual_seed(0)
    with torch.device(work.device):
        model = Transformer(work.config)
    return Policy(model, train(["a"], 300), OptimizerSettings(lr=1e-5, moments="bf16"), precision)


def theirs(work: Work) -> dict[str, float]:
    """transformers' model with BF16 weights, grouped products for its experts and torch's attention."""
    import torch
    from transformers import AutoModelForCausalLM, DeepseekV3Config

    from model.config import to_hf

    torch.manual_seed(0)
    with torch.device(work.device):
        model = AutoModelForCausalLM.from_config(
            DeepseekV3Config(**{k: v for k, v in to_hf(work.config).items() if k != "model_type"}),
            dtype=torch.bfloat16, attn_implementation="sdpa", experts_implementation="grouped_mm",
        )  # fmt: skip
    model.train()
    tokens = _random_tokens(work).view(work.sequences, work.tokens)

    def gradient() -> None:
        model.zero_grad()
        model(input_ids=tokens, labels=tokens, use_cache=False).loss.backward()

    return {"seconds": _median(gradient, work.steps), **_memory()}


def _random_tokens(work: Work) -> Any:
    import torch

    return torch.randint(0, work.config.vocab_size, (work.total,), device=work.device)


def _median(call: Callable[[], None], steps: int, policy: Policy | None = None) -> float:
    """Seconds on the device, after two calls that are not timed. Gradients of ``policy`` are dropped between calls."""
    import torch

    timed = []
    for step in range(2 + steps):
        if policy is not None:
            policy.optimizer.zero_grad()
        marks = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda.synchronize()
        marks[0].record()
        call()
        marks[1].record()
        torch.cuda.synchronize()
        if step >= 2:
            timed.append(marks[0].elapsed_time(marks[1]) / 1e3)
    return float(statistics.median(timed))


def _memory() -> dict[str, float]:
    import torch

    return {"peak_gib": torch.cuda.max_memory_allocated() / 2**30}
