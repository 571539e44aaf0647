"""From a conversation to token ids, and which of them an assistant wrote.

A layout is either a plain template with ``{prompt}`` in it, which the response is put behind, or a chat template in
Jinja, as Hugging Face's checkpoints carry one. Both are encoded piece by piece: what comes before an answer is encoded
by itself, as it is when the answer is sampled, so that training and sampling see the same tokens.

What people and models wrote stays text: a special token's name in a message is never read as that token.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from model.tokenizer import Tokenizer

Message = Mapping[str, str]
Prompt = str | Sequence[Message]

DEFAULT_CHAT = (
    "{% for message in messages %}{{ message.role | capitalize }}: {{ message.content }}"
    "{% if message.role == 'assistant' %}{{ eos_token }}{% endif %}{{ '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}Assistant: {% endif %}"
)
"""The chat template of a checkpoint that has none."""

PRIVATE_USE = 0xE000
"""The first of Unicode's private characters, which stand for special tokens' names while a template is rendered."""


class ChatError(ValueError):
    """A conversation that a template cannot lay out."""

    exit_status = 2


@dataclass(frozen=True)
class Dialogue:
    """``ids`` are the tokens of a whole conversation; ``trained[i]`` says whether an assistant wrote token i."""

    ids: tuple[int, ...]
    trained: tuple[bool, ...]

    @property
    def tokens(self) -> int:
        return len(self.ids)


def flat(prompt: Prompt) -> str:
    """A prompt as text. Messages are laid out as "Role: content" lines; the first user message goes without."""
    if isinstance(prompt, str):
        return prompt
    first, *rest = prompt
    lead = first["content"] if first["role"] == "user" else f"{first['role'].capitalize()}: {first['content']}"
    return "\n".join([lead, *(f"{m['role'].capitalize()}: {m['content']}" for m in rest)])


def fill(template: str, prompt: Prompt) -> str:
    """The text that is completed: the prompt in the place of ``{prompt}``."""
    return template.replace("{prompt}", flat(prompt))


def as_chat(template: str) -> str:
    """A chat template in Jinja whose text before an answer is that of `fill`."""
    before, _, after = template.partition("{prompt}")
    turn = "{% if not loop.first %}{{ '\\n' }}{% endif %}{{ message.role | capitalize }}: {{ message.content }}"
    return (
        f"{{{{ {json.dumps(before, ensure_ascii=False)} }}}}"
        "{% for message in messages %}"
        "{% if loop.first and message.role == 'user' %}{{ message.content }}{% else %}"
        + turn
        + "{% endif %}{% endfor %}"
        f"{{% if add_generation_prompt %}}{{{{ {json.dumps(after, ensure_ascii=False)} }}}}{{% endif %}}"
    )


def messages_of(prompt: Prompt) -> list[Message]:
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)


class Layout:
    """``template`` holds {prompt}, or is empty: then ``chat`` (Jinja), the tokenizer's own or `DEFAULT_CHAT` is used.
    Raises ChatError where a template is none."""

    def __init__(self, tokenizer: Tokenizer, template: str = "", chat: str | None = None) -> None:
        from jinja2 import TemplateError

        if template and "{prompt}" not in template:
            raise ChatError(f"the template {template!r} must contain {{prompt}}, the place where a prompt goes")
        self.tokenizer, self.template = tokenizer, template
        self.chat = chat or tokenizer.chat_template or DEFAULT_CHAT
        try:
            self._jinja = _environment().from_string(self.chat)
        except TemplateError as error:
            raise ChatError(f"the chat template is not Jinja: {error}") from None

    def prompt(self, prompt: Prompt) -> tuple[int, ...]:
        """The tokens that an answer to this prompt continues."""
        if self.template:
            return tuple(self.tokenizer.encode(fill(self.template, prompt)))
        return tuple(self.encode(self.render(messages_of(prompt), add_generation_prompt=True)))

    def answered(self, prompt: Prompt, response: str) -> Dialogue:
        """A prompt with its response, closed by the end token."""
        if not self.template:
            return self.conversation([*messages_of(prompt), {"role": "assistant", "content": response}])
        before, answer = self.prompt(prompt), (*self.tokenizer.encode(response), self.tokenizer.eos)
        return Dialogue((*before, *answer), (False,) * len(before) + (True,) * len(answer))

    def conversation(self, messages: Sequence[Message]) -> Dialogue:
        """Several turns under the chat template; what assistants said is trained, with the end of their turns. Raises
        ChatError where the template does not lay out a conversation as the continuation of its beginning."""
        ids: list[int] = []
        trained: list[bool] = []
        whole, done = self.render(messages), 0
        for i, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            before, after = self.render(messages[:i], add_generation_prompt=True), self.render(messages[: i + 1])
            if not (after.startswith(before) and whole.startswith(after)):
                raise ChatError(
                    f"the chat template lays out message {i + 1} otherwise when more follows, so what the assistant "
                    "says there cannot be told apart; make it the last message of a conversation of its own"
                )
            end = len(before) + self._turn(after[len(before) :])
            for text, wrote in ((whole[done : len(before)], False), (whole[len(before) : end], True)):
                piece = self.encode(text)
                ids += piece
                trained += [wrote] * len(piece)
            done = end
        if not any(trained):
            raise ChatError("there is no message of an assistant in the conversation")
        return Dialogue(tuple(ids), tuple(trained))

    def render(self, messages: Sequence[Message], *, add_generation_prompt: bool = False) -> str:
        """The template's text, special tokens' names in messages under private characters. Raises ChatError with what
        the template says."""
        from jinja2 import TemplateError

        kept = [{**m, "content": self._masked(m["content"])} for m in messages]
        name = self.tokenizer.name
        try:
            text: str = self._jinja.render(
                messages=kept,
                add_generation_prompt=add_generation_prompt,
                bos_token=name(self.tokenizer.bos),
                eos_token=name(self.tokenizer.eos),
            )
        except TemplateError as error:
            raise ChatError(f"the chat template: {error}") from None
        return text

    def _turn(self, text: str) -> int:
        """How much of a turn's text its author wrote: white space after the end token is the template's."""
        ended = text.rstrip()
        return len(ended) if ended.endswith(self.tokenizer.name(self.tokenizer.eos)) else len(text)

    @cached_property
    def _private(self) -> dict[str, str]:
        """Each special token's name, and the private character that stands for it."""
        return {name: chr(PRIVATE_USE + i) for i, name in enumerate(self.tokenizer.special_names())}

    def _masked(self, content: str) -> str:
        for name, character in self._private.items():
            content = content.replace(name, character)
        return content

    def encode(self, text: str) -> list[int]:
        """The tokens of what `render` gives."""
        names = {character: name for name, character in self._private.items()}
        ids: list[int] = []
        start = 0
        for place, character in enumerate(text):
            if character in names:
                ids += self.tokenizer.encode_special(text[start:place]) + self.tokenizer.encode(names[character])
                start = place + 1
        return ids + self.tokenizer.encode_special(text[start:])


def _environment() -> Any:
    """Jinja as transformers sets it up for chat templates. A template comes with a checkpoint, so it runs in Jinja's
    sandbox."""
    from datetime import datetime

    from jinja2 import TemplateError
    from jinja2.ext import loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def raise_exception(message: str) -> None:
        raise TemplateError(message)

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.filters["tojson"] = lambda value, **options: json.dumps(value, ensure_ascii=False, **options)
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment
