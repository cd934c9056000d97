"""The two requests, as llama-cpp-python's server has them, within bounds that its sampler survives."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from llama_cpp.server.types import CreateChatCompletionRequest, CreateCompletionRequest
from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from .api_errors import ApiError

_StopText = Annotated[str, Field(min_length=1, max_length=256)]
_MAX_LOGPROBS = 20


class _Bounds(BaseModel):
    """What both requests share, where llama_cpp leaves a range open that crashes it or has no meaning."""

    model: str | None = Field(None, max_length=256, description="Any name: the one model that is loaded answers.")
    n: Literal[1] = 1
    temperature: float = Field(0.8, ge=0.0, le=100.0)
    repeat_penalty: float = Field(1.1, gt=0.0, le=10.0)
    presence_penalty: float = Field(0.0, ge=-2.0, le=2.0)
    frequency_penalty: float = Field(0.0, ge=-2.0, le=2.0)
    mirostat_tau: float = Field(5.0, gt=0.0, le=10.0)
    top_k: int = Field(40, ge=0, le=2**31 - 1)
    min_tokens: int = Field(0, ge=0, le=2**31 - 1)
    seed: int | None = Field(None, description="None, or a negative one: another one for each request.")
    stop: _StopText | Annotated[list[_StopText], Field(max_length=16)] | None = None
    logit_bias: dict[str, Annotated[float, Field(ge=-100.0, le=100.0)]] | None = None
    grammar: None = Field(None, description="Not accepted: llama.cpp's parser of grammars is not made for strangers.")


class CompletionRequest(_Bounds, CreateCompletionRequest):  # type: ignore[misc]
    """POST /v1/completions."""

    prompt: str | Annotated[list[str], Field(min_length=1, max_length=1)] = ""
    max_tokens: int | None = Field(16, ge=1)
    logprobs: int | None = Field(None, ge=0, le=_MAX_LOGPROBS)
    best_of: Literal[1] = 1
    suffix: None = Field(None, description="Not accepted: it needs tokens for infilling.")

    @property
    def wants_logprobs(self) -> bool:
        """Whether probabilities of tokens must be returned."""
        return self.logprobs is not None

    @property
    def n_chars(self) -> int:
        """Length of the prompt."""
        return len(self.prompt) if isinstance(self.prompt, str) else len(self.prompt[0])


class ChatRequest(_Bounds, CreateChatCompletionRequest):  # type: ignore[misc]
    """POST /v1/chat/completions."""

    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1, description="The newer name of max_tokens.")
    top_logprobs: int | None = Field(None, ge=0, le=_MAX_LOGPROBS)

    @model_validator(mode="before")
    @classmethod
    def _newer_names(cls, body: Any) -> Any:  # noqa: ANN401
        """What OpenAI renamed after llama_cpp's types were written."""
        if not isinstance(body, dict):
            return body
        body = dict(body)
        if "max_completion_tokens" in body:
            body["max_tokens"] = body["max_completion_tokens"]
        wanted = body.get("response_format")
        if isinstance(wanted, dict) and wanted.get("type") == "json_schema":
            named = wanted.get("json_schema")
            schema = named.get("schema") if isinstance(named, dict) else None
            body["response_format"] = {"type": "json_object", "schema": schema if isinstance(schema, dict) else {}}
        return body

    @field_validator("messages")
    @classmethod
    def _check_messages(cls, messages: list[Any]) -> list[Any]:
        if not messages:
            raise ValueError("there must be at least one message")
        for message in messages:
            content = message.get("content")
            if isinstance(content, list) and any(part["type"] != "text" for part in content):
                raise ValueError("this model reads text only, and a message holds an image")
        return messages

    @property
    def wants_logprobs(self) -> bool:
        """Whether probabilities of tokens must be returned."""
        return bool(self.logprobs)

    @property
    def n_chars(self) -> int:
        """Length of all messages and tools, at least."""
        return sum(_n_chars(value) for value in (self.messages, self.tools, self.functions))


def _n_chars(value: object) -> int:
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict):
        return sum(_n_chars(item) for item in value.values())
    return sum(_n_chars(item) for item in value) if isinstance(value, list) else 0


Request = TypeVar("Request", CompletionRequest, ChatRequest)


def parse(kind: type[Request], body: dict[str, Any]) -> Request:
    """Makes the request of a body; raises ApiError with the first thing that is wrong."""
    try:
        return kind.model_validate(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(str(step) for step in first["loc"])
        raise ApiError(400, "invalid_request", f"{where or 'the request'}: {first['msg']}.", param=where) from None
