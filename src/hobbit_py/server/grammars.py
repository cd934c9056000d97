"""JSON schemas of strangers, on their way to llama.cpp's grammars."""

from __future__ import annotations

import json
from typing import Any

from llama_cpp.llama_grammar import json_schema_to_gbnf

from .._host import llama_cpp
from ..llama import Llama
from .api_errors import ApiError
from .requests import ChatRequest

_MAX_GRAMMAR_CHARS = 1 << 17


def check_schemas(request: ChatRequest, llama: Llama) -> None:
    """Raises ApiError for a schema whose grammar llama.cpp refuses.

    llama_cpp does not look at what llama.cpp says of a grammar, and the process would end at the first token. A schema
    that cannot be made a grammar of is no harm: llama_cpp then asks for any JSON.
    """
    for schema in _schemas(request):
        try:
            grammar = json_schema_to_gbnf(json.dumps(schema))
        except Exception:  # what llama_cpp catches around the same call
            continue
        if len(grammar) > _MAX_GRAMMAR_CHARS:
            raise _refused("it is too large")
        sampler = llama_cpp.llama_sampler_init_grammar(llama._model.vocab, grammar.encode(), b"root")
        if not sampler:
            raise _refused("no text can follow it, or llama.cpp cannot parse its grammar")
        llama_cpp.llama_sampler_free(sampler)


def _schemas(request: ChatRequest) -> list[Any]:
    schemas = [(request.response_format or {}).get("schema")]
    schemas += [tool["function"].get("parameters") for tool in request.tools or []]
    schemas += [function.get("parameters") for function in request.functions or []]
    return [schema for schema in schemas if schema is not None]


def _refused(reason: str) -> ApiError:
    return ApiError(400, "invalid_schema", f"A JSON schema cannot be used: {reason}.")
