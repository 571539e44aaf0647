"""Handing the trainer's weights to an engine, and proving that they arrived.

A `Published` is one version of the weights in the engine's precision: FP8 bytes and scales where the engine runs FP8.
It is made, sent and taken one `Part` at a time: the embedding, each layer, the head, and at last the proof. That holds
a digest of each tensor's bytes (`model.digest`), and what a fixed prompt, run through the very tensors that are sent,
looked like behind each layer and in the end: its log-probabilities, by the kernels of an engine where there is a GPU
and by the trainer's own modules elsewhere. An engine checks both before it samples: the digests find what was damaged
on the way, the log-probabilities what was loaded wrongly, and the traces behind each layer say where.

The proof comes last, and as tensors, so that no device has to be waited for while weights are made and sent. An engine
waits for its own twice: for all digests, and for the prompt.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from torch import Tensor

from model import fp8, rope
from model.config import ModelConfig, Precision
from model.digest import Kind, digests, host_bytes, kind_on
from model.dispatch import has_triton
from model.linear import GroupedLinear, RMSNorm, compute_dtype, set_precision, set_rounded
from model.segments import Segments
from model.transformer import Block, Transformer

if TYPE_CHECKING:
    from model import serving

SCALE = ".scale_inv"
PROOF = "proof"
"""The name of the last part."""
ALIGNED = 256
"""Bytes: a tensor begins at a multiple of so many."""
NEIGHBOURS = (
    "q_a_proj.weight", "kv_a_proj_with_mqa.weight", "mlp.experts.gate_up_proj.weight",
    "shared_experts.gate_proj.weight", "shared_experts.up_proj.weight", "mlp.experts.down_proj.weight",
    "shared_experts.down_proj.weight", "mlp.gate_proj.weight", "mlp.up_proj.weight",
)  # fmt: skip
"""Matrices that an engine multiplies as one lie one behind another (`model.serving`)."""
DTYPES: dict[Precision, torch.dtype] = {"bf16": torch.bfloat16, "fp8": torch.float8_e4m3fn}
"""Of the matrices; what is not multiplied by an engine's kernels stays as it is."""
E4M3_SINCE = (8, 9)
"""The first GPUs that convert to it."""
Check = Literal["digests", "probe"]
CHECKS: tuple[Check, ...] = ("digests", "probe")


class Tolerance(NamedTuple):
    """How far an engine may be from the trainer on the probe: ``largest`` and ``mean`` difference of log-probabilities
    in nats, ``trace`` relative difference of the norms behind a layer."""

    largest: float
    mean: float
    trace: float


ROUNDING = Tolerance(1e-3, 1e-3, 1e-3)
"""The same arithmetic on the same weights differs by rounding alone, as between two kinds of processor."""


class PublishError(RuntimeError):
    """New weights did not arrive as they were sent; no rollout may start."""

    exit_status = 1


class Outline(NamedTuple):
    """A part without its bytes, which are ``size`` in one piece: ``tensors`` says by name the dtype, the shape and the
    place of the first."""

    name: str
    tensors: Mapping[str, tuple[torch.dtype, torch.Size, int]]
    size: int

    @staticmethod
    def of(name: str, kinds: Mapping[str, tuple[torch.dtype, torch.Size]]) -> Outline:
        size, places = 0, {}
        for key in sorted(kinds, key=_rank):
            dtype, shape = kinds[key]
            places[key] = size
            size += -(-shape.numel() * dtype.itemsize // ALIGNED) * ALIGNED
        return Outline(name, {key: (*kinds[key], places[key]) for key in kinds}, size)

    def empty(self, device: torch.device) -> Part:
        return Part(self, torch.empty(self.size, dtype=torch.uint8, device=device))


def _rank(name: str) -> int:
    """Scales come last: they would lie between neighbours."""
    if name.endswith(SCALE):
        return len(NEIGHBOURS)
    return next((i for i, end in enumerate(NEIGHBOURS) if name.endswith(end)), -1)


@dataclass(frozen=True)
class Part:
    """Some of the weights, whose bytes are ``piece`` uint8 [outline.size]: opening or sending each tensor by itself
    takes longer than copying it."""

    outline: Outline
    piece: Tensor

    @staticmethod
    def of(name: str, tensors: Mapping[str, Tensor]) -> Part:
        """A copy."""
        outline = Outline.of(name, {key: (t.dtype, t.shape) for key, t in tensors.items()})
        part = outline.empty(next(iter(tensors.values())).device)
        for key, target in part.tensors.items():
            target.copy_(tensors[key])
        return part

    @property
    def name(self) -> str:
        return self.outline.name

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        """By a parameter's name its tensor, and by name + ".scale_inv" its FP8 scales."""
        return {
            name: self.piece[start : start + shape.numel() * dtype.itemsize].view(dtype).view(shape)
            for name, (dtype, shape, start) in self.outline.tensors.items()
        }

    def to(self, device: torch.device) -> Part:
        return self if self.piece.device == device else Part(self.outline, self.piece.to(device))

    def opened(self) -> Part:
        """As a part that lies in another process is."""
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        """Travels as a plain byte array, which a process boundary can pass without copying."""
        return _unpacked, (self.outline, host_bytes(self.piece))


def _unpacked(outline: Outline, data: Any) -> Part:
    return Part(outline, torch.from_numpy(data.copy()))


class Probed(NamedTuple):
    """What the fixed prompt came to: ``logprobs`` FP32 [n - 1] of its tokens after the first, ``traces`` FP32 [layers,
    n] the norm of each token's residual stream behind each layer, [0, n] where those are not known."""

    logprobs: Tensor
    traces: Tensor

    @staticmethod
    def of(proof: Part) -> Probed:
        """On the host."""
        return Probed(proof.tensors["logprobs"].cpu(), proof.tensors["traces"].cpu())


@dataclass(frozen=True)
class Published:
    """``parts`` in the order of the model, then the proof; where they lie elsewhere, going through them fetches one at
    a time. ``names`` are the tensors' in the order of the proof's ``digests``, which are of this ``kind``. ``probe`` is
    the fixed prompt; ``kernels`` says that the kernels of an engine on a GPU were given it. What is not to be checked
    is None or empty."""

    version: int
    precision: Precision
    parts: Iterable[Part]
    names: tuple[str, ...]
    kind: Kind | None
    probe: tuple[int, ...]
    kernels: bool = False


def publish(
    model: Transformer,
    version: int,
    precision: Precision,
    place: Callable[[Iterable[Part]], Iterable[Part]] = list,
    *,
    checks: Collection[Check] = CHECKS,
) -> Published:
    """The model's weights as an engine of ``precision`` multiplies them. ``place`` puts the parts, which are made as it
    goes through them, where engines can fetch them. With fewer ``checks`` less is proven: to measure what one costs."""
    kind = kind_on(model.device) if "digests" in checks else None
    probe = prober(model.c, precision, model.device) if "probe" in checks else None
    names: list[str] = []

    def proven() -> Iterator[Part]:
        sent: list[Tensor] = []
        for part, digest in digested(made(model, precision), kind):
            yield part
            names.extend(part.tensors)
            sent.append(digest)
            if probe is not None:
                probe.through(part)
        proof = {"digests": torch.cat(sent)} if kind else {}
        if probe is not None:
            proof |= probe.found()._asdict()
        if proof:
            yield Part.of(PROOF, proof)

    parts = place(proven())
    prompt, kernels = (probe.prompt, not isinstance(probe, Probe)) if probe is not None else ((), False)
    return Published(version, precision, parts, tuple(names), kind, prompt, kernels)


@functools.lru_cache(maxsize=1)
def prober(c: ModelConfig, precision: Precision, device: torch.device) -> Probe | serving.Probe:
    """By the kernels of an engine on a GPU where they run here, by the modules elsewhere. It is kept for the next
    publish."""
    if device.type == "cuda" and has_triton():
        from model import serving

        if serving.unsupported(c, precision) is None:
            return serving.Probe(c, precision, device)
    return Probe(c, precision, device)


@torch.no_grad()
def made(model: Transformer, precision: Precision) -> Iterator[Part]:
    """The weights of a publish, part by part, each a copy."""
    layers = {name + ".weight" for name, module in model.named_modules() if isinstance(module, GroupedLinear)}
    for name, state in split(model.state_dict()):
        kinds: dict[str, tuple[torch.dtype, torch.Size]] = {}
        for key, tensor in state.items():
            dtype = DTYPES.get(precision, tensor.dtype) if key in layers else tensor.dtype
            kinds[key] = dtype, tensor.shape
            if dtype == torch.float8_e4m3fn:
                kinds[key + SCALE] = torch.float32, fp8.scale_shape(tensor)
        part = Outline.of(name, kinds).empty(model.device)
        for key, tensor in state.items():
            if key + SCALE in kinds:
                quantize(tensor, fp8.Quantized(part.tensors[key], part.tensors[key + SCALE]))
            else:
                part.tensors[key].copy_(tensor)
        yield part


def quantize(w: Tensor, out: fp8.Quantized) -> None:
    """An FP32 weight [..., N, K] in 128x128 blocks."""
    if w.is_cuda and has_triton() and torch.cuda.get_device_capability(w.device) >= E4M3_SINCE:
        from model.kernels.quantize import quantize_blocks

        experts = w if w.dim() == 3 else w.unsqueeze(0)
        quantize_blocks(experts, out=fp8.Quantized(*(t.view(len(experts), *t.shape[-2:]) for t in out)))
        return
    data, scale = fp8.quantize_blocks(w)
    out.data.copy_(data)
    out.scale.copy_(scale)


def digested(parts: Iterable[Part], kind: Kind | None) -> Iterator[tuple[Part, Tensor]]:
    """Each part with its tensors' digests of this kind, int64 [tensors, 2], or [0, 2] where there is none."""
    nothing = torch.empty(0, 2, dtype=torch.int64)
    for part in parts:
        yield part, nothing if kind is None else digests([*part.tensors.values()], kind)


def split(state: Mapping[str, Tensor]) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """A state dict in parts, in the order of the model and named as their modules: ``embed_tokens``, ``layers.0``, ...,
    ``head`` and, for drafts, ``mtp``."""
    parts: dict[str, dict[str, Tensor]] = {}
    for key, tensor in state.items():
        first, second, *_ = key.split(".")
        name = f"layers.{second}" if first == "layers" else first if first in ("embed_tokens", "mtp") else "head"
        parts.setdefault(name, {})[key] = tensor
    yield from parts.items()


def probe_prompt(c: ModelConfig) -> tuple[int, ...]:
    """So many tokens that nearly every expert gets one: of those that a fair router would choose, e^-4 are missed."""
    tokens = min(48, max(8, 4 * c.n_routed_experts // c.num_experts_per_tok), c.max_position_embeddings)
    return tuple(i * 7919 % c.vocab_size for i in range(tokens))


@contextmanager
def one_thread() -> Iterator[None]:
    """Trainer and engine may have different numbers of threads on a CPU, whose sums differ in their last digit; where
    that lies on the edge between two FP8 numbers, it becomes a difference in the second."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Probe:
    """Runs the fixed prompt through a publish as it is made, with the very tensors that are sent."""

    def __init__(self, c: ModelConfig, precision: Precision, device: torch.device) -> None:
        self.c, self.precision, self.device = c, precision, device
        self.prompt = probe_prompt(c)
        self.tokens = torch.tensor(self.prompt, device=device)
        self.segments = Segments.of([len(self.prompt)], device)
        self.turns = rope.rotations(self.segments.positions, rope.frequencies(c).to(device))
        self.blocks: dict[bool, tuple[Block, dict[str, Tensor]]] = {}
        self.hidden = self.logprobs = torch.empty(0)
        self.traces: list[Tensor] = []

    @one_thread()
    @torch.no_grad()
    def through(self, part: Part) -> None:
        """Runs the prompt through a part. They come in order."""
        if part.name == "embed_tokens":
            embedded = part.tensors["embed_tokens.weight"][self.tokens]
            self.hidden = embedded.to(compute_dtype(self.precision, self.device))
            self.traces = []
        elif part.name == "head":
            self._finish(part.tensors)
        elif part.name != "mtp":
            self.hidden = self._block(part)(self.hidden, self.turns, self.segments)[0]
            self.traces.append(norms(self.hidden))

    def found(self) -> Probed:
        """After the last part."""
        return Probed(self.logprobs, torch.stack(self.traces))

    def _block(self, part: Part) -> Block:
        """A layer with the weights of a part; there is one of each kind, for to build one takes longer than to run
        it."""
        layer = int(part.name.removeprefix("layers."))
        # Tensors of their own, since the block's are pointed at the next part, and a buffer would be this part's.
        values = {name.removeprefix(part.name + "."): value.detach() for name, value in decoded(part.tensors)}
        dense = layer < self.c.first_k_dense_replace
        if dense not in self.blocks:
            with torch.device("meta"):
                block = Block(self.c, layer)
            block.load_state_dict(values, assign=True)
            set_precision(block, self.precision)
            set_rounded(block, self.precision == "fp8")
            self.blocks[dense] = block, block.state_dict(keep_vars=True)
        block, state = self.blocks[dense]
        for name, value in values.items():
            state[name].data = value
        return block

    def _finish(self, tensors: Mapping[str, Tensor]) -> None:
        norm = RMSNorm(self.c.hidden_size, self.c.rms_norm_eps).to(self.device)
        norm.weight.copy_(tensors["norm.weight"])
        hidden = norm(self.hidden[:-1])
        logits = torch.nn.functional.linear(hidden, tensors["lm_head.weight"].to(hidden.dtype)).float()
        self.logprobs = chosen(logits, self.tokens)


def decoded(tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Each parameter as it is multiplied, FP8 as what it decodes to."""
    for name, value in tensors.items():
        if name + SCALE in tensors:
            yield name, fp8.dequantize_blocks(fp8.Quantized(value, tensors[name + SCALE]))
        elif not name.endswith(SCALE):
            yield name, value


class Arriving:
    """The weights of a publish as an engine goes through them, part by part. When it has, their digests have been
    compared, and ``expected`` is what the trainer found on the probe. Raises PublishError naming the first tensor whose
    bytes differ from what the trainer sent."""

    def __init__(self, weights: Published) -> None:
        self.weights = weights
        self.expected: Probed | None = None

    def __iter__(self) -> Iterator[Part]:
        names: list[str] = []
        found: list[Tensor] = []
        proof: Part | None = None
        for part, digest in digested(self.weights.parts, self.weights.kind):
            if part.name == PROOF:
                proof = part
            else:
                names.extend(part.tensors)
                found.append(digest)
                yield part
        if proof is not None:
            self._prove(names, found, proof)
        elif self.weights.kind is not None or self.weights.probe:
            raise PublishError(f"weight version {self.weights.version} arrived without its proof")

    def _prove(self, names: Sequence[str], found: Sequence[Tensor], proof: Part) -> None:
        if self.weights.kind is not None:
            sent = zip(self.weights.names, proof.tensors["digests"].tolist(), strict=True)
            arrived = dict(zip(names, torch.cat([*found]).tolist(), strict=True))
            for name, digest in sent:
                if arrived.get(name) != digest:
                    raise PublishError(
                        f"published tensor {name} differs from what the trainer sent; no rollout was started. Restart "
                        "the run with --resume; if it comes back, check the memory or the network of this host"
                    )
        if self.weights.probe:
            self.expected = Probed.of(proof)

    def check(self, probe: Callable[[tuple[int, ...]], Probed], tolerance: Tolerance) -> None:
        """Compares what an engine's ``probe`` makes of the prompt with what the trainer found. Raises PublishError
        naming the first layer that computes something else."""
        if self.expected is not None:
            check_probe(probe(self.weights.probe), self.expected, self.weights.version, tolerance)


def accept(model: Transformer, weights: Published) -> None:
    """Loads ``weights`` into an engine's model, part by part, and checks digests and log-probabilities. Raises
    PublishError."""
    state, arriving = dict(model.state_dict()), Arriving(weights)
    for part in arriving:
        load_state({n: t for n, t in state.items() if n in part.tensors}, part.tensors, part.name)
        for name in part.tensors:
            state.pop(name, None)
    if state:
        raise PublishError(f"published tensors do not fit the engine's model: {min(state)} is missing")
    model.use(weights.precision)
    set_rounded(model, weights.precision == "fp8")
    arriving.check(functools.partial(probed, model), ROUNDING)


def check_probe(got: Probed, expected: Probed, version: int, tolerance: Tolerance) -> None:
    """Compares an engine's probe with the trainer's. Raises PublishError naming the first layer that computes something
    else."""
    gaps = (got.logprobs.cpu() - expected.logprobs).abs()
    if (gaps <= tolerance.largest).all() and gaps.mean() <= tolerance.mean:
        return
    where = "behind the last layer" if len(got.traces) else "anywhere"
    for i, (theirs, ours) in enumerate(zip(got.traces.cpu(), expected.traces, strict=False)):
        if not ((ours - theirs).abs() <= tolerance.trace * ours.abs()).all():
            where = f"in layers.{i}, the first whose output differs"
            break
    raise PublishError(
        f"weight version {version}: the bytes arrived, but the engine's log-probabilities of the fixed prompt differ "
        f"from the trainer's by up to {gaps.max():.3g} (tolerance {tolerance.largest:g}) and by {gaps.mean():.3g} on "
        f"average ({tolerance.mean:g}): weights were loaded wrongly {where}; no rollout was started"
    )


def load_state(state: Mapping[str, Tensor], tensors: Mapping[str, Tensor], where: str) -> None:
    """Sets ``state``'s tensors in place, from FP8 what it decodes to. Raises PublishError naming a tensor that is
    missing or not expected."""
    given = {name for name in tensors if not name.endswith(SCALE)}
    if given != set(state):
        name = min(given ^ set(state))
        raise PublishError(f"published tensors do not fit the engine's model: {name} ({where})")
    with torch.no_grad():
        for name, value in decoded(tensors):
            state[name].copy_(value)


@one_thread()
@torch.no_grad()
def probed(model: Transformer, probe: tuple[int, ...]) -> Probed:
    """What a prompt comes to in a model."""
    tokens, segments = torch.tensor(probe, device=model.device), Segments.of([len(probe)], model.device)
    turns, seen = rope.rotations(segments.positions, model.freqs), []
    hidden = model.embed_tokens(tokens).to(model.dtype)
    for block in model.blocks():
        hidden = block(hidden, turns, segments)[0]
        seen.append(norms(hidden))
    return Probed(chosen(model.logits(model.norm(hidden)[:-1]), tokens), torch.stack(seen))


def chosen(logits: Tensor, tokens: Tensor) -> Tensor:
    """logits FP32 [n - 1, V] behind the first n - 1 of tokens [n] -> the log-probabilities [n - 1] of those after the
    first."""
    return logits.log_softmax(-1).gather(-1, tokens[1:, None]).squeeze(-1)


def norms(hidden: Tensor) -> Tensor:
    """Of each row of a residual stream [n, H]."""
    found: Tensor = torch.linalg.vector_norm(hidden.float(), dim=-1)
    return found
