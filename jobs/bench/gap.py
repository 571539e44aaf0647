"""`zeroth bench gap`: how far an engine's log-probabilities are from the trainer's, for the tokens that the engine has
sampled with the trainer's weights; first with the trainer's own routes, then with the engine's replayed
(arXiv:2510.11370).

Engine "exact" is the native engine beside a trainer with the engine's own kernels; the others are beside the trainer's
usual ones. ``kl`` is the k3 estimate of KL(sampler, trainer) a token, ``routes_differ`` the share of tokens
whose routes differ in some layer.
"""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jobs import console
from jobs.bench import record, rollout
from jobs.bench.record import Log
from jobs.config import Precision, names_of, precisions_of
from jobs.options import AsJson, Out, by_device

if TYPE_CHECKING:
    from jobs.bench.rollout import Subject
    from model.engine import Completion, Engine, Request
    from model.policy import Policy
    from model.tokenizer import Tokenizer
    from model.transformer import Transformer

ENGINES = ("exact", "native", "vllm")
SCORED_TOKENS = 16384
"""Of one pass of the trainer."""


@dataclass(frozen=True)
class Usual:
    """What is measured where nothing else is asked for."""

    shape: str
    precisions: str
    engines: str
    new_tokens: int


ON_GPU = Usual("3b", "bf16,fp8", "native,vllm", 256)
ON_CPU = Usual("tiny", "fp32,fp8", "native", 64)
"""A few minutes on two cores."""


def command(
    shape: Annotated[
        str | None,
        typer.Option(help=f"One of {', '.join(rollout.SHAPES)}; {by_device(ON_GPU.shape, ON_CPU.shape)}."),
    ] = None,
    checkpoint: Annotated[Path | None, typer.Option(help="This checkpoint instead of random weights.")] = None,
    documents: Annotated[Path | None, typer.Option(help="With a checkpoint: JSONL whose texts begin prompts.")] = None,
    precisions: Annotated[
        str | None, typer.Option(help=f"With commas between; {by_device(ON_GPU.precisions, ON_CPU.precisions)}.")
    ] = None,
    engines: Annotated[
        str | None,
        typer.Option(
            help=f"With commas between, of {', '.join(ENGINES)}; {by_device(ON_GPU.engines, ON_CPU.engines)}."
        ),
    ] = None,
    prompts: Annotated[int, typer.Option(min=1)] = 32,
    samples: Annotated[int, typer.Option(min=1, help="Of each prompt.")] = 8,
    prompt_tokens: Annotated[int, typer.Option(min=2)] = 128,
    new_tokens: Annotated[
        int | None, typer.Option(min=1, help=f"Of each; {by_device(ON_GPU.new_tokens, ON_CPU.new_tokens)}.")
    ] = None,
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """Sampler and trainer on the same tokens, before and after the sampler's routes are replayed."""
    import torch
    from rich.table import Table

    from model.engine import Request

    usual = ON_GPU if torch.cuda.is_available() else ON_CPU
    wanted = names_of(engines or usual.engines, ENGINES, "--engines")
    subject = rollout.subject_of(shape or usual.shape, checkpoint, documents, endless=False)
    requests = [
        Request(ids, tuple(range(i * samples, (i + 1) * samples)))
        for i, ids in enumerate(rollout.prompts_of(subject, prompts, prompt_tokens))
    ]
    log = Log(record.stamped({}), out)
    chosen = precisions_of(precisions or usual.precisions)
    measure(subject, wanted, chosen, requests, new_tokens or usual.new_tokens, log)
    if as_json or out:
        record.emit(log.results, out)
    table = Table("engine", "routes", "tokens", "mean |dlogp|", "max |dlogp|", "KL", "routes differ")
    for row in log.results["gaps"]:
        differ = "-" if row["routes_differ"] is None else f"{row['routes_differ']:.2%}"
        table.add_row(
            row["engine"], row["routes"], f"{row['tokens']:,}", f"{row['mean']:.2e}", f"{row['max']:.2e}",
            f"{row['kl']:.1e}", differ,
        )  # fmt: skip
    console.console.print(table)


def measure(
    subject: Subject,
    engines: Sequence[str],
    precisions: Sequence[Precision],
    requests: Sequence[Request],
    new: int,
    log: Log,
) -> None:
    """Raises EngineError or PolicyError where an engine or the exact trainer cannot run on this machine."""
    import torch

    from model.engine import Sampling
    from model.tokenizer import train

    cuda = torch.cuda.is_available()
    if "vllm" in engines:
        from model.vllm_engine import check_precision

        for precision in precisions:
            check_precision(precision, gpu=cuda)
    model, tokenizer = rollout.model_of(subject, "cuda" if cuda else "cpu"), train(["a"], 300)
    rows: list[dict[str, Any]] = []
    log.results |= {
        "bench": "gap",
        "shape": subject.name,
        "device": torch.cuda.get_device_name() if cuda else "cpu",
        "sequences": sum(len(request.seeds) for request in requests),
        "gaps": rows,
    }
    log.keep()
    for precision in precisions:
        for name in engines:
            log.say(f"{name}, {precision}")
            policy = _policy(model, tokenizer, precision, exact=name == "exact")
            with _engine(name, policy, precision) as engine:
                groups = asyncio.run(_sampled(engine, policy, precision, requests, Sampling(max_tokens=new)))
            for replay in (False, True):
                found = gap(policy, requests, groups, replay=replay)
                if found is not None:
                    rows.append({"engine": f"{name}, {precision}", "routes": "replayed" if replay else "own", **found})
            log.keep()
            del policy
            rollout.free()


async def _sampled(
    engine: Engine, policy: Policy, precision: Precision, requests: Sequence[Request], sampling: Any
) -> list[list[Completion]]:
    await engine.publish(policy.publish(precision))
    return await engine.generate(requests, sampling)


def gap(
    policy: Policy, requests: Sequence[Request], groups: Sequence[Sequence[Completion]], *, replay: bool
) -> dict[str, Any] | None:
    """Of every sampled token; None where routes are to be replayed that the engine has not told."""
    import torch

    from rl.batch import pack
    from rl.problems import Draw, Problem
    from rl.rollout import Group
    from rl.step import routes_differ

    draw = Draw(Problem("", "", "", {}), 0)
    whole = [
        Group(draw, request.prompt_ids, tuple(group), (), (1.0,) * len(group))
        for request, group in zip(requests, groups, strict=True)
    ]
    gaps, known, differ = [], 0, 0
    for micro in (micro for mini in pack(whole, max_tokens=SCORED_TOKENS, minibatches=1, by="token") for micro in mini):
        if replay and micro.routes is None:
            return None
        with torch.no_grad():
            out = policy.forward(
                micro.tokens, micro.segments, micro.at, micro.targets, 1.0, micro.routes if replay else None
            )
        gaps.append(out.logp.float().cpu() - micro.sampled)
        if micro.routes is not None:
            one, other = routes_differ(out.routing, micro.routes)
            known, differ = known + one, differ + other
    d = torch.cat(gaps)
    return {
        "tokens": len(d), "mean": float(d.abs().mean()), "max": float(d.abs().max()),
        "kl": float((d.exp() - d - 1).mean()), "routes_differ": differ / known if known else None,
    }  # fmt: skip


def _policy(model: Transformer, tokenizer: Tokenizer, precision: Precision, *, exact: bool) -> Policy:
    from model.policy import OptimizerSettings, Policy

    return Policy(model, tokenizer, OptimizerSettings(), precision, exact=precision if exact else None)


@contextmanager
def _engine(name: str, policy: Policy, precision: Precision) -> Iterator[Engine]:
    """An engine of the policy's shape that records routes, where it can."""
    from model.config import to_hf
    from model.native import NativeEngine

    config, device = policy.model.c, policy.model.device
    if name != "vllm":
        yield NativeEngine(config, policy.tokenizer, device=device.type, record_routes=True)
        return
    from model.vllm_engine import VllmEngine

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "config.json").write_text(json.dumps({**to_hf(config), "dtype": "float32"}))
        policy.tokenizer.save(folder)
        on_gpu = device.type == "cuda"
        arguments = {"gpu_memory_utilization": 0.4, "enforce_eager": True} if on_gpu else {}
        os.environ.setdefault("VLLM_DEEP_GEMM_WARMUP", "skip")  # which compiles for minutes what is never met here
        engine = VllmEngine(folder, precision, record_routes=on_gpu, arguments=arguments)
        try:
            yield engine
        finally:
            asyncio.run(engine.close())
