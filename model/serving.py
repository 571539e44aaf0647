"""The forward pass that engine and trainer share on a GPU, with the same numbers to the bit in both.

Every operation works on single rows with a fixed order of summation (`model.kernels.invariant`, `latent`, `stream`), so
a token's result depends on its own sequence alone: not on the batch, not on whether its sequence was decoded token by
token, prefilled, or run at once by a trainer. `model.transformer` is the reference; it rounds elsewhere and lets torch
choose kernels by shape.

Imported only where there is a GPU, for its kernels are written in Triton.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from model import fp8, rope
from model.config import ModelConfig, Precision
from model.derived import bf16_terms
from model.fp8 import BLOCK, Quantized
from model.kernels import latent, stream
from model.kernels.invariant import Chosen, Weight, experts, experts_swiglu, linear, linear_parts, linear_quantized
from model.kernels.latent import PAGE, Places
from model.parts import SCALE, Part
from model.probe import Probed, chosen, norms

T = TypeVar("T")

ROUTER_PARTS = 4


@dataclass
class Feed:
    """A feed-forward layer as experts: E routed ones, then the shared ones; a dense layer is one shared expert.
    ``router`` [S, P E, H / S] holds the FP32 weight as P terms in the compute dtype, cut along the contraction into S
    parts, since so few columns make few programs; the products of terms and parts are summed in FP32."""

    gate_up: Weight
    down: Weight
    router: Weight | None = None
    bias: Tensor | None = None


@dataclass
class Layer:
    """``a`` projects to the query latent (where there is one), the latent and the shared key; ``up_k`` [heads, latent,
    nope] and ``up_v`` [heads, v, latent] are kv_b_proj's halves, in the compute dtype, which latents are kept in."""

    input_norm: Tensor
    a: Weight
    q_norm: Tensor | None
    kv_norm: Tensor
    q: Weight
    up_k: Weight
    up_v: Weight
    o: Weight
    post_norm: Tensor
    feed: Feed


@dataclass
class Drafter:
    """What the first MTP module has beside its layer, which is the last of `Served.layers`."""

    embedded_norm: Tensor
    hidden_norm: Tensor
    join: Weight
    norm: Tensor


@dataclass
class Routes:
    """Where one MoE layer sent N tokens: ``scores`` FP32 [N, E], ``indices`` int32 [N, K], ``gates`` FP32 [N, K]."""

    scores: Tensor
    indices: Tensor
    gates: Tensor


def unsupported(c: ModelConfig, precision: Precision) -> str | None:
    """Why these kernels cannot run a model, or None."""
    if precision == "fp32":
        return "precision fp32"
    if c.scoring_func != "sigmoid":
        return f"scoring_func {c.scoring_func}"
    for name in ("kv_lora_rank", "qk_rope_head_dim"):
        if getattr(c, name) & (getattr(c, name) - 1) or getattr(c, name) < 16:
            return f"{name} {getattr(c, name)} is not a power of two from 16 on"
    blocks = ["hidden_size", "intermediate_size", "moe_intermediate_size"] + ["q_lora_rank"] * bool(c.q_lora_rank)
    wanted = dict.fromkeys(blocks, fp8.BLOCK if precision == "fp8" else 16) | {"qk_nope_head_dim": 16, "v_head_dim": 16}
    for name, multiple in wanted.items():
        if getattr(c, name) % multiple:
            return f"{name} {getattr(c, name)} is not a multiple of {multiple}"
    return None


class Served:
    """One version of the weights, as the kernels multiply them. `load` writes new ones into the same memory, so that
    recorded CUDA graphs, and a trainer and an engine that share a GPU, see them at once."""

    embedding: Tensor
    norm: Tensor
    head: Weight

    def __init__(self, c: ModelConfig, precision: Precision, device: torch.device) -> None:
        """Without weights."""
        self.c, self.precision, self.device = c, precision, device
        self.dtype = torch.float32 if precision == "fp32" else torch.bfloat16
        self.scale = rope.softmax_scale(c)
        self.turns = _turns(c, device)
        self.probe: Replayed[Probed] | None = None
        self.layers: list[Layer] = []
        self.drafter: Drafter | None = None

    @torch.no_grad()
    def load(self, parts: Iterable[Part]) -> None:
        """Takes all weights. Raises KeyError naming a tensor that is missing."""
        missing = dict.fromkeys(["embed_tokens", *(f"layers.{i}" for i in range(self.c.num_hidden_layers)), "head"])
        for part in parts:
            self._take(part.name, part.to(self.device).tensors)
            missing.pop(part.name, None)
        for name in missing:
            self._take(name, {})

    def _take(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        if name == "embed_tokens":
            self._set("embedding", tensors["embed_tokens.weight"].to(self.dtype))
        elif name == "head":
            self._set("norm", self._vector(tensors["norm.weight"]))
            self._set("head", Weight(self._matrix(tensors, "lm_head").data))
        elif name == "mtp":
            enorm, hnorm, norm = (self._vector(tensors[f"mtp.0.{end}.weight"]) for end in ("enorm", "hnorm", "norm"))
            self._set("drafter", Drafter(enorm, hnorm, self._matrix(tensors, "mtp.0.eh_proj"), norm))
            self._set_layer(self.c.num_hidden_layers, self.layer(tensors, "mtp.0.block."))
        else:
            self._set_layer(int(name.removeprefix("layers.")), self.layer(tensors, name + "."))

    def _set(self, name: str, new: object) -> None:
        setattr(self, name, _written(getattr(self, name, None), new))

    def _set_layer(self, i: int, new: Layer) -> None:
        self.layers[i : i + 1] = [_written(self.layers[i] if i < len(self.layers) else None, new)]

    @property
    def width(self) -> int:
        """Numbers a token and layer in the cache."""
        return self.c.kv_lora_rank + self.c.qk_rope_head_dim

    def bytes(self) -> int:
        return sum(t.nbytes for t in _flat(((self.embedding, self.head), self.drafter, self.layers)))

    @torch.no_grad()
    def forward(self, tokens: Tensor, places: Places, pool: Tensor) -> tuple[Tensor, list[Routes]]:
        """tokens [N] int64 at ``places`` -> hidden [N, H] after the final norm, and the routes of each MoE layer.
        ``pool`` [layers, P, 64, width] is written and read."""
        x, parts, counts, found = self.embed(tokens), None, self.counts(), []
        for i in range(self.c.num_hidden_layers):
            x, parts, routes = self.block(i, x, parts, places, pool[i], counts[i])
            found += [routes] if routes is not None else []
        return self.finish(x, parts), found

    @torch.no_grad()
    def draft(self, hidden: Tensor, following: Tensor, places: Places, pool: Tensor) -> Tensor:
        """hidden [N, H] of tokens i and the tokens [N] after them -> hidden [N, H] that predicts the ones after
        those (`model.transformer.MTP`)."""
        drafter, eps, last = self.drafter, self.c.rms_norm_eps, len(self.layers) - 1
        assert drafter is not None
        embedded = stream.add_norm(self.embed(following), None, drafter.embedded_norm, eps)[1]
        joined = torch.cat([embedded, stream.add_norm(hidden, None, drafter.hidden_norm, eps)[1]], -1)
        x, parts, _ = self.block(last, linear(joined, drafter.join), None, places, pool[last], self.counts()[last])
        return stream.add_norm(x, parts, drafter.norm, eps)[1]

    def probed(self, prompt: Sequence[int]) -> Probed:
        """As `model.probe.probed`. The prompt is that of the first call."""
        if self.probe is None:
            self.probe = Replayed(Walk(self, prompt).whole, self.device)
        return self.probe()

    def embed(self, tokens: Tensor) -> Tensor:
        return self.embedding.index_select(0, tokens)

    def counts(self) -> Tensor:
        """Zeros int32 [layers, experts]: room for every layer's count of the tokens that chose each expert."""
        wide = max(self.c.n_routed_experts + self.c.n_shared_experts, 1)
        return torch.zeros(len(self.layers), wide, dtype=torch.int32, device=self.device)

    def block(
        self, i: int, x: Tensor, parts: Tensor | None, places: Places, pool: Tensor, counts: Tensor,
        copies: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor, Routes | None]:  # fmt: skip
        """Layer i on the stream x [N, H] plus ``parts`` [N, P, H] still to be added; returns both anew, and the routes.
        ``copies``: flat places of the pool that take over what was written at others."""
        c, layer = self.c, self.layers[i]
        fp8 = self.precision == "fp8"
        x, _, normed = stream.add_norm(x, parts, layer.input_norm, c.rms_norm_eps, quantized=fp8)
        query = latent.write_latents(
            linear_parts(normed, layer.a), layer.q_norm, layer.kv_norm, c.rms_norm_eps, self.turns, pool, places,
            quantized=fp8,
        )  # fmt: skip
        if copies is not None:
            flat = pool.view(-1, self.width)
            flat.index_copy_(0, copies[0], flat.index_select(0, copies[1]))
        q = linear(normed if layer.q_norm is None else query, layer.q).unflatten(-1, (c.num_attention_heads, -1))
        absorbed = linear(q[..., : c.qk_nope_head_dim], layer.up_k)
        attended = latent.attend(absorbed, q, self.turns, pool, places, self.scale)
        values: Tensor | Quantized
        if fp8 and c.v_head_dim % BLOCK == 0:
            values = linear_quantized(attended, layer.up_v)
        else:
            values = linear(attended, layer.up_v).flatten(1)
        out = linear_parts(values, layer.o)
        x, plain, normed = stream.add_norm(x, out, layer.post_norm, c.rms_norm_eps, quantized=fp8)
        feed, routes = layer.feed, None
        if feed.router is None:
            chosen = _everyone(x)
        else:
            chosen, routes = self._choose(feed, plain, counts)
        inner = experts_swiglu(normed, feed.gate_up, chosen)
        return x, experts(inner, feed.down, chosen), routes

    def finish(self, x: Tensor, parts: Tensor | None) -> Tensor:
        return stream.add_norm(x, parts, self.norm, self.c.rms_norm_eps)[1]

    def added(self, x: Tensor, parts: Tensor) -> Tensor:
        """The stream [N, H] with its parts added."""
        return stream.add_norm(x, parts, self.norm, self.c.rms_norm_eps)[0]

    def logits(self, hidden: Tensor) -> Tensor:
        """hidden [N, H] -> FP32 [N, V]."""
        return linear(hidden, self.head, dtype=torch.float32)

    def _choose(self, feed: Feed, normed: Tensor, counts: Tensor) -> tuple[Chosen, Routes]:
        c = self.c
        assert feed.router is not None
        assert feed.bias is not None
        parts = normed.unflatten(-1, (len(feed.router.data), -1))
        logits = linear(parts, feed.router, dtype=torch.float32).view(len(normed), -1, c.n_routed_experts)
        scores, indices, chosen = stream.choose(
            logits, feed.bias, counts, k=c.num_experts_per_tok, groups=c.n_group, kept=c.topk_group,
            shared=c.n_shared_experts, normalize=c.norm_topk_prob, factor=c.routed_scaling_factor,
        )  # fmt: skip
        return chosen, Routes(scores, indices, chosen.gates[:, : c.num_experts_per_tok])

    def layer(self, tensors: Mapping[str, Tensor], prefix: str) -> Layer:
        """As far as it can be, in the memory of ``tensors``."""
        c, at = self.c, prefix + "self_attn."
        kv_b = self._matrix(tensors, at + "kv_b_proj", decoded=True).data.unflatten(0, (c.num_attention_heads, -1))
        up_k, up_v = kv_b.split([c.qk_nope_head_dim, c.v_head_dim], 1)
        kv_a = self._matrix(tensors, at + "kv_a_proj_with_mqa")
        a = kv_a if c.q_lora_rank is None else _joined([self._matrix(tensors, at + "q_a_proj"), kv_a])
        return Layer(
            self._vector(tensors[prefix + "input_layernorm.weight"]),
            a,
            None if c.q_lora_rank is None else self._vector(tensors[at + "q_a_layernorm.weight"]),
            self._vector(tensors[at + "kv_a_layernorm.weight"]),
            self._matrix(tensors, at + ("q_proj" if c.q_lora_rank is None else "q_b_proj")),
            Weight(up_k.mT.contiguous()),
            Weight(up_v.contiguous()),
            self._matrix(tensors, at + "o_proj"),
            self._vector(tensors[prefix + "post_attention_layernorm.weight"]),
            self._feed(tensors, prefix + "mlp."),
        )

    def _feed(self, tensors: Mapping[str, Tensor], prefix: str) -> Feed:
        if prefix + "gate.weight" not in tensors:
            return Feed(*self._swiglu(tensors, prefix, 1))
        gate_up = [self._matrix(tensors, prefix + "experts.gate_up_proj")]
        down = [self._matrix(tensors, prefix + "experts.down_proj")]
        if self.c.n_shared_experts:
            shared = self._swiglu(tensors, prefix + "shared_experts.", self.c.n_shared_experts)
            gate_up.append(shared[0])
            down.append(shared[1])
        router = Weight(_router(tensors[prefix + "gate.weight"].float(), self.dtype))
        bias = self._vector(tensors[prefix + "gate.e_score_correction_bias"])
        return Feed(_joined(gate_up), _joined(down), router, bias)

    def _swiglu(self, tensors: Mapping[str, Tensor], prefix: str, count: int) -> tuple[Weight, Weight]:
        """One SwiGLU of width count x I as ``count`` experts of width I: gate over up, and down."""
        gate, up, down = (self._matrix(tensors, f"{prefix}{name}_proj") for name in ("gate", "up", "down"))
        halves = [cut for pair in zip(_cut(gate, count, 0), _cut(up, count, 0), strict=True) for cut in pair]
        return _stacked(_joined(halves), count), _stacked(_joined(_cut(down, count, 1)), count)

    def _matrix(self, tensors: Mapping[str, Tensor], name: str, *, decoded: bool = False) -> Weight:
        data, scale = tensors[name + ".weight"], tensors.get(name + ".weight" + SCALE)
        if scale is None:
            return Weight(data.to(self.dtype))
        if decoded:
            return Weight(fp8.dequantize_blocks(fp8.Quantized(data, scale)).to(self.dtype))
        return Weight(data, scale)

    def _vector(self, x: Tensor) -> Tensor:
        return x.float()


@functools.lru_cache(maxsize=2)
def _turns(c: ModelConfig, device: torch.device) -> Tensor:
    """The rotations FP32 [positions, pairs, 2]; a draft may look one past the end."""
    positions = torch.arange(c.max_position_embeddings + 1)
    return torch.view_as_real(rope.rotations(positions, rope.frequencies(c))).contiguous().to(device)


class Replayed(Generic[T]):
    """Work that reads memory which stays where it is and gives the same however often it is done: on a GPU it is
    recorded as a CUDA graph at the first call."""

    def __init__(self, work: Callable[[], T], device: torch.device) -> None:
        self.work, self.on_gpu = work, device.type == "cuda"
        self.graph: torch.cuda.CUDAGraph | None = None

    def __call__(self) -> T:
        if not self.on_gpu:
            return self.work()
        if self.graph is None:
            self.work()  # compiles the kernels
            torch.cuda.synchronize()
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph, capture_error_mode="thread_local"):
                self.out = self.work()
        self.graph.replay()
        return self.out


class Walk:
    """A prompt on its way through layers, one after another."""

    def __init__(self, served: Served, prompt: Sequence[int]) -> None:
        device = served.device
        pages, place = -(-len(prompt) // PAGE), torch.arange(len(prompt), dtype=torch.int32, device=device)
        table = torch.arange(pages, dtype=torch.int32, device=device).unsqueeze(0)
        self.served, self.tokens = served, torch.tensor(prompt, device=device)
        self.places, self.pool = Places(torch.zeros_like(place), place, table), new_pool(served, pages, layers=1)[0]

    @torch.no_grad()
    def whole(self) -> Probed:
        x, seen = self.served.embed(self.tokens), []
        for i in range(self.served.c.num_hidden_layers):
            x = self.through(i, x)
            seen.append(norms(x))
        return Probed(self.logprobs(x), torch.stack(seen))

    @torch.no_grad()
    def through(self, layer: int, x: Tensor) -> Tensor:
        served = self.served
        x, parts, _ = served.block(layer, x, None, self.places, self.pool, served.counts()[layer])
        return stream.add_norm(x, parts, served.layers[layer].input_norm, served.c.rms_norm_eps)[0]

    @torch.no_grad()
    def logprobs(self, x: Tensor) -> Tensor:
        return chosen(self.served.logits(self.served.finish(x, None)[:-1]), self.tokens)


class Probe:
    """`model.probe.Probe` by the kernels of an engine on a GPU, whose numbers it gives to the bit."""

    def __init__(self, c: ModelConfig, precision: Precision, device: torch.device, prompt: tuple[int, ...]) -> None:
        self.prompt = prompt
        self.served = Served(c, precision, device)
        self.walk = Walk(self.served, self.prompt)
        self.x = self.logprobs = torch.empty(0)
        self.traces: list[Tensor] = []

    @torch.no_grad()
    def through(self, part: Part) -> None:
        """As `model.probe.Probe.through`."""
        served, tensors = self.served, part.tensors
        if part.name == "embed_tokens":
            self.x = tensors["embed_tokens.weight"].index_select(0, self.walk.tokens).to(served.dtype)
            self.traces = []
        elif part.name == "head":
            served.norm, served.head = tensors["norm.weight"], Weight(tensors["lm_head.weight"].to(served.dtype))
            self.logprobs = self.walk.logprobs(self.x)
            del served.norm, served.head
        elif part.name != "mtp":
            served.layers = [served.layer(tensors, part.name + ".")]
            self.x = self.walk.through(0, self.x)
            self.traces.append(norms(self.x))
            served.layers = []

    def found(self) -> Probed:
        """As `model.probe.Probe.found`."""
        return Probed(self.logprobs, torch.stack(self.traces))


def _everyone(x: Tensor) -> Chosen:
    """All tokens choose the one expert."""
    tokens = len(x)
    gates = torch.ones(tokens, 1, device=x.device)
    lists = torch.arange(tokens, dtype=torch.int32, device=x.device).unsqueeze(0)
    return Chosen(gates, lists, torch.full((1,), tokens, dtype=torch.int32, device=x.device))


def _router(w: Tensor, dtype: torch.dtype) -> Tensor:
    """An FP32 weight [E, H] as its P terms in FP32 (the weight) or BF16, cut into S parts: [S, P E, H / S]."""
    terms = w if dtype == torch.float32 else bf16_terms(w)
    cut = ROUTER_PARTS if w.shape[1] % (16 * ROUTER_PARTS) == 0 else 1
    return terms.view(-1, cut, w.shape[1] // cut).transpose(0, 1).contiguous()


def _cut(w: Weight, count: int, dim: int) -> list[Weight]:
    cuts = [[None] * count if t is None else t.chunk(count, dim) for t in w]
    return [Weight(data, scale) for data, scale in zip(*cuts, strict=True)]


def _stacked(w: Weight, count: int) -> Weight:
    """[count x N, K] as [count, N, K]."""
    return Weight(w.data.unflatten(0, (count, -1)), None if w.scale is None else w.scale.unflatten(0, (count, -1)))


def _joined(weights: Sequence[Weight]) -> Weight:
    """One under another."""
    scales = [w.scale for w in weights if w.scale is not None]
    return Weight(_together([w.data for w in weights]), _together(scales) if scales else None)


def _together(tensors: Sequence[Tensor]) -> Tensor:
    """Joined along the first dimension; without a copy, where they lie one behind another."""
    first, at = tensors[0], tensors[0].data_ptr()
    for t in tensors:
        if t.data_ptr() != at or not t.is_contiguous() or _start(t) != _start(first):
            # torch joins FP8 tensors as the bytes they are.
            return torch.cat([t.contiguous().view(torch.uint8) for t in tensors]).view(first.dtype)
        at += t.nbytes
    return first.as_strided((sum(map(len, tensors)), *first.shape[1:]), first.stride())


def _start(t: Tensor) -> int:
    return t.untyped_storage().data_ptr()


def _written(old: T | None, new: T) -> T:
    """The new values in old memory, or in memory that nobody else has."""
    if old is None:
        own: T = _copied(new)
        return own
    for target, source in zip(_flat(old), _flat(new), strict=True):
        target.copy_(source)
    return old


def _copied(part: Any) -> Any:
    """Nested dataclasses and tuples with copies of their tensors."""
    if isinstance(part, Tensor):
        return part.clone(memory_format=torch.contiguous_format)
    if isinstance(part, tuple):
        return type(part)(*map(_copied, part))
    return part if part is None else type(part)(*(_copied(getattr(part, field.name)) for field in fields(part)))


def _flat(part: object) -> Iterator[Tensor]:
    """The tensors of nested dataclasses and tuples, in order."""
    if isinstance(part, Tensor):
        yield part
    elif isinstance(part, tuple | list):
        for item in part:
            yield from _flat(item)
    elif part is not None:
        for field in fields(part):  # type: ignore[arg-type]
            yield from _flat(getattr(part, field.name))


def new_pool(served: Served, pages: int, layers: int | None = None) -> Tensor:
    """Zeros [layers, pages, 64, width], since a page's unwritten places are read and weighted with zero."""
    count = len(served.layers) if layers is None else layers
    return torch.zeros(count, pages, PAGE, served.width, dtype=served.dtype, device=served.device)
