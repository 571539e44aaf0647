"""vLLM as an engine, through its own interfaces alone. Run with version 0.32 on CPUs.

vLLM lives in processes of its own; a thread of this one owns its client. New weights go to it part by part, through
files in memory: one is written while the one before is loaded, and none stays. In vLLM's workers a `WeightReceiver`
checks each part's digests and feeds `reload_weights`. Then vLLM's log-probabilities of the publish's probe are compared
with the trainer's.

Rows that begin with the same prompt share its cache. They are seeded one by one, but vLLM's arithmetic may change with
what else it samples at the same time: unlike the native engine's, its completions are not the same at every run.
"""

from __future__ import annotations

import asyncio
import dataclasses
import difflib
import hashlib
import itertools
import os
import re
import shutil
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, TypeVar

import numpy as np
import torch

from model import checkpoint, publish, receiver
from model.config import ModelConfig, Precision
from model.engine import Completion, EngineError, Request, Routes, Sampling
from model.parts import Part
from model.probe import Probed
from model.publish import Published, PublishError, Tolerance
from model.sampling import Sampled, Start, Stops, completed
from model.transport import SharedPart, SharedParts

T = TypeVar("T")
OnPublish = Literal["drained", "paused", "mixed"]
PAUSE = {"drained": "wait", "paused": "abort", "mixed": "keep"}
DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp8": "bfloat16"}
TOLERANCES = {"fp32": publish.ROUNDING, "bf16": Tolerance(3.0, 0.2, 0.1), "fp8": Tolerance(6.0, 0.4, 0.1)}
"""In BF16 and FP8 other kernels round differently and near ties of the router fall the other way. Measured: in BF16, on
random weights, 0.30 at most and 0.12 on average on an H100, 0.26 and 0.012 on a CPU; between FP32 and another
precision, on trained models of 1 and of 20 million weights and prompts that they know, up to 0.36 and 0.02 in BF16, up
to 3.8 and 0.11 in FP8."""
CLOSING_SECONDS = 60.0
"""vLLM's own choice is 5: a process that has not ended by then is killed, and leaves its shared memory behind."""
AHEAD = 2
"""Parts that are written and not yet loaded."""


class VllmEngine:
    """``folder`` gives shape and tokenizer; weights come with publishes. ``arguments`` go to vLLM as they are (its
    ``AsyncEngineArgs``).

    ``on_publish`` says what becomes of completions that are being sampled when new weights come: "drained" waits for
    their end; "paused" stops them, and they go on from their tokens under the new weights; "mixed" freezes them, and
    they go on with the cache that the old weights filled. ``before_top_p`` makes log-probabilities those of the whole
    distribution where there is top-p, which vLLM can do at temperature 1 alone; without ``whole`` they may be those of
    the cut distribution, and every temperature goes with every top-p. ``record_routes`` keeps each token's experts,
    which vLLM does on GPUs alone.

    With vLLM's own ``enable_sleep_mode`` among the arguments, its weights wait in the host's memory and its cache is
    given up while nothing is sampled, for a trainer on the same GPU.
    """

    def __init__(
        self,
        folder: Path,
        precision: Precision,
        *,
        max_rows: int = 512,
        on_publish: OnPublish = "drained",
        before_top_p: bool = False,
        whole: bool = True,
        record_routes: bool = False,
        arguments: Mapping[str, Any] | None = None,
    ) -> None:
        check_precision(precision, gpu=torch.cuda.is_available())
        self.config, self.tokenizer = checkpoint.shape(folder)
        self.precision, self.on_publish = precision, on_publish
        self.before_top_p, self.whole = before_top_p, whole
        self.version = -1
        self.names = map(str, itertools.count())
        self.record_routes = record_routes
        given = {**engine_arguments(folder, self.config, precision, max_rows, before_top_p), **known(arguments or {})}
        given |= {"enable_return_routed_experts": True} if record_routes else {}
        self.workers = given.get("tensor_parallel_size", 1) * given.get("pipeline_parallel_size", 1)
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, name="vllm", daemon=True)
        self.thread.start()
        with environment(self.config, precision):
            try:
                # No name for the future, which keeps its result: importing vLLM keeps this frame, to Python's end.
                self.llm: Any = asyncio.run_coroutine_threadsafe(_started(given), self.loop).result()
            except RuntimeError as error:
                raise EngineError(f"vLLM could not start: {root_cause(own_errors()) or error}") from error
        self.open = asyncio.Event()
        self.sleeps = bool(given.get("enable_sleep_mode"))
        self.asleep, self.calls, self.turn = False, 0, asyncio.Lock()

    async def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[list[Completion]]:
        """For each request its completions, one a seed, in order. Raises EngineError."""
        self._check(requests, sampling)
        return await self._run(self._generate(requests, sampling))

    async def publish(self, weights: Published) -> None:
        """Takes new weights and checks them. Raises PublishError; nothing is sampled from then on."""
        if weights.precision != self.precision:
            raise PublishError(f"weights in {weights.precision} were sent to an engine that runs {self.precision}")
        await self._run(self._publish(weights))

    async def close(self) -> None:
        """Ends vLLM's processes."""
        if self.thread.is_alive():
            await self._run(_end_tasks())
            self.llm.shutdown(timeout=CLOSING_SECONDS)
            self.loop.call_soon_threadsafe(self.loop.stop)
            self.thread.join()
            self.loop.close()
            self.llm = None

    async def call(self, method: str, *arguments: Any) -> list[Any]:
        """A method of every worker."""
        answers: list[Any] = await self._run(self.llm.collective_rpc(method, args=arguments))
        return answers

    async def _run(self, work: Coroutine[Any, Any, T]) -> T:
        """In the loop that vLLM's client belongs to, whichever loop the caller has."""
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self.loop))

    def _check(self, requests: Sequence[Request], sampling: Sampling) -> None:
        limit = self.config.max_position_embeddings
        for request in requests:
            if not 0 < len(request.prompt_ids) < limit:
                raise EngineError(f"a prompt has {len(request.prompt_ids)} tokens; the model takes 1 to {limit - 1}")
        if self.whole:
            check_sampling(sampling, self.before_top_p)

    async def _generate(self, requests: Sequence[Request], sampling: Sampling) -> list[list[Completion]]:
        stops = Stops(self.tokenizer, sampling.stop)
        async with self._awake():
            rows = [self._row(request, *row, sampling, stops) for request in requests for row in request.rows()]
            done = iter(await asyncio.gather(*rows))
        return [[next(done) for _ in request.seeds] for request in requests]

    @asynccontextmanager
    async def _awake(self) -> AsyncIterator[None]:
        """Sleeps, where that is asked for, once no call samples any more."""
        await self._wake()
        self.calls += 1
        try:
            yield
        finally:
            self.calls -= 1
            async with self.turn:
                if self.sleeps and not self.calls:
                    await self.llm.sleep(level=1)
                    self.asleep = True

    async def _wake(self) -> None:
        async with self.turn:
            if self.asleep:
                await self.llm.wake_up()
                self.asleep = False

    async def _row(
        self, request: Request, seed: int, begun: Completion | None, sampling: Sampling, stops: Stops
    ) -> Completion:
        """One completion; where a publish stops it, it goes on afterwards."""
        limit, first = self.config.max_position_embeddings, len(begun.token_ids) if begun else 0
        while True:
            await self.open.wait()
            done = len(begun.token_ids) if begun else 0
            left = sampling if sampling.pause_after is None else replace(
                sampling, pause_after=sampling.pause_after - (done - first)
            )  # fmt: skip
            start = Start.of(request, seed, begun, left, limit)
            sampled, versions = await self._sample(start, sampling, stops)
            begun = completed(start, sampled, versions, sampling, limit, self.tokenizer)
            if begun.finish_reason != "paused" or len(sampled.tokens) == start.room:
                return begun

    async def _sample(self, start: Start, sampling: Sampling, stops: Stops) -> tuple[Sampled, list[int]]:
        """Up to ``start.room`` tokens, fewer where the row stops or is stopped, and the version that sampled each."""
        tokens: list[int] = []
        logprobs: list[float] = []
        versions: list[int] = []
        name, ended, experts = next(self.names), False, None
        async for out in self._stream(start, sampling, name):
            row, seen = out.outputs[0], len(tokens)
            if self.record_routes and row.routed_experts is not None:  # with the last output, an aborted row's too
                experts = row.routed_experts
            if ended:
                continue
            new, places = row.token_ids[seen:], (row.logprobs or ())[seen:]
            tokens += new
            logprobs += [place[token].logprob for token, place in zip(new, places, strict=True)]
            versions += [self.version] * len(new)
            at = stops.first(start, tokens, seen) if stops.strings else None
            if at is not None:
                tokens, logprobs, versions, ended = tokens[:at], logprobs[:at], versions[:at], True
                await self.llm.abort(name)
        ended = ended or (bool(tokens) and tokens[-1] == self.config.eos_token_id)
        routes = moe_routes(experts, self.config, len(start.ids) + len(tokens) - 1) if self.record_routes else None
        return Sampled(tokens, logprobs, ended, routes), versions

    def _stream(self, start: Start, sampling: Sampling, name: str) -> AsyncIterator[Any]:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        wanted = SamplingParams(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            max_tokens=start.room,
            seed=continued(start.seed, start.done),
            stop_token_ids=[self.config.eos_token_id],
            ignore_eos=True,
            logprobs=0,
            detokenize=False,
            output_kind=RequestOutputKind.CUMULATIVE,  # vLLM loses the experts where it joins pieces of a row
        )
        stream: AsyncIterator[Any] = self.llm.generate({"prompt_token_ids": list(start.ids)}, wanted, name)
        return stream

    async def _publish(self, weights: Published) -> None:
        await self._wake()
        self.open.clear()
        await self.llm.pause_generation(mode=PAUSE[self.on_publish], clear_cache=self.on_publish != "mixed")
        expected = await self._send(weights)
        await self.llm.reset_prefix_cache()
        before, self.version = self.version, weights.version  # frozen rows go on while the probe is run
        await self.llm.resume_generation()
        try:
            await self._prove(weights, expected)
        except PublishError:
            self.version = before
            raise
        self.open.set()

    async def _prove(self, weights: Published, expected: Probed | None) -> None:
        """Raises PublishError where the probe is not what it was in the trainer."""
        if expected is None:
            return
        await self.llm.collective_rpc("watch_layers", args=(True,))
        logprobs = await self._probe(weights.probe)
        (seen, *_) = await self.llm.collective_rpc("watch_layers", args=(False,))
        tokens = len(weights.probe)
        alone = [row for row in seen if len(row) == tokens]  # frozen rows may run beside it
        traces = torch.tensor(alone).view(-1, tokens)[:, :-1]
        publish.check_probe(torch.tensor(logprobs), traces, expected, weights.version, TOLERANCES[self.precision])

    async def _send(self, weights: Published) -> Probed | None:
        """Streams the parts into vLLM's workers. Returns what the trainer found on the probe. Raises PublishError."""
        memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108 - files in memory
        folder = Path(tempfile.mkdtemp(prefix=f"zeroth-publish-{os.getpid()}-", dir=memory))
        receiver.write(replace(weights, parts=()), folder / receiver.WEIGHTS)
        loading = asyncio.ensure_future(self.llm.collective_rpc("receive_weights", args=(str(folder),)))
        parts: Iterable[Part | SharedPart] = weights.parts
        if isinstance(weights.parts, SharedParts):
            parts = weights.parts.handles
        expected: Probed | None = None
        try:
            for number, part in enumerate(parts):
                receiver.write(part, folder / f"{number}.part")
                await self._taken(folder, number + 1 - AHEAD, loading)
            (folder / "end").touch()
            problems = [problem for problem in await loading if problem is not None]
            if not problems and weights.probe:
                expected = receiver.read(folder / receiver.EXPECTED)
        finally:
            (folder / "end").touch()
            shutil.rmtree(folder, ignore_errors=True)
        if problems:
            raise PublishError(f"weight version {weights.version}: {problems[0]}")
        return expected

    async def _taken(self, folder: Path, number: int, loading: asyncio.Future[Any]) -> None:
        """Waits until every worker has loaded a part, then removes it."""
        since = time.monotonic()
        while number >= 0 and not all((folder / f"{number}.{r}.taken").exists() for r in range(self.workers)):
            if loading.done() or time.monotonic() - since > receiver.PART_SECONDS:
                why = loading.exception() if loading.done() else f"{receiver.PART_SECONDS:g} s have passed"
                raise PublishError(f"vLLM did not take part {number} of a publish: {why}")
            await asyncio.sleep(0.001)
        (folder / f"{number}.part").unlink(missing_ok=True)

    async def _probe(self, probe: tuple[int, ...]) -> list[float]:
        """The log-probabilities of a prompt's tokens after the first."""
        from vllm import SamplingParams

        wanted = SamplingParams(max_tokens=1, prompt_logprobs=0, detokenize=False)
        prompt = {"prompt_token_ids": list(probe)}
        outs = [out async for out in self.llm.generate(prompt, wanted, next(self.names)) if out.prompt_logprobs]
        found = outs[0].prompt_logprobs[1:]
        return [place[token].logprob for token, place in zip(probe[1:], found, strict=True)]


def moe_routes(experts: np.ndarray[Any, np.dtype[Any]] | None, config: ModelConfig, tokens: int) -> Routes:
    """vLLM's experts [T, layers, K] of a row as routes of its first ``tokens`` tokens; -1 for those it did not tell."""
    first, layers = config.first_k_dense_replace, config.num_hidden_layers
    routes: Routes = np.full((tokens, layers - first, config.num_experts_per_tok), -1, np.int16)
    if experts is not None:
        known = experts[:tokens, first:]
        routes[: len(known)] = known
    return routes


def check_sampling(sampling: Sampling, before_top_p: bool) -> None:
    """Raises EngineError where vLLM cannot give the log-probabilities that a completion promises."""
    exact = sampling.temperature == 1 if before_top_p else sampling.top_p == 1
    if not exact and sampling.temperature > 0:
        raise EngineError(
            f"temperature {sampling.temperature} with top_p {sampling.top_p}: vLLM gives the log-probabilities of the "
            "whole distribution only where one of them is 1; set rollout.temperature or rollout.top_p to 1, or "
            "rollout.engine to native"
        )


def check_precision(precision: Precision, *, gpu: bool) -> None:
    """Raises EngineError where vLLM has no kernels for it, which its own processes say long after they started."""
    if precision == "fp8" and not gpu and not torch.cpu.get_capabilities().get("amx_tile"):
        raise EngineError("vLLM computes FP8 on GPUs, and on CPUs with AMX, alone: choose bf16 or fp32 (precision)")


def engine_arguments(
    folder: Path, config: ModelConfig, precision: Precision, max_rows: int, before_top_p: bool
) -> dict[str, Any]:
    """What vLLM is started with."""
    return {
        "model": str(folder),
        "skip_tokenizer_init": True,
        "load_format": "dummy",
        "dtype": DTYPES[precision],
        "hf_overrides": {"quantization_config": checkpoint.QUANTIZATION} if precision == "fp8" else {},
        "max_model_len": config.max_position_embeddings,
        "max_num_seqs": max_rows,
        "enable_prefix_caching": True,
        "enforce_eager": not torch.cuda.is_available(),
        "logprobs_mode": "raw_logprobs" if before_top_p else "processed_logprobs",
        "disable_log_stats": True,
        "worker_extension_cls": f"{receiver.__name__}.{receiver.WeightReceiver.__name__}",
    }


def known(arguments: Mapping[str, Any]) -> Mapping[str, Any]:
    """The arguments, every one found to be one of vLLM's. Raises EngineError naming the nearest."""
    from vllm import AsyncEngineArgs

    names = [field.name for field in dataclasses.fields(AsyncEngineArgs)]
    for key in arguments:
        if key not in names:
            near = difflib.get_close_matches(key, names, n=1, cutoff=0.0)[0]
            raise EngineError(f"rollout.vllm: vLLM has no argument {key!r}; the nearest is {near!r}")
    return arguments


@contextmanager
def environment(
    config: ModelConfig, precision: Precision, more: Mapping[str, str] = MappingProxyType({})
) -> Iterator[None]:
    """The environment variables that vLLM's processes are started with, and ``more`` of them, where the user has not
    set them."""
    wanted = {
        "VLLM_LOGGING_LEVEL": "WARNING", "VLLM_LOGGING_STREAM": "ext://sys.stderr", "VLLM_NO_USAGE_STATS": "1",
        "VLLM_USE_DEEP_GEMM_E8M0": "0", **more,
    }  # fmt: skip
    if torch.cuda.is_available():
        wanted["VLLM_WORKER_MULTIPROC_METHOD"] = "spawn"  # to have asked for CUDA is enough for torch to refuse a fork
    else:
        # One thread for each that torch has here; no compiler, which takes longer than what it compiles.
        wanted |= {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "TORCHDYNAMO_DISABLE": "1"}
        if precision == "fp32" or config.kv_lora_rank + config.qk_rope_head_dim != 576:
            # Its CPU kernel for latent attention takes no other size, and the one for AMX nothing but BF16.
            wanted["VLLM_MLA_DISABLE"] = "1"
    added = {name: value for name, value in wanted.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


def own_errors() -> str:
    """The end of what this process and its children wrote as errors, where that is a file, as it is under Ray."""
    path = Path("/proc/self/fd/2").resolve()
    return path.read_bytes()[-65536:].decode(errors="replace") if path.is_file() else ""


def root_cause(log: str) -> str | None:
    """The last exception that one of vLLM's processes wrote, a worker's before its engine's: that which its caller gets
    points to "above"."""
    for who in ("Worker", "EngineCore"):
        said = re.findall(rf"^\({who}[^)]*\) (?:.*\] )?(\w*(?:Error|Exception|Interrupt): .+)$", log, re.MULTILINE)
        if said:
            return str(said[-1])
    return None


async def _started(arguments: Mapping[str, Any]) -> Any:
    from vllm import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    return AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments))


async def _end_tasks() -> None:
    """Ends the other tasks of this loop: vLLM's client would take the end of its processes for a failure."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def continued(seed: int, done: int) -> int:
    """The seed of a row that goes on behind ``done`` tokens: vLLM cannot start within a stream of random numbers."""
    return int.from_bytes(hashlib.blake2b(f"{seed}/{done}".encode(), digest_size=7).digest(), "big")
