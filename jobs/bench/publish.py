"""`zeroth bench publish`: how long new weights take from trainer to engine, beside a plain copy of as many bytes, and
which share of it is spent on proving that they arrived; or a soak of many publishes with sampling in between.

A publish is timed from its beginning in the trainer until the engine is ready to sample. Each way is measured with its
proof (digests on both sides, the probe on both sides) and, in turn with that, without the digests, without the probe
and without both: what each costs is what is saved where it is left out. The model has random weights. "in process":
trainer and native engine share this process, and each part is taken as soon as it is made. "CUDA IPC": the engine is a
process of its own on the same GPU. "NCCL", "Gloo": it is one on another GPU, or on a CPU, and weights are broadcast.
"object store": two processes under Ray, as `zeroth grpo` places them. "files in memory": the same with vLLM as the
engine.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
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
    from jobs.bench.record import Log
    from jobs.cluster import Cluster, TrainerActor
    from model.config import ModelConfig
    from model.parts import Part
    from model.publish import Check
    from model.transformer import Transformer
    from model.transport import Meeting

Checks = tuple["Check", ...]
LEFT_OUT: dict[str, Checks] = {
    "nothing": ("digests", "probe"),
    "digests": ("probe",),
    "probe": ("digests",),
    "proof": (),
}
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
    """Seconds on the clock, and of processors in trainer and engine."""

    clock: float
    cpu: float


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
        record.emit(record.stamped({"bench": "publishes", **run_soak(soak, engine)}), out)
        return
    name = shape or ("3b" if gpu else "60m")
    if name not in SHAPES:
        raise RecipeError(f"--shape is one of {', '.join(SHAPES)}, not {name!r}")
    log = record.Log(record.stamped({}), out)
    measure(name, precisions_of(precisions), repeats, gpu, vllm, log)
    if as_json or out:
        record.emit(log.results, out)
    _show(log.results)


def measure(shape: str, precisions: Sequence[Precision], repeats: int, gpu: bool, vllm: bool, log: Log) -> None:
    import torch

    from model.config import ModelConfig

    if gpu and not torch.cuda.is_available():
        raise RecipeError("--gpu: there is no CUDA device")
    subject = rollout.Subject(shape, ModelConfig(**SHAPES[shape]), None, None)
    model = rollout.model_of(subject, "cuda" if gpu else "cpu")
    rows: dict[str, Any] = {}
    log.results |= {
        "bench": "publish",
        "shape": shape,
        "parameters": sum(p.numel() for p in model.parameters()),
        "device": torch.cuda.get_device_name() if gpu else "cpu",
        "devices": torch.cuda.device_count() if gpu else 0,
        "ways": rows,
    }
    with ExitStack() as stack:
        ways = gpu_ways() if gpu else cpu_ways(stack, vllm)
        for precision in precisions:
            for name, way in ways.items():
                log.say(f"{name}, {precision}")
                with way(model, precision) as publish:
                    row = {**timed(publish, repeats), "waits": waits(partial(publish, LEFT_OUT["nothing"]), gpu)}
                rollout.free()
                rows[f"{name}, {precision}"] = {**row, **copied(row["bytes"], repeats, *devices_of(name, gpu))}
                rollout.free()
                log.keep()


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


Publish = Callable[[Checks], tuple[Times, int]]
"""One publish with these checks; the bytes that it moved."""
Way = Callable[["Transformer", Precision], AbstractContextManager[Publish]]


def timed(publish: Publish, repeats: int) -> dict[str, Any]:
    """The fastest of each kind, measured in turn."""
    found: dict[str, list[Times]] = {name: [] for name in LEFT_OUT}
    size = 0
    for round_ in range(repeats + 1):
        for name, checks in LEFT_OUT.items():
            times, size = publish(checks)
            if round_:
                found[name].append(times)
    least = {name: Times(*map(min, zip(*times, strict=True))) for name, times in found.items()}
    whole, bare = least["nothing"], least["proof"]
    return {
        "bytes": size,
        "seconds": whole.clock,
        "seconds_without_proof": bare.clock,
        "cpu_seconds": whole.cpu,
        "cpu_seconds_without_proof": bare.cpu,
        "proof_share": 1 - bare.clock / whole.clock,
        "cpu_proof_share": 1 - bare.cpu / whole.cpu,
        "bytes_per_second": size / whole.clock,
        "left_out": {name: times._asdict() for name, times in least.items()},
        "saved": {name: whole.clock - least[name].clock for name in ("digests", "probe")},
        "medians": {name: statistics.median(each.clock for each in times) for name, times in found.items()},
    }


def copied(size: int, repeats: int, source: str, target: str) -> dict[str, float]:
    """The limit: as many bytes copied once, from one device to the other; and one digest of them."""
    import torch

    from model.digest import digests, kind_on

    sent, taken = (torch.ones(size, dtype=torch.uint8, device=device) for device in (source, target))
    return {
        "seconds_copy": fastest(lambda: taken.copy_(sent), repeats, sent.is_cuda),
        "seconds_digest": fastest(lambda: digests([sent], kind_on(sent.device)), repeats, sent.is_cuda),
    }


def fastest(work: Callable[[], Any], repeats: int, gpu: bool) -> float:
    seconds = []
    wait = waiting(gpu)
    for _ in range(repeats + 1):
        wait()
        started = time.perf_counter()
        work()
        wait()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def waiting(gpu: bool) -> Callable[[], None]:
    """For what is launched here, as what samples will be. (To wait for the whole device takes 50 us where there is
    nothing to wait for, and to look for this stream 15.)"""
    import torch

    return torch.cuda.current_stream().synchronize if gpu else lambda: None


def waits(work: Callable[[], Any], gpu: bool) -> int:
    """How often this process waits for its GPU, as torch says it, but for the end of a publish."""
    import torch

    if not gpu:
        return 0
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            work()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchronizing" in str(warning.message) for warning in said)


@contextmanager
def in_process(model: Transformer, precision: Precision) -> Iterator[Publish]:
    import torch

    from model import publish
    from model.native import NativeEngine
    from model.tokenizer import train

    gpu = model.device.type == "cuda"
    torch.set_num_threads(1)
    engine = NativeEngine(model.c, train(["a"], 300), device=model.device.type)
    wait = waiting(gpu)

    def once(checks: Checks) -> tuple[Times, int]:
        sizes: list[int] = []

        def lazily(parts: Iterable[Part]) -> Iterator[Part]:
            for part in parts:
                sizes.append(part.piece.nbytes)
                yield part

        async def work() -> Times:
            before, began = time.process_time(), time.perf_counter()
            settings = publish.PublishSettings(to_kernels=True, checks=checks)
            await engine.publish(publish.publish(model, 1, precision, lazily, settings))
            wait()
            return Times(time.perf_counter() - began, time.process_time() - before)

        return runner.run(work()), sum(sizes)

    with asyncio.Runner() as runner:
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

    def once(checks: Checks) -> tuple[Times, int]:
        ours.send(None)
        before, began = ours.recv() + time.process_time(), time.perf_counter()
        settings = publish.PublishSettings(to_kernels=True, checks=checks)
        weights: Any = publish.publish(model, 1, precision, sender.place, settings)
        ours.send(weights)
        sender.send(weights.parts.number)
        spent = ours.recv() + time.process_time() - before
        times = Times(time.perf_counter() - began, spent)
        size = size_of(part for part, _ in sender.kept[weights.parts.number])
        sender.release(weights.parts.number)
        return times, size

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
    wait = waiting(device == "cuda")

    async def work() -> None:
        while True:
            weights = trainer.recv()
            if weights is not None:
                if member is not None:
                    weights = replace(weights, parts=member.received(weights.parts))
                await engine.publish(weights)
                wait()
            trainer.send(time.process_time())

    with suppress(EOFError):
        asyncio.run(work())


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

        def once(checks: Checks) -> tuple[Times, int]:
            run(cluster.inside(trainer.actor, partial(_check, checks)))
            before, began = spent(), time.perf_counter()
            weights = run(trainer.publish())
            run(workers.publish(weights))
            clock = time.perf_counter() - began
            return Times(clock, spent() - before), size_of(weights.parts)

        yield once
        run(workers.close())
        loop.close()


def _check(checks: Checks, actor: TrainerActor) -> None:
    """From the next publish on."""
    actor.trainer.publish_settings = replace(actor.trainer.publish_settings, checks=checks)


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
    return sum(part.piece.nbytes for part in parts)


def _show(results: dict[str, Any]) -> None:
    from rich.table import Table

    table = Table("publish", "MB", "ms", "MB/s", "times a copy", "proof", "proof, CPU")
    parts = Table("milliseconds", "bare", *next(iter(results["ways"].values()))["saved"])
    for name, row in results["ways"].items():
        table.add_row(name, *cells(row))
        parts.add_row(name, *(f"{1e3 * t:.2f}" for t in (row["seconds_without_proof"], *row["saved"].values())))
    console.console.print(table)
    console.console.print(parts)


def cells(row: dict[str, float]) -> list[str]:
    return [
        f"{row['bytes'] / 1e6:,.0f}",
        f"{1e3 * row['seconds']:.1f}",
        f"{row['bytes_per_second'] / 1e6:,.0f}",
        f"{row['seconds'] / row['seconds_copy']:.1f}",
        *(f"{row[key]:.0%}" for key in ("proof_share", "cpu_proof_share")),
    ]
