"""The forward pass that engine and trainer share on a GPU, with the same numbers to the bit in both.

Every operation works on single rows with a fixed order of summation (`model.kernels.invariant`, `latent`, `stream`), so
a token's result depends on its own sequence alone: not on the batch, not on whether its sequence was decoded token by
token, prefilled, or run at once by a trainer. `model.transformer` is the reference; it rounds elsewhere and lets torch
choose kernels by shape.

Imported only where there is a GPU, for its kernels are written in Triton.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import torch
from torch import Tensor

from model import fp8, rope
from model.config import ModelConfig, Precision
from model.digest import Kind, digests, flat_bytes
from model.fp8 import BLOCK, Quantized
from model.kernels import latent, stream
from model.kernels.invariant import Chosen, Weight, experts, experts_swiglu, linear, linear_parts, linear_quantized
from model.kernels.latent import PAGE, Places
from model.kernels.reshaped import halves, router_terms
from model.kernels.transfer import Passing, Transfer
from model.parts import SCALE, Part
from model.replayed import Recorder, Replayed, Work, another_stream, behind, beside

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
        self.c, self.precision, self.device = c, precision, torch.empty(0, device=device).device
        self.dtype = torch.float32 if precision == "fp32" else torch.bfloat16
        self.scale = rope.softmax_scale(c)
        self.turns = _turns(c, device)
        self.parts = "embed_tokens", *(f"layers.{i}" for i in range(c.num_hidden_layers)), "head"
        self.layers: list[Layer] = []
        self.drafter: Drafter | None = None
        self.taking: dict[str, Replayed] = {}
        self.taken: set[str] = set()
        self.recorder, self.stream = Recorder.on(self.device, moving=True), another_stream(device, urgent=True)
        self.landings = [torch.empty(0, dtype=torch.uint8)] * 2

    def load(self, parts: Iterable[Part]) -> None:
        """Takes all weights. Raises KeyError naming a tensor that is missing."""
        self.begin()
        for part in parts:
            self.take(part)
        self.complete()

    def begin(self) -> None:
        """With new weights, of which nothing has been taken."""
        self.taken.clear()

    @torch.no_grad()
    def take(self, part: Part, kind: Kind | None = None) -> Tensor:
        """Writes a part's weights into their places. Returns the digests of its tensors, of this kind, int64
        [tensors, 2], or [0, 2] for none. Raises KeyError naming a tensor that is missing."""
        if kind == "hash":
            self.take(part)
            return digests([*part.tensors.values()], kind)
        part = self._landed(part)
        if part.name not in self.taking:
            self.taking[part.name] = Replayed(self._taking, None)
        (found,) = self.taking[part.name]((part.piece.data_ptr(), kind), part, kind)
        self.taken.add(part.name)
        return found

    def complete(self, but: str = "") -> None:
        """Raises KeyError naming a tensor of a part that has not been taken, ``but`` for one."""
        for name in self.parts:
            if name not in self.taken and name != but:
                self._moves(name, {})

    def _landed(self, part: Part) -> Part:
        """On the device. Parts from elsewhere land in two places in turn, so that they are met there again."""
        if part.piece.device == self.device:
            return part
        self.landings = self.landings[::-1]
        if len(self.landings[0]) < len(part.piece):
            self.landings[0] = torch.empty_like(part.piece, device=self.device)
        return Part(part.outline, self.landings[0][: len(part.piece)].copy_(part.piece))

    def _taking(self, part: Part, kind: Kind | None) -> Work:
        """What writes a part that lies where this one does, and digests its tensors on the way."""
        words, left = direct(part.tensors, self._moves(part.name, part.tensors))
        words = [w for w in words if kind or w.target is not None]
        transfer = Transfer.of(words) if words else None

        def move(part: Part) -> tuple[Tensor]:
            here = None
            if left:
                with beside(self.stream) as here:
                    moves = self._moves(part.name, part.tensors)
                    for i in left:
                        moves[i].target.copy_(moves[i].source)
            sums = kind is not None
            found = torch.empty(0, 2, dtype=torch.int64) if transfer is None else transfer.launch(sums=sums)
            if left:
                behind(self.stream, here)
            return (found,)

        moving = Replayed(lambda _: move, self.recorder)

        def take(part: Part, kind: Kind | None) -> tuple[Tensor, ...]:
            return moving(transfer.turn() if transfer and kind else 0, part)

        return take

    def _moves(self, name: str, tensors: Mapping[str, Tensor]) -> list[Move]:
        """What has to be copied of a part, and to where."""
        if name == "embed_tokens":
            given = tensors["embed_tokens.weight"]
            if not hasattr(self, "embedding"):
                self.embedding = torch.empty_like(given, dtype=self.dtype)
            return [Move(self.embedding, given)]
        if name == "head":
            norm, given = self._vector(tensors["norm.weight"]), tensors["lm_head.weight"]
            if not hasattr(self, "head"):
                self.head = Weight(torch.empty_like(given, dtype=self.dtype))
            return [*self._own("norm", norm), Move(self.head.data, given)]
        if name == "mtp":
            enorm, hnorm, norm = (self._vector(tensors[f"mtp.0.{end}.weight"]) for end in ("enorm", "hnorm", "norm"))
            drafter = Drafter(enorm, hnorm, self._matrix(tensors, "mtp.0.eh_proj"), norm)
            layer = self.layer(tensors, "mtp.0.block.")
            return self._own("drafter", drafter) + self._own_layer(self.c.num_hidden_layers, layer)
        return self._own_layer(int(name.removeprefix("layers.")), self.layer(tensors, name + "."))

    def _own(self, name: str, new: object) -> list[Move]:
        if getattr(self, name, None) is None:
            setattr(self, name, _room(new))
        return _paired(getattr(self, name), new)

    def _own_layer(self, i: int, new: Layer) -> list[Move]:
        if i > len(self.layers):
            raise KeyError(f"layers.{len(self.layers)}")
        if i == len(self.layers):
            self.layers.append(_room(new))
        return _paired(self.layers[i], new)

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

    def embed(self, tokens: Tensor) -> Tensor:
        return self.embedding.index_select(0, tokens)

    def counts(self) -> Tensor:
        """Zeros int32 [layers, experts]: room for every layer's count of the tokens that chose each expert."""
        return torch.zeros(len(self.layers), self.choices, dtype=torch.int32, device=self.device)

    @property
    def choices(self) -> int:
        """Experts of a layer."""
        return max(self.c.n_routed_experts + self.c.n_shared_experts, 1)

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
        kv_b = self._matrix(tensors, at + "kv_b_proj")
        up_k, up_v = halves(kv_b, c.num_attention_heads, c.qk_nope_head_dim, self.dtype)
        kv_a = self._matrix(tensors, at + "kv_a_proj_with_mqa")
        a = kv_a if c.q_lora_rank is None else _joined([self._matrix(tensors, at + "q_a_proj"), kv_a])
        return Layer(
            self._vector(tensors[prefix + "input_layernorm.weight"]),
            a,
            None if c.q_lora_rank is None else self._vector(tensors[at + "q_a_layernorm.weight"]),
            self._vector(tensors[at + "kv_a_layernorm.weight"]),
            self._matrix(tensors, at + ("q_proj" if c.q_lora_rank is None else "q_b_proj")),
            Weight(up_k),
            Weight(up_v),
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
        gate = tensors[prefix + "gate.weight"].float()
        cut = ROUTER_PARTS if gate.shape[1] % (16 * ROUTER_PARTS) == 0 else 1
        router = Weight(router_terms(gate, self.dtype, cut))
        bias = self._vector(tensors[prefix + "gate.e_score_correction_bias"])
        return Feed(_joined(gate_up), _joined(down), router, bias)

    def _swiglu(self, tensors: Mapping[str, Tensor], prefix: str, count: int) -> tuple[Weight, Weight]:
        """One SwiGLU of width count x I as ``count`` experts of width I: gate over up, and down."""
        gate, up, down = (self._matrix(tensors, f"{prefix}{name}_proj") for name in ("gate", "up", "down"))
        halves = [cut for pair in zip(_cut(gate, count, 0), _cut(up, count, 0), strict=True) for cut in pair]
        return _stacked(_joined(halves), count), _stacked(_joined(_cut(down, count, 1)), count)

    def _matrix(self, tensors: Mapping[str, Tensor], name: str) -> Weight:
        data, scale = tensors[name + ".weight"], tensors.get(name + ".weight" + SCALE)
        return Weight(data.to(self.dtype)) if scale is None else Weight(data, scale)

    def _vector(self, x: Tensor) -> Tensor:
        return x.float()


@functools.lru_cache(maxsize=2)
def _turns(c: ModelConfig, device: torch.device) -> Tensor:
    """The rotations FP32 [positions, pairs, 2]; a draft may look one past the end."""
    positions = torch.arange(c.max_position_embeddings + 1)
    return torch.view_as_real(rope.rotations(positions, rope.frequencies(c))).contiguous().to(device)


def _everyone(x: Tensor) -> Chosen:
    """All tokens choose the one expert."""
    tokens = len(x)
    gates = torch.ones(tokens, 1, device=x.device)
    lists = torch.arange(tokens, dtype=torch.int32, device=x.device).unsqueeze(0)
    return Chosen(gates, lists, torch.full((1,), tokens, dtype=torch.int32, device=x.device))


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


class Move(NamedTuple):
    target: Tensor
    source: Tensor


def direct(tensors: Mapping[str, Tensor], moves: Sequence[Move]) -> tuple[list[Passing], list[int]]:
    """How the tensors of a part get to where they are wanted as they are, or cast; one that is not is read for its
    digest. Then which moves are left, whose sources are made of tensors."""
    targets: dict[str, Tensor] = {}
    left: list[int] = []
    for i, (target, source) in enumerate(moves):
        first = source.data_ptr()
        inside = {n: t for n, t in tensors.items() if 0 <= t.data_ptr() - first <= source.nbytes - t.nbytes}
        if not source.is_contiguous() or sum(t.nbytes for t in inside.values()) != source.nbytes:
            left.append(i)
        elif source.dtype == target.dtype:
            own = flat_bytes(target)
            targets |= {n: own[t.data_ptr() - first :][: t.nbytes] for n, t in inside.items()}
        else:
            targets |= dict.fromkeys(inside, target)
    return [Passing(t, targets.get(name), sent=True) for name, t in tensors.items()], left


def _paired(old: object, new: object) -> list[Move]:
    return [Move(target, source) for target, source in zip(_flat(old), _flat(new), strict=True)]


def _room(part: Any) -> Any:
    """Nested dataclasses and tuples with room for their tensors, which nobody else has."""
    if isinstance(part, Tensor):
        return torch.empty_like(part, memory_format=torch.contiguous_format)
    if isinstance(part, tuple):
        return type(part)(*map(_room, part))
    return part if part is None else type(part)(*(_room(getattr(part, field.name)) for field in fields(part)))


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
