"""`zeroth eval`: what a checkpoint, an endpoint or a file of responses scores on suites of problems."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jobs import console
from jobs.config import RecipeError
from jobs.files import held, write_whole
from jobs.options import AsJson
from rl.problems import R1_ZERO, Problem

if TYPE_CHECKING:
    from jobs.evaluation.sources import Source
    from model.engine import Sampling
    from model.native import NativeEngine
    from model.vllm_engine import VllmEngine


class EvaluationError(RuntimeError):
    """An evaluation that tells nothing."""

    exit_status = 1


Suites = Mapping[str, Sequence[Problem]]


def command(
    checkpoint: Annotated[Path | None, typer.Argument(help="A checkpoint folder.")] = None,
    suite: Annotated[list[str] | None, typer.Option(help="FILE.jsonl, NAME or NAME=PATH; may be repeated.")] = None,
    data: Annotated[Path, typer.Option(help="The folder with the named suites' rows.")] = Path("data"),
    samples: Annotated[int, typer.Option(min=1, help="Completions a problem.")] = 1,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 is greedy.")] = 0.6,
    top_p: Annotated[float, typer.Option(min=0.0, max=1.0)] = 0.95,
    max_tokens: Annotated[int, typer.Option(min=1, help="New tokens a completion.")] = 1024,
    stop: Annotated[list[str] | None, typer.Option(help="A text that ends a completion; may be repeated.")] = None,
    seed: Annotated[int, typer.Option()] = 0,
    template: Annotated[
        str | None, typer.Option(help="Holds {prompt}; by default that of the checkpoint's run, or its chat template.")
    ] = None,
    precision: Annotated[str, typer.Option(help="fp32, bf16 or fp8.")] = "fp32",
    engine: Annotated[str, typer.Option(help="Of a checkpoint: native or vllm.")] = "native",
    rows: Annotated[int, typer.Option(min=1, help="Completions that an engine samples together.")] = 256,
    endpoint: Annotated[str | None, typer.Option(help="An OpenAI-compatible base URL instead of a checkpoint.")] = None,
    model: Annotated[str | None, typer.Option(help="The endpoint's name of the model.")] = None,
    api_key_env: Annotated[str, typer.Option(help="The variable with the endpoint's key.")] = "OPENAI_API_KEY",
    api_key_file: Annotated[Path | None, typer.Option(help="A file with the endpoint's key.")] = None,
    concurrency: Annotated[int, typer.Option(min=1, help="Requests open at the endpoint.")] = 16,
    retries: Annotated[int, typer.Option(min=0, help="New tries of a request that failed.")] = 6,
    timeout_s: Annotated[float, typer.Option(min=0.1, help="Seconds for one request.")] = 600.0,
    responses: Annotated[Path | None, typer.Option(help="Score these responses (JSONL) and sample nothing.")] = None,
    reference: Annotated[bool, typer.Option("--reference", help="Score the suites' own reference answers.")] = False,
    settings: Annotated[str, typer.Option(help='By reward, as JSON: {"code": {"limits": {...}}}.')] = "{}",
    out: Annotated[Path | None, typer.Option(help="Keep samples there; the same command goes on from them.")] = None,
    compare: Annotated[tuple[Path, Path] | None, typer.Option(help="Compare two --out folders instead.")] = None,
    as_json: AsJson = False,
) -> None:
    """Sample each problem of some suites and report pass@1, pass@k and cons@k with their 95 % intervals."""
    from jobs.evaluation import suites, summary
    from jobs.evaluation.sources import read_key
    from jobs.score import settings_of
    from model.engine import Sampling

    if compare is not None:
        compared = summary.compare_folders(*compare)
        console.console.print(summary.comparison_table(compared))
        if as_json:
            typer.echo(json.dumps({"first": str(compare[0]), "second": str(compare[1]), "suites": compared}, indent=2))
        return
    given = {"CHECKPOINT": checkpoint, "--endpoint": endpoint, "--responses": responses, "--reference": reference}
    chosen = [name for name, value in given.items() if value]
    if len(chosen) != 1 or not suite:
        raise RecipeError(f"zeroth eval needs --suite and one of {', '.join(given)}; given: {', '.join(chosen) or '-'}")
    problems = dict(suites.find(name, data) for name in suite)
    sampling = Sampling(temperature, top_p, max_tokens, tuple(stop or ()))
    if checkpoint is not None:
        evaluation = of_checkpoint(checkpoint, problems, samples, sampling, seed, template, precision, rows, engine)
    elif endpoint is not None:
        key = read_key(api_key_env, api_key_file)
        limits = {"concurrency": concurrency, "retries": retries, "timeout_s": timeout_s}
        evaluation = of_endpoint(endpoint, model, problems, samples, sampling, seed, template, key, limits)
    else:
        evaluation = of_responses(problems, responses)
    result = evaluate(evaluation, settings_of(settings), out)
    console.console.print(summary.table(result["suites"]))
    if as_json:
        typer.echo(json.dumps(result, indent=2))


@dataclass(frozen=True)
class Evaluation:
    """What is to be answered by what: ``copies`` responses to each problem, by id. ``settings`` say what the samples
    are samples of; ``close`` ends what was started to answer."""

    suites: Suites
    copies: Mapping[str, int]
    source: Source
    settings: Mapping[str, Any]
    close: Callable[[], Awaitable[None]] | None = None


def identity(checkpoint: Path) -> list[Any]:
    """What tells this checkpoint from another one that is later written to the same place."""
    files = sorted(checkpoint.glob("*.safetensors"))
    return [str(checkpoint.resolve()), *([file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files)]


def of_checkpoint(
    checkpoint: Path,
    suites: Suites,
    samples: int,
    sampling: Sampling,
    seed: int,
    template: str | None,
    precision: str,
    rows: int,
    engine_name: str = "native",
) -> Evaluation:
    """Sampling from an engine with the checkpoint's weights. Raises for a precision, a checkpoint or a prompt that it
    cannot take."""
    from jobs import loaded, parts
    from jobs.evaluation.sources import EngineSource

    makers: dict[str, Callable[..., NativeEngine | VllmEngine]]
    makers = {"native": loaded.loaded_engine, "vllm": loaded.loaded_vllm}
    if engine_name not in makers:
        raise RecipeError(f"--engine is one of {', '.join(makers)}, not {engine_name!r}")
    engine = makers[engine_name](checkpoint, precision, rows)
    layout = loaded.layout_of(checkpoint, engine.tokenizer, template, R1_ZERO)
    encode = parts.encoder(layout)
    for name, problems in suites.items():
        parts.check_lengths(problems, encode, engine.config.max_position_embeddings, name)
    source = EngineSource(engine, encode, sampling, seed, rows)
    what = {"checkpoint": identity(checkpoint), "template": layout.template or layout.chat, "precision": precision}
    what |= {"engine": engine_name} if engine_name != "native" else {}
    settings = {**what, "seed": seed, "sampling": asdict(sampling)}
    return Evaluation(suites, _each(suites, samples), source, settings, engine.close)


def of_endpoint(
    url: str,
    model: str | None,
    suites: Suites,
    samples: int,
    sampling: Sampling,
    seed: int,
    template: str | None,
    key: str | None,
    limits: Mapping[str, Any],
) -> Evaluation:
    """Asking an OpenAI-compatible endpoint."""
    from importlib.util import find_spec

    from jobs.evaluation.sources import EndpointSource

    if find_spec("httpx") is None:
        raise RecipeError("--endpoint needs the extra: pip install 'zeroth[eval]'")
    if not model:
        raise RecipeError("--endpoint needs --model NAME, the endpoint's name of the model")
    source = EndpointSource(url, model, sampling, seed, template, key, **limits)
    what = {"endpoint": url, "model": model, "template": template, "seed": seed, "sampling": asdict(sampling)}
    return Evaluation(suites, _each(suites, samples), source, what)


def of_responses(suites: Suites, path: Path | None) -> Evaluation:
    """Responses that exist: those of a file, or without one the suites' own references."""
    from jobs.evaluation.sources import GivenSource, read_responses, references

    everything = [problem for problems in suites.values() for problem in problems]
    texts = references(everything) if path is None else read_responses(path, everything)
    copies = {problem: len(given) for problem, given in texts.items()}
    return Evaluation(suites, copies, GivenSource(texts), {"responses": _digest(texts)})


def _each(suites: Suites, samples: int) -> dict[str, int]:
    return {problem.id: samples for problems in suites.values() for problem in problems}


def evaluate(evaluation: Evaluation, reward_settings: Mapping[str, Any], out: Path | None) -> dict[str, Any]:
    """Answers and scores what ``out`` does not hold yet, and sums everything up."""
    from jobs.evaluation import summary
    from jobs.evaluation.record import RESULT, Record
    from jobs.evaluation.sources import Wanted
    from rl.judge import Judge

    suites, copies = evaluation.suites, evaluation.copies
    names = {problem.reward for problems in suites.values() for problem in problems}
    judge = Judge(names, {}, {"code": {"workers": os.cpu_count() or 1}, **reward_settings})
    for name, problems in suites.items():
        judge.check(problems, name)
    wanted = [Wanted(name, p, copy) for name, part in suites.items() for p in part for copy in range(copies[p.id])]
    digests = {name: _digest([dict(problem.fields) for problem in problems]) for name, problems in suites.items()}
    settings = {**evaluation.settings, "rewards": reward_settings, "suites": digests}
    with held(out) if out else nullcontext():
        with Record(out, settings) as record:
            asyncio.run(answer(wanted, evaluation, judge, record))
            samples = [sample for sample in record.samples.values() if sample.copy < copies[sample.problem]]
        if all(sample.score is None for sample in samples):
            raise EvaluationError(f"no response could be judged; the first: {samples[0].detail}")
        result = {"settings": settings, "suites": summary.summary(samples)}
        if out is not None:
            write_whole(out / RESULT, json.dumps(result, indent=2) + "\n")
    return result


async def answer(wanted: Sequence[Any], evaluation: Evaluation, judge: Any, record: Any) -> None:
    """Answers, scores and records what is not recorded yet."""
    from rewards import Sample

    missing = [one for one in wanted if not record.has(one)]
    with console.progress() as bar:
        task = bar.add_task("eval", total=len(wanted), completed=len(wanted) - len(missing), note="")
        try:
            async for batch in evaluation.source.answers(missing):
                record.add(batch, await judge([Sample(one.problem.fields, given.text) for one, given in batch]))
                bar.advance(task, len(batch))
        finally:
            await judge.close()
            if evaluation.close is not None:
                await evaluation.close()


def _digest(value: Any) -> str:
    return hashlib.blake2b(json.dumps(value, sort_keys=True, default=str).encode(), digest_size=16).hexdigest()
