"""The shape of a model of the DeepSeek-V3 architecture, under the names of Hugging Face's ``DeepseekV3Config``."""

from __future__ import annotations

import dataclasses
import difflib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Precision = Literal["fp32", "bf16", "fp8"]
Scoring = Literal["sigmoid", "softmax"]


class ConfigError(ValueError):
    """A model configuration that no model can be built from."""

    exit_status = 2


@dataclass(frozen=True)
class ModelConfig:
    """Sizes are counts of elements unless they say otherwise.

    Every rope is YaRN (arXiv:2309.00071), with ``rope_factor`` 1 where the context is not extended: loaders disagree
    about the default rope and agree about YaRN. ``topk_group`` of ``n_group`` groups of experts are eligible for a
    token. ``scoring_func`` "sigmoid" is DeepSeek-V3's router; "softmax" is DeepSeek-V2's, which has no routing bias,
    ranks groups by their best expert alone, and whose gates stay as they are (``norm_topk_prob`` false).
    ``num_nextn_predict_layers`` is the number of multi-token-prediction modules.
    """

    vocab_size: int = 512
    hidden_size: int = 128
    intermediate_size: int = 256
    moe_intermediate_size: int = 64
    num_hidden_layers: int = 4
    num_attention_heads: int = 4
    q_lora_rank: int | None = None
    kv_lora_rank: int = 64
    qk_nope_head_dim: int = 16
    qk_rope_head_dim: int = 16
    v_head_dim: int = 32
    n_routed_experts: int = 8
    n_shared_experts: int = 1
    num_experts_per_tok: int = 2
    n_group: int = 1
    topk_group: int = 1
    first_k_dense_replace: int = 1
    scoring_func: Scoring = "sigmoid"
    norm_topk_prob: bool = True
    routed_scaling_factor: float = 1.0
    num_nextn_predict_layers: int = 0
    max_position_embeddings: int = 512
    rms_norm_eps: float = 1e-6
    initializer_range: float = 0.006
    rope_theta: float = 10000.0
    rope_factor: float = 1.0
    rope_original_max_position_embeddings: int = 512
    rope_beta_fast: float = 32.0
    rope_beta_slow: float = 1.0
    rope_mscale: float = 1.0
    bos_token_id: int = 0
    eos_token_id: int = 1

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if not _fits(value, str(field.type)):
                raise ConfigError(f"model: {field.name} must be {_KINDS[str(field.type)]}, not {value!r}")
        for name in ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_experts_per_tok"):
            if getattr(self, name) < 1:
                raise ConfigError(f"model: {name} must be at least 1, not {getattr(self, name)}")
        if self.qk_rope_head_dim % 2:
            raise ConfigError(f"model: qk_rope_head_dim must be even, not {self.qk_rope_head_dim}")
        if self.n_routed_experts % self.n_group:
            raise ConfigError(
                f"model: n_routed_experts ({self.n_routed_experts}) must be a multiple of n_group ({self.n_group})"
            )
        if not 1 <= self.topk_group <= self.n_group:
            raise ConfigError(
                f"model: topk_group must be between 1 and n_group ({self.n_group}), not {self.topk_group}"
            )
        eligible = self.n_routed_experts // self.n_group * self.topk_group
        if self.num_experts_per_tok > eligible:
            raise ConfigError(
                f"model: num_experts_per_tok ({self.num_experts_per_tok}) exceeds the {eligible} experts of "
                f"{self.topk_group} group(s)"
            )
        if self.scoring_func == "softmax" and self.norm_topk_prob:
            raise ConfigError("model: softmax scores are not normalised again: set norm_topk_prob = false")
        if self.group_best > self.n_routed_experts // self.n_group and self.n_group > 1:
            raise ConfigError("model: a group of experts needs at least 2 experts, since its score sums its two best")
        if not 0 <= self.first_k_dense_replace <= self.num_hidden_layers:
            raise ConfigError("model: first_k_dense_replace must be between 0 and num_hidden_layers")

    @property
    def qk_head_dim(self) -> int:
        return self.qk_nope_head_dim + self.qk_rope_head_dim

    @property
    def group_best(self) -> int:
        """How many of a group's best experts make up its score."""
        return 2 if self.scoring_func == "sigmoid" else 1

    def moe_layers(self) -> list[int]:
        """The indices of the decoder layers, MTP modules included, that hold a router."""
        return list(range(self.first_k_dense_replace, self.num_hidden_layers + self.num_nextn_predict_layers))


_KINDS = {
    "int": "a whole number",
    "int | None": "a whole number or nothing",
    "float": "a number",
    "bool": "true or false",
    "Scoring": "'sigmoid' or 'softmax'",
}


def _fits(value: Any, kind: str) -> bool:
    if kind == "Scoring":
        return value in ("sigmoid", "softmax")
    if isinstance(value, bool) or kind == "bool":
        return isinstance(value, bool) and kind == "bool"
    if value is None:
        return kind == "int | None"
    return isinstance(value, int | float if kind == "float" else int)


def to_hf(config: ModelConfig) -> dict[str, Any]:
    """The config.json that transformers and vLLM load as ``DeepseekV3ForCausalLM``, or, for a softmax router,
    ``DeepseekV2ForCausalLM``."""
    fields = {k: v for k, v in dataclasses.asdict(config).items() if not k.startswith("rope_")}
    generation, method = 3, "noaux_tc"
    if config.scoring_func == "softmax":
        generation, method = 2, "group_limited_greedy" if config.n_group > 1 else "greedy"
    return {
        "architectures": [f"DeepseekV{generation}ForCausalLM"],
        "model_type": f"deepseek_v{generation}",
        **fields,
        "num_key_value_heads": config.num_attention_heads,
        "hidden_act": "silu",
        "attention_bias": False,
        "tie_word_embeddings": False,
        "moe_layer_freq": 1,
        "topk_method": method,
        "rope_theta": config.rope_theta,
        "rope_interleave": True,
        "rope_scaling": {
            "type": "yarn",
            "rope_type": "yarn",
            "factor": config.rope_factor,
            "original_max_position_embeddings": config.rope_original_max_position_embeddings,
            "beta_fast": config.rope_beta_fast,
            "beta_slow": config.rope_beta_slow,
            "mscale": config.rope_mscale,
            "mscale_all_dim": config.rope_mscale,
        },
    }


SCORING: dict[str, Scoring] = {"deepseek_v3": "sigmoid", "deepseek_v2": "softmax"}
"""What each model_type scores experts with where its config.json does not say."""

FIXED = {"tie_word_embeddings": False, "attention_bias": False, "hidden_act": "silu", "moe_layer_freq": 1}
"""What no published model of this architecture varies, and this project does not read."""


def from_hf(values: dict[str, Any], source: str) -> ModelConfig:
    """Reads the config.json of a DeepSeek-V3 or V2 model; ``source`` names it in errors. Raises ConfigError."""
    kind = values.get("model_type")
    if kind not in SCORING:
        raise ConfigError(f"{source}: model_type is {kind!r}, this project loads {' and '.join(map(repr, SCORING))}")
    for name, only in FIXED.items():
        if values.get(name, only) != only:
            raise ConfigError(f"{source}: {name} is {values[name]!r}; of this architecture it is {only!r}")
    blocks = values.get("quantization_config", {}).get("weight_block_size", [128, 128])
    if blocks != [128, 128]:
        raise ConfigError(f"{source}: FP8 weights come in blocks of {blocks}; this project reads blocks of [128, 128]")
    names = {f.name for f in dataclasses.fields(ModelConfig)}
    known = {"scoring_func": SCORING[kind], "n_shared_experts": 0, **_named(values, names), **_rope(values, source)}
    if isinstance(known.get("eos_token_id"), list):
        known["eos_token_id"] = known["eos_token_id"][0]
    try:
        return ModelConfig(**known)
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from None


def _named(values: dict[str, Any], names: set[str]) -> dict[str, Any]:
    return {k: v for k, v in values.items() if k in names and v is not None}


def _rope(values: dict[str, Any], source: str) -> dict[str, Any]:
    """The rope fields. transformers 5 writes rope_parameters where earlier releases wrote rope_theta and
    rope_scaling."""
    rope = dict(values.get("rope_parameters") or values.get("rope_scaling") or {})
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind not in ("default", "yarn"):
        raise ConfigError(f"{source}: a rope of type {kind!r} is not part of this architecture, only 'yarn'")
    context = values.get("max_position_embeddings", 4096)
    found = {
        "rope_theta": rope.get("rope_theta", values.get("rope_theta", 10000.0)),
        "rope_original_max_position_embeddings": rope.get("original_max_position_embeddings", context),
        "rope_mscale": rope.get("mscale_all_dim", 1.0),
    }
    for ours, theirs in (("rope_factor", "factor"), ("rope_beta_fast", "beta_fast"), ("rope_beta_slow", "beta_slow")):
        if theirs in rope:
            found[ours] = rope[theirs]
    # With equal mscales YaRN's temperature acts on the softmax alone; published models have no others.
    if found.get("rope_factor", 1) != 1 and rope.get("mscale") != rope.get("mscale_all_dim", 0):
        raise ConfigError(f"{source}: rope mscale and mscale_all_dim must be given and equal")
    return found


def from_recipe(values: dict[str, Any], source: str) -> ModelConfig:
    """A config from a recipe's [model] table. An unknown key is a ConfigError that names the nearest known one."""
    names = [f.name for f in dataclasses.fields(ModelConfig)]
    for key in values:
        if key not in names:
            near = difflib.get_close_matches(key, names, n=1, cutoff=0.0)[0]
            raise ConfigError(f"{source}: unknown key {key!r}; the nearest known key is {near!r}")
    return ModelConfig(**values)


def no_checkpoint(folder: Path) -> ConfigError:
    """The error for a folder without a config.json; that of a run is told its last checkpoint."""
    found = sorted(folder.glob("checkpoints/step-*"), key=lambda path: (len(path.name), path.name))
    meant = f"; it is a run's, and the last of its checkpoints is {found[-1]}" if found else ""
    what = "not a checkpoint" if folder.is_dir() else "no such checkpoint"
    return ConfigError(f"{folder}: {what}, there is no config.json in it{meant}")


def load(folder: Path) -> ModelConfig:
    path = folder / "config.json"
    try:
        values = json.loads(path.read_text())
    except FileNotFoundError:
        raise no_checkpoint(folder) from None
    except ValueError as error:
        raise ConfigError(f"{path}: not JSON: {error}") from None
    return from_hf(values, str(path))
