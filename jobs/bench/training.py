"""`zeroth bench step --gpu`: a training step of a 3.4-billion-weight DeepSeek-V3 on one GPU, in BF16 and in FP8, beside
transformers' model of the same shape in the same run.

All take the same number of random tokens, in sequences of the same length. Forward and backward passes are timed apart
from the whole step, which adds clipping, AdamW and the routing bias and which transformers' model is not asked for.
Ours are measured in both orders, for a card that is hot lowers its clock, and a figure is the mean of its two.
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
from jobs.config import Precision, RecipeError

if TYPE_CHECKING:
    from rich.table import Table

    from model.config import ModelConfig
    from model.policy import Policy

BF16_TFLOPS = 989.0
"""Dense BF16 of an H100 or H200 SXM, from the vendor's datasheet."""
LARGE: dict[str, Any] = {**rollout.SHAPES["3b"], "initializer_range": 0.006}
"""Weights as DeepSeek-V3 begins with: how evenly a router spreads tokens depends on them."""


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


def measure(sequences: int, tokens: int, steps: int) -> dict[str, Any]:
    """Needs a CUDA device; raises RecipeError where there is none."""
    work = made(sequences, tokens, steps)
    return {"bench": "training step", **said(work), "steps": compare(work)}


def made(sequences: int, tokens: int, steps: int, gpus: int = 1) -> Work:
    """Raises RecipeError where there are fewer CUDA devices."""
    import torch

    from model.config import ModelConfig

    if (there := torch.cuda.device_count()) < gpus:
        raise RecipeError(f"zeroth bench step --gpu: {gpus} CUDA devices are wanted, and torch sees {there} here")
    return Work(ModelConfig(**LARGE), sequences, tokens, steps)


def said(work: Work) -> dict[str, Any]:
    import torch

    shape = {**LARGE, "sequences": work.sequences, "tokens": work.tokens, "teraflops": flops(work) / 1e12}
    return {"gpu": torch.cuda.get_device_name(), "shape": shape}


def table(results: dict[str, Any]) -> Table:
    from rich.table import Table

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


def flops(work: Work) -> float:
    """Of one forward and backward pass."""
    from model import budget

    return 3 * math.fsum(budget.forward_flops(work.config, work.total, work.tokens / 2).values())


def ours(work: Work, precision: Precision) -> dict[str, float]:
    """Seconds of forward and backward and of the whole step, and the peak of memory in GiB."""
    policy = make_policy(work, precision)
    gradient = gradients(work, policy)
    step = median(whole(policy, gradient), work.steps)
    return {"step_seconds": step, "seconds": median(gradient, work.steps, policy), **memory()}


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

    return {"seconds": median(gradient, work.steps), **memory()}


def _random_tokens(work: Work) -> Any:
    import torch

    return torch.randint(0, work.config.vocab_size, (work.total,), device=work.device)


def median(call: Callable[[], None], steps: int, policy: Policy | None = None) -> float:
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


def memory() -> dict[str, float]:
    import torch

    return {"peak_gib": torch.cuda.max_memory_allocated() / 2**30}
