"""A checkpoint as a model of lm-evaluation-harness: likelihoods and completions by the native engine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from jobs.config import RecipeError
from jobs.loaded import layout_of, loaded_engine
from jobs.serving.text import cut_at_stop
from model.chat import messages_of
from model.engine import Request, Sampling
from model.likelihood import likelihoods
from rl.rollout import sample_seed

BATCH_TOKENS = 8192
NOT_HERE = ("num_beams", "repetition_penalty", "top_k", "min_p")
"""Settings of a task that change what is sampled and that the engine does not have."""


class ZerothLM(TemplateLM):  # type: ignore[misc]
    """``--model zeroth --model_args pretrained=FOLDER,precision=fp8``. ``template`` lays out chats
    (``--apply_chat_template``); ``seed`` and each request's place give its seed where a task samples."""

    backend = "causal"

    def __init__(
        self,
        pretrained: str = "",
        precision: str = "fp32",
        template: str | None = None,
        max_gen_toks: int = 256,
        seed: int = 0,
        batch_size: int | str = 64,
        max_batch_size: int | None = None,
        device: str | None = None,
    ) -> None:
        if not pretrained:
            raise RecipeError("--model zeroth needs its checkpoint: --model_args pretrained=FOLDER")
        super().__init__()
        rows = int(batch_size) if str(batch_size).isdigit() and int(batch_size) > 1 else max_batch_size or 64
        folder = Path(pretrained)
        self.engine = loaded_engine(folder, precision, rows)
        self.tokenizer = self.engine.tokenizer
        self.layout = layout_of(folder, self.tokenizer, template)
        self.max_length = self.engine.config.max_position_embeddings
        self.max_gen_toks, self.seed, self._folder, self._chat = max_gen_toks, seed, folder, False

    @property
    def eot_token_id(self) -> int:
        return int(self.tokenizer.eos)

    @property
    def prefix_token_id(self) -> int:
        return int(self.tokenizer.bos)

    @property
    def tokenizer_name(self) -> str:
        return str(self._folder.resolve()).replace("/", "__")

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        return self.layout.template or self.layout.chat

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """From now on special tokens' names in texts are the template's, and are read as tokens."""
        self._chat = True
        if self.layout.template:
            from model.chat import fill

            return fill(self.layout.template, messages_of(chat_history))
        return self.layout.render(chat_history, add_generation_prompt=add_generation_prompt)

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **unused: Any) -> list[int]:
        return self.layout.encode(string) if self._chat else self.tokenizer.encode(string)

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[tuple[str, str], list[int], list[int]]], **unused: Any
    ) -> list[tuple[float, bool]]:
        """The sum over the continuation, and whether greedy sampling takes it. A context that is too long loses its
        beginning."""
        wholes = [(before + after)[-self.max_length :] for _, before, after in requests]
        found = likelihoods(self.engine.model, wholes, 1, BATCH_TOKENS)
        answers = []
        for (key, _, after), whole, likelihood in zip(requests, wholes, found, strict=True):
            start = max(1, len(whole) - len(after))
            answers.append((sum(likelihood.logprobs[start - 1 :]), likelihood.greedy(whole, start)))
            self.cache_hook.add_partial("loglikelihood", key, answers[-1])
        return answers

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Whole texts, in windows of the model's context that predict each token once."""
        totals = []
        for (text,) in [request.args for request in requests]:
            windows = get_rolling_token_windows(self.tok_encode(text), self.prefix_token_id, self.max_length - 1, 1)
            pairs: list[Any] = [(("", ""), *make_disjoint_window(window)) for window in windows]
            totals.append(sum(logp for logp, _ in self._loglikelihood_tokens(pairs)))
            self.cache_hook.add_partial("loglikelihood_rolling", (text,), totals[-1])
        return totals

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """All requests of the same settings together; a context that leaves no room loses its beginning."""
        groups: dict[Sampling, list[int]] = {}
        for i, request in enumerate(requests):
            groups.setdefault(self._sampling(request.args[1]), []).append(i)
        texts = [""] * len(requests)
        for sampling, places in groups.items():
            room = max(1, self.max_length - sampling.max_tokens)
            asked = [
                Request(
                    tuple(self.tok_encode(requests[i].args[0])[-room:]) or (self.prefix_token_id,),
                    (sample_seed(self.seed, str(i)),),
                )
                for i in places
            ]
            for i, (completion,) in zip(places, self.engine.sample(asked, sampling), strict=True):
                texts[i] = cut_at_stop(completion.text, sampling.stop)
                self.cache_hook.add_partial("generate_until", requests[i].args, texts[i])
        return texts

    def _sampling(self, settings: dict[str, Any]) -> Sampling:
        kwargs: dict[str, Any] = dict(normalize_gen_kwargs(settings, self.max_gen_toks))
        unknown = [name for name in NOT_HERE if kwargs.get(name) not in (None, 0, 1, 1.0)]
        if unknown:
            raise ValueError(f"the task asks for {', '.join(unknown)}, which the engine does not have")
        until = kwargs.get("until") or []
        stop = tuple(text for text in ([until] if isinstance(until, str) else until) if text)
        temperature, top_p = float(kwargs.get("temperature") or 0.0), float(kwargs.get("top_p") or 1.0)
        return Sampling(temperature, top_p, int(kwargs["max_gen_toks"]), stop)
