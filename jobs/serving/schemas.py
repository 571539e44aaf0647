"""What may be asked of `zeroth serve model`: OpenAI's completions and chat completions.

A field that is not known, or is known and not served, is refused by name: a request whose settings were dropped would
be answered wrongly without a word.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

NotServed = Annotated[float | None, Field(ge=0, le=0, description="Only 0 is served.")]
Texts = str | list[str] | None


class StreamOptions(BaseModel):
    model_config = ConfigDict(extra="forbid")
    include_usage: bool = False


class Common(BaseModel):
    """What both ways of asking share."""

    model_config = ConfigDict(extra="forbid")
    model: str
    n: int = Field(1, ge=1, le=128)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    seed: int | None = None
    stop: Texts = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    user: str | None = None
    frequency_penalty: NotServed = None
    presence_penalty: NotServed = None

    @field_validator("stop")
    @classmethod
    def _few_stops(cls, stop: Texts) -> Texts:
        texts = [stop] if isinstance(stop, str) else stop or []
        if len(texts) > 16 or not all(texts):
            raise ValueError("stop is at most 16 texts, none of them empty")
        return stop

    @property
    def stops(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())


class CompletionRequest(Common):
    prompt: str | list[str] | list[int] | list[list[int]]
    max_tokens: int = Field(16, ge=0)
    logprobs: int | None = Field(None, ge=0, le=20)
    echo: bool = False

    def prompts(self) -> list[str | list[int]]:
        given: Any = self.prompt
        single = isinstance(given, str) or (given and isinstance(given[0], int))
        return [given] if single else list(given)


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid")
    type: Literal["text"]
    text: str


class Message(BaseModel):
    model_config = ConfigDict(extra="forbid")
    role: str = Field(min_length=1)
    content: str | list[Part]
    name: str | None = None

    def plain(self) -> dict[str, str]:
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return {"role": self.role, "content": text}


class ChatRequest(Common):
    messages: list[Message] = Field(min_length=1)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool = False
    top_logprobs: int = Field(0, ge=0, le=20)


def message_of(errors: list[Any]) -> tuple[str, str]:
    """Pydantic's first error as a message, and the field that it is about."""
    first = errors[0]
    place = ".".join(str(part) for part in first["loc"] if part != "body")
    said = "is not served here" if first["type"] == "extra_forbidden" else first["msg"]
    return f"{place or 'body'}: {said}", place
