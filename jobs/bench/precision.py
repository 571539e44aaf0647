"""`zeroth bench precision`: what FP8 costs in loss. The same model is trained twice from the same weights on the same
text in the same order, in BF16 and in FP8, and the losses are compared in means over windows of steps, as single
batches differ by more than the precisions do.

DeepSeek-V3's report keeps the relative error below 0.25 % (section 3.3.1 and appendix B.1).
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jobs import console
from jobs.config import Precision, RecipeError
from jobs.options import AsJson, Out

if TYPE_CHECKING:
    from torch import Tensor

    from model.config import ModelConfig
    from model.tokenizer import Tokenizer

WINDOW = 50
SHAPE: dict[str, Any] = {
    "vocab_size": 8192, "hidden_size": 1024, "intermediate_size": 2816, "moe_intermediate_size": 384,
    "num_hidden_layers": 4, "num_attention_heads": 8, "q_lora_rank": 256, "kv_lora_rank": 512,
    "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128, "n_routed_experts": 64,
    "num_experts_per_tok": 6, "n_group": 8, "topk_group": 4, "routed_scaling_factor": 2.5, "initializer_range": 0.02,
}  # fmt: skip


def command(
    documents: Annotated[Path, typer.Option(help='JSONL of {"text"} objects.')],
    steps: Annotated[int, typer.Option(min=WINDOW)] = 1000,
    sequences: Annotated[int, typer.Option(min=1, help="Sequences of 512 tokens a step.")] = 16,
    seed: int = 0,
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """The loss of FP8 training beside BF16's on the same data, order and seed."""
    from rich.table import Table

    from jobs.bench import record
    from jobs.pretrain import documents as read

    results = record.stamped(measure(read(documents), steps, sequences, seed))
    if as_json or out:
        record.emit(results, out)
    table = Table("steps", "BF16 loss", "FP8 loss", "relative difference")
    for row in results["windows"]:
        table.add_row(row["steps"], f"{row['bf16']:.4f}", f"{row['fp8']:.4f}", f"{row['relative']:+.3%}")
    console.console.print(table)


def measure(texts: list[str], steps: int, sequences: int, seed: int, shape: dict[str, Any] | None = None) -> Any:
    """Raises RecipeError where the text is too short for one batch."""
    import torch

    from model.config import ModelConfig
    from model.tokenizer import train

    config = ModelConfig(**(shape or SHAPE))
    tokenizer = train([text[start : start + 10_000] for text in texts for start in range(0, len(text), 200_000)],
                      config.vocab_size)  # fmt: skip
    stream = torch.tensor([token for ids in tokenizer.encode_batch(texts) for token in (*ids, tokenizer.eos)])
    length = config.max_position_embeddings
    rows = stream[: len(stream) // length * length].view(-1, length)
    if len(rows) < sequences:
        raise RecipeError(f"the documents hold {len(stream)} tokens; a step takes {sequences * length}")
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))
    batches = [rows[order[torch.arange(i * sequences, (i + 1) * sequences) % len(rows)]] for i in range(steps)]
    runs = {name: losses(name, config, tokenizer, batches, seed) for name in ("bf16", "fp8")}
    return {
        "bench": "precision",
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "shape": {**(shape or SHAPE), "sequences": sequences, "tokens": length, "steps": steps, "seed": seed},
        "seconds": {name: run[1] for name, run in runs.items()},
        "windows": windows(runs["bf16"][0], runs["fp8"][0]),
    }


def windows(bf16: list[float], fp8: list[float]) -> list[dict[str, Any]]:
    """Means over each `WINDOW` steps, and the relative difference of the second from the first."""
    found = []
    for start in range(0, len(bf16) - WINDOW + 1, WINDOW):
        a, b = (sum(run[start : start + WINDOW]) / WINDOW for run in (bf16, fp8))
        found.append({"steps": f"{start + 1}-{start + WINDOW}", "bf16": a, "fp8": b, "relative": b / a - 1})
    return found


def losses(
    precision: Precision, config: ModelConfig, tokenizer: Tokenizer, batches: list[Tensor], seed: int
) -> tuple[list[float], float]:
    """Each step's loss in nats, and the seconds of all."""
    import torch

    from model.policy import OptimizerSettings, Policy
    from model.segments import Segments
    from model.transformer import build

    console.say(f"training {len(batches)} steps in {precision}")
    settings = OptimizerSettings(
        lr=6e-4, warmup_steps=len(batches) // 10, decay_steps=len(batches), weight_decay=0.1, moments="bf16"
    )
    policy = Policy(build(config, seed), tokenizer, settings, precision)
    device, (count, length) = policy.model.device, batches[0].shape
    segments = Segments.of([length] * count, device)
    at = torch.arange(count * length, device=device).view(-1, length)[:, :-1].flatten()
    started, found = time.perf_counter(), []
    for batch in batches:
        tokens = batch.flatten().to(device)
        out = policy.forward(tokens, segments, at, tokens[at + 1], 1.0)
        loss = -out.logp.mean()
        policy.backward(loss, out.routing)
        policy.apply()
        found.append(loss.detach())
    values = torch.stack(found).tolist()
    return values, time.perf_counter() - started
