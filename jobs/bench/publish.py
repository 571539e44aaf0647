"""`zeroth bench publish`: how long new weights take from trainer to engine, beside a plain copy of as many bytes, and
which share of it is spent on proving that they arrived; or a soak of many publishes with sampling in between.

Each way is measured with its proof (digests on both sides, the probe on both sides) and, in turn with that, without.
The model has random weights. "in process": trainer and native engine share this process. "CUDA IPC": the engine is a
process of its own on the same GPU. "NCCL", "Gloo": it is one on another GPU, or on a CPU, and weights are broadcast.
"object store": two processes under Ray, as `zeroth grpo` places them. "files in memory": the same with vLLM as the
engine.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from jobs import config, console
from jobs.bench import rollout
from jobs.config import GrpoRecipe, Precision, RecipeError, precisions_of
from jobs.options import AsJson, Out

if TYPE_CHECKING:
    from jobs.cluster import Cluster
    from model.config import ModelConfig
    from model.publish import Part
    from model.transformer import Transformer
    from model.transport import Meeting

SHAPES: dict[str, dict[str, Any]] = {
    **rollout.SHAPES,
    "60m": {
        "vocab_size": 4096, "hidden_size": 512, "intermediate_size": 1024, "moe_intermediate_size": 256,
        "num_hidden_layers": 8, "num_attention_heads": 8, "q_lora_rank": 256, "kv_lora_rank": 128,
        "qk_nope_head_dim": 64, "qk_rope_head_dim": 32, "v_head_dim": 64, "n_routed_experts": 16,
        "num_experts_per_tok": 4, "max_position_embeddings": 512, "rope_original_max_position_embeddings": 512,
    },
}  # fmt: skip


class Times(NamedTuple):
    """Seconds on the clock in the trainer and in the engine, and of processors in both."""

    trainer: float
    engine: float
    cpu: float

    @property
    def both(self) -> float:
        return self.trainer + self.engine


def command(
    shape: Annotated[str, typer.Option(help=", ".join(SHAPES) + "; by default 60m, with --gpu 3b.")] = "",
    precisions: Annotated[str, typer.Option(help="Of the published weights, with commas between.")] = "bf16,fp8",
    repeats: Annotated[int, typer.Option(min=1, help="Timed publishes of each way; the fastest counts.")] = 5,
    gpu: Annotated[bool, typer.Option("--gpu", help="Trainer and engine on a GPU.")] = False,
    vllm: Annotated[bool, typer.Option("--vllm", help="Also to vLLM.")] = False,
    soak: Annotated[int, typer.Option(help="Instead: so many publishes in a row, with sampling in between.")] = 0,
    engine: Annotated[str, typer.Option(help="Of the soak: native or vllm.")] = "native",
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """A publish beside a plain copy, and the share of its proof; or a soak."""
    from jobs.bench import record
    from jobs.bench.publishes import run_soak

    if soak:
        results = record.stamped({"bench": "publishes", **run_soak(soak, engine)})
        record.emit(results, out)
        return
    name = shape or ("3b" if gpu else "60m")
    if name not in SHAPES:
        raise RecipeError(f"--shape is one of {', '.join(SHAPES)}, not {name!r}")
    results = record.stamped(measure(name, precisions_of(precisions), repeats, gpu, vllm))
    if as_json or out:
        record.emit(results, out)
    _show(results)


def measure(shape: str, precisions: Sequence[Precision], repeats: int, gpu: bool, vllm: bool) -> dict[str, Any]:
    import torch

    from model.config import ModelConfig

    if gpu and not torch.cuda.is_available():
        raise RecipeError("--gpu: there is no CUDA device")
    subject = rollout.Subject(shape, ModelConfig(**SHAPES[shape]), None, None)
    model = rollout.model_of(subject, "cuda" if gpu else "cpu")
    rows: dict[str, Any] = {}
    with ExitStack() as stack:
        ways = gpu_ways() if gpu else cpu_ways(stack, vllm)
        for precision in precisions:
            for name, way in ways.items():
                console.say(f"{name}, {precision}")
                with way(model, precision) as publish:
                    row = timed(publish, repeats)
                rollout.free()
                rows[f"{name}, {precision}"] = {**row, **copied(row["bytes"], repeats, *devices_of(name, gpu))}
                rollout.free()
    return {
        "bench": "publish",
        "shape": shape,
        "parameters": sum(p.numel() for p in model.parameters()),
        "device": torch.cuda.get_device_name() if gpu else "cpu",
        "devices": torch.cuda.device_count() if gpu else 0,
        "ways": rows,
    }


def gpu_ways() -> dict[str, Way]:
    """Those that this machine's GPUs allow."""
    import torch

    ways: dict[str, Way] = {"in process": in_process, "CUDA IPC": partial(two_processes, broadcast=False)}
    if torch.cuda.device_count() > 1:
        ways["NCCL"] = partial(two_processes, broadcast=True)
    return ways


def cpu_ways(stack: ExitStack, vllm: bool) -> dict[str, Way]:
    from jobs import cluster

    ray = stack.enter_context(cluster.connect(None, 2))
    ways: dict[str, Way] = {
        "in process": in_process,
        "Gloo": partial(two_processes, broadcast=True),
        "object store": partial(under_ray, ray, "native"),
    }
    return ways | ({"files in memory (vLLM)": partial(under_ray, ray, "vllm")} if vllm else {})


def devices_of(name: str, gpu: bool) -> tuple[str, str]:
    """From where to where a way's bytes go."""
    return ("cuda:0", "cuda:1" if name == "NCCL" else "cuda:0") if gpu else ("cpu", "cpu")


Publish = Callable[[bool], tuple[Times, int]]
"""One publish, with its proof or without; the bytes that it moved."""
Way = Callable[["Transformer", Precision], AbstractContextManager[Publish]]


def timed(publish: Publish, repeats: int) -> dict[str, Any]:
    """The fastest of each kind, measured in turn."""
    found: dict[bool, list[Times]] = {True: [], False: []}
    size = 0
    for round_ in range(repeats + 1):
        for proof in (True, False):
            times, size = publish(proof)
            if round_:
                found[proof].append(times)
    best = min(found[True], key=lambda times: times.both)
    bare = min(found[False], key=lambda times: times.both)
    cpu, cpu_bare = (min(times.cpu for times in found[proof]) for proof in (True, False))
    return {
        "bytes": size,
        "seconds": best.both,
        "seconds_trainer": best.trainer,
        "seconds_engine": best.engine,
        "seconds_without_proof": bare.both,
        "cpu_seconds": cpu,
        "cpu_seconds_without_proof": cpu_bare,
        "proof_share": 1 - bare.both / best.both,
        "cpu_proof_share": 1 - cpu_bare / cpu,
        "bytes_per_second": size / best.both,
    }


def copied(size: int, repeats: int, source: str, target: str) -> dict[str, float]:
    """The limit: as many bytes copied once, from one device to the other; and one digest of them."""
    import torch

    from model.digest import digests

    sent, taken = (torch.ones(size, dtype=torch.uint8, device=device) for device in (source, target))
    return {
        "seconds_copy": fastest(lambda: taken.copy_(sent), repeats, sent.is_cuda),
        "seconds_digest": fastest(lambda: digests({"": sent}), repeats, sent.is_cuda),
    }


def fastest(work: Callable[[], Any], repeats: int, gpu: bool) -> float:
    seconds = []
    for _ in range(repeats + 1):
        _wait(gpu)
        started = time.perf_counter()
        work()
        _wait(gpu)
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def _wait(gpu: bool) -> None:
    import torch

    if gpu:
        torch.cuda.synchronize()


@contextmanager
def in_process(model: Transformer, precision: Precision) -> Iterator[Publish]:
    import torch

    from model import publish
    from model.native import NativeEngine
    from model.tokenizer import train

    gpu = model.device.type == "cuda"
    torch.set_num_threads(1)
    engine = NativeEngine(model.c, train(["a"], 300), device=model.device.type)

    def once(proof: bool) -> tuple[Times, int]:
        before, began = time.process_time(), time.perf_counter()
        weights = publish.publish(model, 1, precision, proof=proof)
        _wait(gpu)
        made = time.perf_counter()
        asyncio.run(engine.publish(weights))
        _wait(gpu)
        ended = time.perf_counter()
        return Times(made - began, ended - made, time.process_time() - before), size_of(weights.parts)

    yield once


@contextmanager
def two_processes(model: Transformer, precision: Precision, *, broadcast: bool) -> Iterator[Publish]:
    """The engine on another GPU for a broadcast, else on the same."""
    import torch

    from model import publish, transport

    gpu = model.device.type == "cuda"
    torch.set_num_threads(1)
    listener = transport.listening("127.0.0.1")
    host, port, *_ = listener.getsockname()
    meeting = transport.Meeting(host, port, 2, gpu, 120.0) if broadcast else None
    processes = torch.multiprocessing.get_context("spawn")
    ours, theirs = processes.Pipe()
    engine = processes.Process(target=engine_process, args=(theirs, model.c, model.device.type, meeting), daemon=True)
    with seeing_one_gpu(int(broadcast)):
        engine.start()
    theirs.close()
    sender = transport.Shared() if meeting is None else transport.Broadcast(meeting, 0, listener)

    def once(proof: bool) -> tuple[Times, int]:
        ours.send(None)
        before, began = ours.recv() + time.process_time(), time.perf_counter()
        weights: Any = publish.publish(model, 1, precision, sender.place, proof=proof)
        _wait(gpu)
        made = time.perf_counter()
        ours.send(weights)
        sender.send(weights.parts.number)
        theirs = ours.recv()
        ended = time.perf_counter()
        size = sum(piece.nbytes for piece in sender.kept[weights.parts.number])
        sender.release(weights.parts.number)
        return Times(made - began, ended - made, theirs + time.process_time() - before), size

    try:
        yield once
    finally:
        ours.close()
        engine.join()


def engine_process(trainer: Any, config: ModelConfig, device: str, meeting: Meeting | None) -> None:
    """Takes the weights that come through a connection, answering each with its processor's seconds so far."""
    import torch

    from model.native import NativeEngine
    from model.tokenizer import train
    from model.transport import Broadcast

    torch.set_num_threads(1)
    engine = NativeEngine(config, train(["a"], 300), device=device)
    member = None if meeting is None else Broadcast(meeting, 1)
    while True:
        try:
            weights = trainer.recv()
        except EOFError:
            return
        if weights is not None:
            if member is not None:
                weights = replace(weights, parts=member.received(weights.parts))
            asyncio.run(engine.publish(weights))
            _wait(device == "cuda")
        trainer.send(time.process_time())


@contextmanager
def seeing_one_gpu(number: int) -> Iterator[None]:
    """For processes that are started meanwhile."""
    before = os.environ.get("CUDA_VISIBLE_DEVICES")
    os.environ["CUDA_VISIBLE_DEVICES"] = before.split(",")[number] if before else str(number)
    try:
        yield
    finally:
        del os.environ["CUDA_VISIBLE_DEVICES"]
        os.environ.update({} if before is None else {"CUDA_VISIBLE_DEVICES": before})


@contextmanager
def under_ray(ray: Cluster, engine: str, model: Transformer, precision: Precision) -> Iterator[Publish]:
    from jobs import cluster

    with tempfile.TemporaryDirectory() as scratch:
        recipe = recipe_of(Path(scratch), model, engine, precision)
        trainer, workers = ray.trainer(recipe), ray.engine(recipe)
        loop = asyncio.new_event_loop()

        def run(work: Awaitable[Any]) -> Any:
            return loop.run_until_complete(work)

        def spent() -> float:
            total = 0.0
            for actor in (trainer.actor, *workers.actors):
                total += run(cluster.inside(actor, lambda _: time.process_time()))
            return total

        def once(proof: bool) -> tuple[Times, int]:
            before, began = spent(), time.perf_counter()
            weights = run(trainer.publish(proof))
            made = time.perf_counter()
            run(workers.publish(weights))
            ended = time.perf_counter()
            return Times(made - began, ended - made, spent() - before), size_of(weights.parts)

        yield once
        run(workers.close())
        loop.close()


def recipe_of(folder: Path, model: Transformer, engine: str, precision: Precision) -> GrpoRecipe:
    """A recipe of a run from this model, which is written into the folder."""
    from model import checkpoint
    from model.tokenizer import train

    checkpoint.save(model, train(["a"], 300), folder)
    return config.build(
        {
            "base": str(folder),
            "run": {"dir": str(folder / "run")},
            "data": {"train": str(folder / "none")},
            "train": {"steps": 1},
            "optimizer": {"lr": 1e-3},
            "rollout": {"engine": engine},
            "precision": {"rollout": precision},
        },
        GrpoRecipe,
        "bench",
    )


def size_of(parts: Iterable[Part]) -> int:
    return sum(tensor.nbytes for part in parts for tensor in part.tensors.values())


def _show(results: dict[str, Any]) -> None:
    from rich.table import Table

    table = Table("publish", "MB", "seconds", "trainer", "engine", "MB/s", "times a copy", "proof", "proof, CPU")
    for name, row in results["ways"].items():
        table.add_row(name, *cells(row))
    console.console.print(table)


def cells(row: dict[str, float]) -> list[str]:
    return [
        f"{row['bytes'] / 1e6:,.0f}",
        *(f"{row[key]:.3f}" for key in ("seconds", "seconds_trainer", "seconds_engine")),
        f"{row['bytes_per_second'] / 1e6:,.0f}",
        f"{row['seconds'] / row['seconds_copy']:.1f}",
        *(f"{row[key]:.0%}" for key in ("proof_share", "cpu_proof_share")),
    ]
