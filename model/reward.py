"""Reward models: a language model's body with one number for an output, the score of a whole sequence, read at its last
token (Ouyang et al., arXiv:2203.02155, section 3.5).

A reward model's folder is a checkpoint of its body, `score.safetensors` with the head [1, H], and `reward.json`: how a
prompt and a response are laid out, and what was measured on held-out lines, which scores are normalised and capped by.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from model import checkpoint, hf
from model.chat import Layout, Prompt
from model.config import ConfigError, Precision
from model.moe import Router, Routing
from model.policy import OptimizerSettings, Policy
from model.segments import Segments, fill
from model.tokenizer import Tokenizer
from model.transformer import Transformer

CARD, HEAD = "reward.json", "score.safetensors"


@dataclass(frozen=True)
class Card:
    """``template`` as in `Layout`. ``mean`` and ``deviation`` are of the scores of all held-out responses;
    ``quantiles`` of those that people preferred (or that are labelled good), at 0 %, 1 %, ..., 100 %. ``held_out``
    holds everything that was measured."""

    template: str
    mean: float = 0.0
    deviation: float = 1.0
    quantiles: tuple[float, ...] = ()
    held_out: dict[str, Any] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        (folder / CARD).write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")


def card(folder: Path) -> Card:
    """Raises ConfigError for a folder that holds no reward model."""
    path = folder / CARD
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return Card(**{**values, "quantiles": tuple(values["quantiles"])})
    except FileNotFoundError:
        raise ConfigError(
            f"{folder}: not a reward model, there is no {CARD} in it; `zeroth reward-model` makes one"
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path}: damaged ({error})") from None


class Scored(NamedTuple):
    """``scores`` FP32 [S], one a sequence."""

    scores: Tensor
    routing: list[Routing]


class Scorer(nn.Module):
    """A body and a head, in training or not."""

    def __init__(self, body: Transformer | hf.Dense) -> None:
        super().__init__()
        self.body = body
        self.score = nn.Linear(body.c.hidden_size, 1, bias=False)
        nn.init.zeros_(self.score.weight)

    @property
    def c(self) -> Any:
        return self.body.c

    @property
    def device(self) -> torch.device:
        return self.body.device

    def use(self, precision: Precision, *, recompute: bool = False) -> Scorer:
        self.body.use(precision, recompute=recompute)
        return self

    def routers(self) -> list[Router]:
        return self.body.routers()

    def forward(self, tokens: Tensor, segments: Segments) -> Scored:
        """tokens [N] int64."""
        out = self.body(tokens, segments)
        rows = torch.arange(len(segments.lengths), device=tokens.device) * segments.longest
        last = segments.source[rows + torch.tensor(segments.lengths, device=tokens.device) - 1]
        return Scored(self.score(out.hidden[last].float()).squeeze(-1), out.routing)

    def save(self, tokenizer: Tokenizer, folder: Path) -> None:
        """Writes body and head into an existing folder."""
        if isinstance(self.body, hf.Dense):
            hf.save(self.body, tokenizer, folder)
        else:
            checkpoint.save(self.body, tokenizer, folder)
        save_file({"score.weight": self.score.weight.detach().cpu().contiguous()}, folder / HEAD)


def load(folder: Path) -> tuple[Scorer, Tokenizer]:
    """A reward model, or a language model's checkpoint with a head of zeros."""
    body, tokenizer = checkpoint.load(folder) if hf.is_ours(folder) else hf.load(folder)
    scorer = Scorer(body)
    if (folder / HEAD).is_file():
        scorer.score.load_state_dict({"weight": load_file(folder / HEAD)["score.weight"]})
    return scorer, tokenizer


class RewardPolicy(Policy):
    """A reward model in training. ``describe`` gives the card of the weights as they are, for a checkpoint."""

    def __init__(
        self, base: Path, settings: OptimizerSettings, precision: Precision, template: str, recompute: bool = False
    ) -> None:
        scorer, tokenizer = load(base)
        self.describe: Callable[[], Card] = lambda: Card(template)
        # Policy uses of a model what Scorer has; our Transformer is the type it is written against.
        super().__init__(cast(Transformer, scorer), tokenizer, settings, precision, recompute=recompute)

    @property
    def scorer(self) -> Scorer:
        return cast(Scorer, self.model)

    def save_weights(self, folder: Path) -> None:
        self.scorer.save(self.tokenizer, folder)
        self.describe().write(folder)

    def load_weights(self, folder: Path) -> None:
        self.scorer.load_state_dict(load(folder)[0].state_dict())


class Bundle(NamedTuple):
    """Sequences that begin with the same tokens: the shared beginning once, then each one's rest, never empty."""

    shared: tuple[int, ...]
    rests: tuple[tuple[int, ...], ...]

    @property
    def tokens(self) -> int:
        return len(self.shared) + sum(map(len, self.rests))


def bundle(sequences: Sequence[tuple[int, ...]]) -> Bundle:
    first, last = min(sequences), max(sequences)
    limit = min(map(len, sequences)) - 1
    shared = next((i for i in range(limit) if first[i] != last[i]), limit)
    return Bundle(first[:shared], tuple(ids[shared:] for ids in sequences))


def lay(bundles: Sequence[Bundle], device: torch.device) -> tuple[Tensor, Segments]:
    """Bundles end to end: tokens [N] and segments, one sequence for each rest."""
    tokens = [token for each in bundles for ids in (each.shared, *each.rests) for token in ids]
    segments = Segments.sharing([len(b.shared) for b in bundles], [[len(r) for r in b.rests] for b in bundles])
    return torch.tensor(tokens, device=device), segments.to(device)


class RewardModel:
    """A reward model that scores. ``max_tokens`` bounds what is scored at once."""

    def __init__(self, folder: Path, precision: Precision = "fp32", max_tokens: int = 16384) -> None:
        self.card = card(folder)
        self.scorer, tokenizer = load(folder)
        self.scorer.to("cuda" if torch.cuda.is_available() else "cpu").use(precision).requires_grad_(False)
        self.layout = Layout(tokenizer, self.card.template)
        self.max_tokens = max_tokens

    def scores(self, pairs: Sequence[tuple[Prompt, str]]) -> list[float | None]:
        """The score of each prompt's response; None where the two are longer than the model's context."""
        room: int = self.scorer.c.max_position_embeddings
        laid = [self.layout.answered(*pair).ids for pair in pairs]
        # By length, so that the rows that attention reads are nearly even.
        order = sorted((i for i, ids in enumerate(laid) if len(ids) <= room), key=lambda i: -len(laid[i]))
        parts = fill([Bundle((), (laid[i],)) for i in order], self.max_tokens)
        found = dict(zip(order, (score for part in parts for score in self._score(part)), strict=True))
        return [found.get(i) for i in range(len(pairs))]

    @torch.no_grad()
    def _score(self, bundles: Sequence[Bundle]) -> list[float]:
        tokens, segments = lay(bundles, self.scorer.device)
        scores: list[float] = self.scorer(tokens, segments).scores.tolist()
        return scores
