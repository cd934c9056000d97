"""From a request to the call of llama_cpp that answers it."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from llama_cpp.llama_chat_format import LlamaChatCompletionHandlerRegistry

from .._host import llama_cpp
from ..errors import UsageError
from ..llama import Llama
from .api_errors import ApiError, too_long
from .grammars import check_schemas
from .limits import Limits
from .requests import ChatRequest, CompletionRequest

# Not arguments of llama_cpp's: handled here, or without meaning for a single answer.
_OWN_FIELDS = {
    "n",
    "best_of",
    "user",
    "grammar",
    "suffix",
    "min_tokens",
    "logit_bias_type",
    "max_completion_tokens",
}
# No tokeniser known has tokens longer than this on average, so a longer text is not worth tokenising.
_MAX_CHARS_PER_TOKEN = 32
_seeds = random.SystemRandom()


def plan_call(
    request: ChatRequest | CompletionRequest, llama: Llama, model_name: str, limits: Limits, *, can_logprobs: bool
) -> Callable[[Llama], Any]:
    """Checks what needs the model but no computation, and returns the call to make when it is this request's turn.

    Raises ApiError.
    """
    n_ctx = llama.n_ctx()
    if request.n_chars > n_ctx * _MAX_CHARS_PER_TOKEN:
        raise too_long(n_ctx, f"{request.n_chars} characters")
    if request.wants_logprobs and not can_logprobs:
        raise ApiError(
            400,
            "logprobs_off",
            "Log-probabilities need memory for the logits of all tokens; start the server with --logprobs.",
            param="logprobs",
        )
    arguments: dict[str, Any] = request.model_dump(exclude=_OWN_FIELDS)
    arguments["model"] = model_name
    arguments["max_tokens"] = _fewest(request.max_tokens, limits.max_tokens)
    # Without a seed llama_cpp's completions repeat themselves from run to run.
    seed = request.seed
    arguments["seed"] = _seeds.getrandbits(31) if seed is None or seed < 0 else seed % 0xFFFFFFFF
    if request.logit_bias is not None:
        arguments["logit_bias"] = _bias_by_id(llama, request.logit_bias, request.logit_bias_type)
    if request.min_tokens > 0:
        if isinstance(request, ChatRequest) and (request.response_format or request.tools or request.functions):
            # Where the grammar allows nothing but the end and the end is forbidden, llama.cpp aborts.
            raise ApiError(400, "invalid_request", "min_tokens cannot be combined with a format or tools.")
        if request.logit_bias is not None:
            # llama_cpp joins the two with a list.extend() whose result it keeps: None.
            raise ApiError(400, "invalid_request", "min_tokens cannot be combined with logit_bias.")
        arguments["logits_processor"] = llama_cpp.LogitsProcessorList(
            [llama_cpp.MinTokensLogitsProcessor(request.min_tokens, llama.token_eos())]
        )
    if isinstance(request, CompletionRequest):
        if not isinstance(request.prompt, str):
            arguments["prompt"] = request.prompt[0]
        return lambda model: model.create_completion(**arguments)

    def chat(model: Llama) -> Any:  # noqa: ANN401
        check_schemas(request, model)  # here and not above: it may take a while, and this thread may
        return model.create_chat_completion(**arguments)

    return chat


def check_chat_format(name: str | None) -> None:
    """Raises UsageError for a format that neither llama_cpp has nor a model may bring."""
    known = LlamaChatCompletionHandlerRegistry()._chat_handlers
    if name is not None and name not in known and not name.startswith("chat_template."):
        raise UsageError(f"There is no chat format {name!r}; the formats are {', '.join(sorted(known))}.")


def _fewest(*limits: int | None) -> int | None:
    return min((limit for limit in limits if limit is not None), default=None)


def _bias_by_id(llama: Llama, bias: dict[str, float], kind: str | None) -> dict[str, float]:
    if kind == "tokens":
        ids = ((llama.tokenize(text.encode(), add_bos=False, special=True), value) for text, value in bias.items())
        return {str(token): value for tokens, value in ids for token in tokens}
    n_vocab = llama.n_vocab()
    for name in bias:
        if not (name.isascii() and name.isdigit() and int(name) < n_vocab):
            raise ApiError(
                400,
                "invalid_request",
                f"logit_bias names the token {name[:32]!r} and must name numbers from 0 to {n_vocab - 1}.",
                param="logit_bias",
            )
    return dict(bias)
