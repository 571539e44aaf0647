"""`zeroth bench rollout`: tokens a second of the native engine beside vLLM's on the same shape, prompts and lengths, in
one run; and how far the engine's log-probabilities are from the trainer's.

Weights are random unless a checkpoint is named; no completion ends before its length. A run before the one that is
timed records graphs and compiles kernels (of 8 tokens a sequence for vLLM, which does both as it starts). The time to
the first token is that of a whole batch, from prompts to every sequence's first token. vLLM is given its weights as it
makes them up itself, in BF16 (``vllm``) or block FP8 (``vllm-fp8``), and returns the log-probability of each sampled
token. It compiles, and records CUDA graphs, as it does by default, but of fewer batch sizes (those of the loads and
every 32nd below), since each makes its start longer. Neither engine keeps a prompt's cache for the next run of the same
prompts.

Every figure is written to ``--out`` as soon as it is known: a run that is ended early keeps those that it had.
"""

# torch leaves some functions untyped.
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import gc
import importlib
import importlib.util
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jobs import console
from jobs.bench import kernels, record
from jobs.bench.record import Log
from jobs.config import Precision, RecipeError, counts_of, names_of, precision_of
from jobs.options import AsJson, Out, by_device

if TYPE_CHECKING:
    from model.config import ModelConfig
    from model.sampling import Sampled, Start
    from model.transformer import Transformer

FLOPS = 0.99e15
"""Dense BF16 of an H100 or H200 SXM, from the vendor's datasheet."""
SHAPES: dict[str, dict[str, Any]] = {
    "3b": {
        "vocab_size": 32768, "hidden_size": 2048, "intermediate_size": 5632, "moe_intermediate_size": 512,
        "num_hidden_layers": 16, "num_attention_heads": 16, "q_lora_rank": 768, "kv_lora_rank": 512,
        "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128, "n_routed_experts": 64,
        "num_experts_per_tok": 6, "n_group": 8, "topk_group": 4, "routed_scaling_factor": 2.5,
        "max_position_embeddings": 4096, "rope_original_max_position_embeddings": 4096, "initializer_range": 0.02,
    },
    "tiny": {
        "vocab_size": 2048, "hidden_size": 256, "intermediate_size": 512, "moe_intermediate_size": 128,
        "num_attention_heads": 4, "q_lora_rank": 128, "kv_lora_rank": 512, "qk_nope_head_dim": 32,
        "qk_rope_head_dim": 64, "v_head_dim": 64, "n_routed_experts": 16, "num_experts_per_tok": 4, "n_group": 4,
        "topk_group": 2, "routed_scaling_factor": 2.5, "max_position_embeddings": 2048,
        "rope_original_max_position_embeddings": 2048, "initializer_range": 0.05,
    },
}  # fmt: skip
"""The shape that GPU figures are quoted for (3.42 billion parameters), and one for CPUs."""
ENGINES = ("native-fp32", "native-bf16", "native-fp8", "vllm", "vllm-fp8")
SCORED_AT_ONCE = 32


@dataclass(frozen=True)
class Usual:
    """What is measured where nothing else is asked for."""

    shape: str
    engines: str
    sequences: str
    new_tokens: int


ON_GPU = Usual("3b", "native-fp8,vllm,native-bf16", "512,64", 512)
ON_CPU = Usual("tiny", "native-fp32,vllm,native-fp8", "64,8", 64)
"""A few minutes on two cores."""


@dataclass(frozen=True)
class Load:
    """Sequences to sample: their prompts and how many tokens each takes. ``at_once`` may be in flight together."""

    name: str
    prompts: list[tuple[int, ...]]
    lengths: list[int]
    at_once: int


def command(
    shape: Annotated[
        str | None, typer.Option(help=f"One of {', '.join(SHAPES)}; {by_device(ON_GPU.shape, ON_CPU.shape)}.")
    ] = None,
    checkpoint: Annotated[Path | None, typer.Option(help="Sample this checkpoint instead of random weights.")] = None,
    documents: Annotated[Path | None, typer.Option(help="With a checkpoint: JSONL whose texts begin prompts.")] = None,
    engines: Annotated[
        str | None,
        typer.Option(
            help=f"With commas between, in the order in which they run, of {', '.join(ENGINES)}; "
            f"{by_device(ON_GPU.engines, ON_CPU.engines)}."
        ),
    ] = None,
    sequences: Annotated[
        str | None,
        typer.Option(help=f"Batch sizes, with commas between; {by_device(ON_GPU.sequences, ON_CPU.sequences)}."),
    ] = None,
    prompt_tokens: Annotated[int, typer.Option(min=2)] = 128,
    new_tokens: Annotated[
        int | None, typer.Option(min=1, help=f"Of each; {by_device(ON_GPU.new_tokens, ON_CPU.new_tokens)}.")
    ] = None,
    long_tail: Annotated[
        bool, typer.Option(help="Also lengths from 16 up with a long tail, twice the largest batch.")
    ] = True,
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """The native engine beside vLLM, and the trainer's log-probabilities beside the engine's."""
    import torch

    usual = ON_GPU if torch.cuda.is_available() else ON_CPU
    wanted = names_of(engines or usual.engines, ENGINES, "--engines")
    subject = subject_of(shape or usual.shape, checkpoint, documents)
    sizes = counts_of(sequences or usual.sequences, "--sequences")
    loads = _loads(subject, sizes, prompt_tokens, new_tokens or usual.new_tokens, long_tail)
    log = Log(record.stamped({}), out)
    measure(subject, wanted, loads, log)
    if as_json or out:
        record.emit(log.results, out)
    _show(log.results)


@dataclass(frozen=True)
class Subject:
    """What is sampled: a checkpoint's folder and documents, or a shape with random weights."""

    name: str
    config: ModelConfig
    folder: Path | None
    documents: Path | None


def subject_of(shape: str, checkpoint: Path | None, documents: Path | None, *, endless: bool = True) -> Subject:
    """``endless``: no completion ends before its length."""
    from model import checkpoint as checkpoints
    from model.config import ModelConfig

    if checkpoint is not None:
        config, name = checkpoints.shape(checkpoint)[0], str(checkpoint)
    elif shape in SHAPES:
        config, name = ModelConfig(**SHAPES[shape]), shape
    else:
        raise RecipeError(f"--shape is one of {', '.join(SHAPES)}, not {shape!r}")
    return Subject(name, replace(config, eos_token_id=-1) if endless else config, checkpoint, documents)


def _loads(subject: Subject, sizes: Sequence[int], prompt: int, new: int, long_tail: bool) -> list[Load]:
    import numpy as np

    context = subject.config.max_position_embeddings
    if prompt + new > context:
        raise RecipeError(f"{prompt} tokens and {new} more exceed the model's context of {context}")
    largest = max(sizes)
    prompts = prompts_of(subject, 2 * largest, prompt)
    loads = [Load(f"{n} x ({prompt} + {new})", prompts[:n], [new] * n, n) for n in sizes]
    if long_tail:
        drawn = np.random.default_rng(0).lognormal(np.log(new / 2), 0.8, 2 * largest)
        lengths = [int(n) for n in drawn.clip(16, min(4 * new, context - prompt))]
        loads.append(Load(f"{2 * largest} x ({prompt} + {min(lengths)} to {max(lengths)})", prompts, lengths, largest))
    return loads


def prompts_of(subject: Subject, count: int, tokens: int) -> list[tuple[int, ...]]:
    import numpy as np

    from model import checkpoint

    if subject.folder is None or subject.documents is None:
        drawn = np.random.default_rng(1).integers(2, subject.config.vocab_size, (count, tokens))
        return [tuple(row) for row in drawn.tolist()]
    _, tokenizer = checkpoint.shape(subject.folder)
    texts = [json.loads(line)["text"] for line in subject.documents.read_text(encoding="utf-8").splitlines()]
    found = [tuple(ids[:tokens]) for text in texts if len(ids := tokenizer.encode(text)) >= tokens]
    if not found:
        raise RecipeError(f"{subject.documents}: no text is {tokens} tokens long; set --prompt-tokens lower")
    return [found[i % len(found)] for i in range(count)]


def measure(subject: Subject, wanted: Sequence[str], loads: Sequence[Load], log: Log) -> None:
    """Each engine of ``wanted`` on each load, one after another, into the log."""
    import torch

    cuda = torch.cuda.is_available()
    if "vllm-fp8" in wanted and not cuda:
        raise RecipeError("--engines: vllm-fp8 needs a CUDA device, and torch sees none on this machine")
    engines: dict[str, Any] = {}
    log.results |= {
        "bench": "rollout",
        "shape": subject.name,
        "device": torch.cuda.get_device_name() if cuda else "cpu",
        "loads": [load.name for load in loads],
        "engines": engines,
        "copy_bytes_per_second": None,
        "limits_tokens_per_second": None,
        "without_vllm": None if any(map(_is_vllm, wanted)) else "not asked for",
    }
    log.keep()
    for name in wanted:
        if not _is_vllm(name):
            _native(subject, precision_of(name.removeprefix("native-")), loads, log)
        elif importlib.util.find_spec("vllm") is None:
            log.results["without_vllm"] = "not installed here"
        else:
            precision: Precision = "fp8" if name == "vllm-fp8" else "bf16" if cuda else "fp32"
            row = engines[f"vLLM, {precision}"] = {"loads": {}}
            _theirs(subject, loads, precision, row, log)
    log.keep()


def _is_vllm(engine: str) -> bool:
    return engine.startswith("vllm")


def _native(subject: Subject, precision: Precision, loads: Sequence[Load], log: Log) -> None:
    import torch

    cuda = torch.cuda.is_available()
    model = model_of(subject, "cuda" if cuda else "cpu")
    if cuda:
        bandwidth = log.results["copy_bytes_per_second"] or kernels.copy_bandwidth(kernels.make_clock(100)) * 1e9
        limits = log.results["limits_tokens_per_second"] or {load.name: {} for load in loads}
        for load in loads:
            limits[load.name][precision] = _limit(model, load, precision, bandwidth)
        log.results |= {"copy_bytes_per_second": bandwidth, "limits_tokens_per_second": limits}
    for draft in (False, True)[: 1 + bool(model.mtp)]:
        name = f"native, {precision}" + (", drafts" if draft else "")
        log.say(name)
        row: dict[str, Any] = {"loads": {}}
        log.results["engines"][name] = row
        _ours(model, precision, loads, row, log, draft=draft)
        free()
    del model
    free()


def model_of(subject: Subject, device: str) -> Transformer:
    """FP32 masters, as a trainer has them."""
    import torch

    from model import checkpoint
    from model.transformer import Transformer

    torch.manual_seed(0)
    if subject.folder is not None:
        model, _ = checkpoint.load(subject.folder)
        model.c = subject.config
        return model.to(device)
    with torch.device(device):
        return Transformer(subject.config)


def free() -> None:
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def _starts(load: Load, cut: int | None) -> list[Start]:
    from model.sampling import Start

    rows = zip(load.prompts, load.lengths, strict=True)
    return [Start(ids, seed, None, min(n, cut or n)) for seed, (ids, n) in enumerate(rows)]


def _found(row: dict[str, Any], load: Load, figures: dict[str, Any], log: Log) -> None:
    row["loads"][load.name] = figures
    log.say(f"  {load.name}: {figures['tokens_per_second']:,.0f} tokens/s")
    log.keep()


def _ours(
    model: Transformer, precision: Precision, loads: Sequence[Load], row: dict[str, Any], log: Log, *, draft: bool
) -> None:
    """Each load's figures into ``row``, and on a GPU the largest gap to the trainer's log-probabilities."""
    import torch

    if not torch.cuda.is_available():
        from model.drafting import DraftedWaves
        from model.waves import Waves

        for load in loads:
            model.use(precision)
            waves: Waves | DraftedWaves = Waves(model, load.at_once, False)
            if draft:
                waves = DraftedWaves(model, load.at_once, False)
            _found(row, load, _timed(load, waves, draft=draft)[0], log)
        return
    from model.exact import Exact
    from model.graphs import Graphs

    exact = Exact(model, precision)
    row["weights_gib"] = exact.served.bytes() / 2**30
    graphs = Graphs(exact.served, max(load.at_once for load in loads), cache_bytes=60 << 30, draft=draft)
    for load in loads:
        graphs.max_rows = load.at_once
        figures, sampled = _timed(load, graphs, draft=draft)
        _found(row, load, {**figures, "peak_gib": torch.cuda.max_memory_allocated() / 2**30}, log)
        if "trainer" not in row:
            row["trainer"] = _gap(exact, load, sampled)
            log.keep()


def _timed(load: Load, engine: Any, *, draft: bool) -> tuple[dict[str, Any], list[Sampled]]:
    """A load's figures with `model.waves.Waves`, `model.drafting.DraftedWaves` or `model.graphs.Graphs`, and what the
    timed run sampled."""
    import torch

    from model.engine import Sampling

    def run(cut: int | None) -> tuple[float, list[Sampled]]:
        starts = _starts(load, cut)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        started = time.perf_counter()
        sampled = engine.sample(starts, Sampling())
        return time.perf_counter() - started, sampled

    run(None)
    seconds, sampled = run(None)
    steps = _steps(engine.tally) if draft else {}  # before the next call, which has a tally of its own
    run(1)
    tokens = sum(len(row.tokens) for row in sampled)
    first = min(run(1)[0], run(1)[0])
    figures = {"tokens": tokens, "seconds": seconds, "tokens_per_second": tokens / seconds, "first_token_s": first}
    return figures | steps, sampled


def _steps(tally: Any) -> dict[str, float]:
    """Of guesses, how many were right: a row's step gives one token, and one more where its guess was right."""
    return {"tokens_per_step": tally.tokens / tally.row_steps, "accepted": tally.tokens / tally.row_steps - 1}


def _gap(exact: Any, load: Load, sampled: Sequence[Sampled]) -> dict[str, Any]:
    """The engine's log-probabilities beside the trainer's, which runs whole sequences."""
    import torch

    from model.segments import Segments

    device, gaps, seconds, count = exact.model.device, [], time.perf_counter(), 0
    for first in range(0, len(sampled), SCORED_AT_ONCE):
        part = slice(first, first + SCORED_AT_ONCE)
        rows = [(*ids, *row.tokens) for ids, row in zip(load.prompts[part], sampled[part], strict=True)]
        segments = Segments.of([len(row) - 1 for row in rows], device)
        with torch.no_grad():
            hidden = exact.forward(torch.tensor([t for row in rows for t in row[:-1]], device=device), segments).hidden
            following = torch.tensor([t for row in rows for t in row[1:]], device=device)
            logp, _ = exact.token_logprobs(hidden, following, 1.0)
        at = torch.cat(
            [torch.arange(len(r)) >= len(p) - 1 for r, p in zip((r[1:] for r in rows), load.prompts[part], strict=True)]
        )
        engine = torch.tensor([x for row in sampled[part] for x in row.logprobs])
        gaps.append((logp.cpu()[at] - engine).abs())
        count += len(following)
    every = torch.cat(gaps)
    torch.cuda.synchronize()
    return {
        "tokens": len(every), "max_gap": float(every.max()), "differing": int((every != 0).sum()),
        "scored_tokens_per_second": count / (time.perf_counter() - seconds),
    }  # fmt: skip


def _limit(model: Transformer, load: Load, precision: Precision, bandwidth: float) -> float:
    """Tokens a second if each step read the weights and the cache once at a copy's ``bandwidth``, or did its arithmetic
    at full rate, whichever takes longer. With many sequences every expert is read at every step."""
    c, size = model.c, 1 if precision == "fp8" else 2
    matrices = sum(
        p.numel() for n, p in model.named_parameters() if p.dim() > 1 and "embed" not in n and "mtp" not in n
    )
    expert = 3 * c.hidden_size * c.moe_intermediate_size
    layers = c.num_hidden_layers - c.first_k_dense_replace
    active = matrices - layers * (c.n_routed_experts - c.num_experts_per_tok) * expert
    rows = load.at_once
    context = len(load.prompts[0]) + sum(load.lengths) / len(load.lengths) / 2
    cache = rows * context * c.num_hidden_layers * (c.kv_lora_rank + c.qk_rope_head_dim) * 2
    moved = (matrices * size + cache) / bandwidth
    return rows / max(moved, 2 * active * rows / FLOPS)


def _theirs(subject: Subject, loads: Sequence[Load], precision: Precision, row: dict[str, Any], log: Log) -> None:
    """vLLM's figures into ``row``; one engine samples all loads. In FP8 it multiplies by its own kernels: DeepGEMM's
    would be compiled one by one, for minutes, while it samples."""
    from model.checkpoint import QUANTIZATION
    from model.config import to_hf
    from model.vllm_engine import environment

    log.say(f"vLLM, {precision}")
    started = time.perf_counter()
    # vLLM finds what it has compiled before by the folder's name, among others.
    folder = Path(tempfile.gettempdir()) / f"zeroth-bench-rollout-{subject.name.replace('/', '-')}-{precision}"
    folder.mkdir(exist_ok=True)
    values = {**to_hf(subject.config), "eos_token_id": 1, "num_nextn_predict_layers": 0, "torch_dtype": "bfloat16"}
    if precision == "fp8":
        values["quantization_config"] = QUANTIZATION
    (folder / "config.json").write_text(json.dumps(values))
    longest = max(len(p) + n for load in loads for p, n in zip(load.prompts, load.lengths, strict=True))
    on_gpu = {"dtype": "bfloat16", "gpu_memory_utilization": 0.8, "compilation_config": _graphs(loads)}
    with environment(subject.config, precision, {"VLLM_USE_DEEP_GEMM": "0"} if precision == "fp8" else {}):
        vllm = importlib.import_module("vllm")
        engine = vllm.LLM(
            model=str(folder), skip_tokenizer_init=True, load_format="dummy", max_model_len=longest + 1,
            max_num_seqs=max(load.at_once for load in loads), enable_prefix_caching=False,
            **(on_gpu if precision != "fp32" else {"dtype": "float32", "enforce_eager": True}),
        )  # fmt: skip
    row["ready_s"] = time.perf_counter() - started
    log.say(f"  ready after {row['ready_s']:.0f} s")
    log.keep()
    for load in loads:
        _found(row, load, _timed_vllm(vllm, engine, load), log)
    engine.llm_engine.engine_core.shutdown()


def _graphs(loads: Sequence[Load]) -> dict[str, list[int]]:
    """The batch sizes that vLLM records CUDA graphs of; it fills a batch up to the next."""
    rows = [load.at_once for load in loads]
    few = [size for size in (1, 2, 4, 8, 16) if size < max(rows)]
    return {"cudagraph_capture_sizes": sorted({*few, *range(32, max(rows), 32), *rows})}


def _timed_vllm(vllm: Any, engine: Any, load: Load) -> dict[str, Any]:
    def run(cut: int | None) -> tuple[float, int]:
        limits = [min(n, cut or n) for n in load.lengths]
        settings = [
            vllm.SamplingParams(temperature=1.0, max_tokens=n, ignore_eos=True, logprobs=0, detokenize=False, seed=None)
            for n in limits
        ]
        prompts = [{"prompt_token_ids": list(ids)} for ids in load.prompts]
        started = time.perf_counter()
        done = engine.generate(prompts, settings, use_tqdm=False)
        return time.perf_counter() - started, sum(len(one.outputs[0].token_ids) for one in done)

    run(8)
    seconds, tokens = run(None)
    first = min(run(1)[0], run(1)[0])
    return {"tokens": tokens, "seconds": seconds, "tokens_per_second": tokens / seconds, "first_token_s": first}


def _show(results: dict[str, Any]) -> None:
    from rich.table import Table

    table = Table("engine", "load", "tokens/s", "times vLLM's", "first token, ms", "of the limit", "tokens a step")
    rivals = [engine["loads"] for name, engine in results["engines"].items() if name.startswith("vLLM")]
    limits: dict[str, dict[str, float]] = results["limits_tokens_per_second"] or {}
    for name, engine in results["engines"].items():
        for load, row in engine["loads"].items():
            speed = row["tokens_per_second"]
            best = max((loads[load]["tokens_per_second"] for loads in rivals if load in loads), default=None)
            times = f"{speed / best:.2f}" if best else "-"
            limit = next((v for p, v in limits.get(load, {}).items() if p in name), None)
            share = f"{speed / limit:.0%}" if limit and name.startswith("native") else "-"
            steps = f"{row['tokens_per_step']:.2f}" if "tokens_per_step" in row else "-"
            table.add_row(name, load, f"{speed:,.0f}", times, f"{row['first_token_s'] * 1e3:,.0f}", share, steps)
    console.console.print(table)
    for name, engine in results["engines"].items():
        if gap := engine.get("trainer"):
            console.say(f"{name}: max |dlogp| to the trainer {gap['max_gap']:g} over {gap['tokens']:,} sampled tokens")
    if results["without_vllm"]:
        console.say(f"vLLM was not run: {results['without_vllm']}")
