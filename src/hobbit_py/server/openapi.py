"""The OpenAPI description at /openapi.json, made of the types that the requests are checked with."""

from __future__ import annotations

from typing import Any

import llama_cpp
from pydantic import TypeAdapter
from pydantic.json_schema import JsonSchemaMode

from .. import __version__
from .requests import ChatRequest, CompletionRequest

_REF = "#/components/schemas/{model}"
_ERRORS = {
    "400": "The request is wrong.",
    "401": "The API key is missing or wrong.",
    "403": "Asked by another site's page, or under another name.",
    "408": "The body came too slowly.",
    "413": "The body is too large.",
    "500": "The model failed.",
    "503": "Too many requests wait, or the server stops.",
}
_ERROR_SCHEMA = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": "string"},
            },
        }
    },
}


def describe() -> dict[str, Any]:
    """The whole document."""
    kinds: dict[str, Any] = {
        "/v1/chat/completions": ("Chat", ChatRequest, llama_cpp.CreateChatCompletionResponse),
        "/v1/completions": ("Completion", CompletionRequest, llama_cpp.CreateCompletionResponse),
    }
    inputs: list[tuple[str, JsonSchemaMode, TypeAdapter[Any]]] = []
    for path, (_title, request, response) in kinds.items():
        inputs.append((f"{path} request", "validation", TypeAdapter(request)))
        inputs.append((f"{path} response", "serialization", TypeAdapter(response)))
    refs, definitions = TypeAdapter.json_schemas(inputs, ref_template=_REF)
    schemas = dict(definitions.get("$defs", {}), Error=_ERROR_SCHEMA)
    paths: dict[str, Any] = {}
    for path, (title, _request, _response) in kinds.items():
        paths[path] = {
            "post": {
                "summary": title,
                "security": [{}, {"key": []}],
                "requestBody": {"required": True, "content": _json(refs[f"{path} request", "validation"])},
                "responses": {
                    "200": {
                        "description": "The answer, or with stream=true its chunks as server-sent events.",
                        "content": {
                            **_json(refs[f"{path} response", "serialization"]),
                            "text/event-stream": {},
                        },
                    },
                    **_errors(*_ERRORS),
                },
            }
        }
    paths["/v1/models"] = _get("The one model that is loaded.", "401", "403")
    paths["/v1/models/{name}"] = _get("The one model that is loaded.", "401", "403")
    paths["/v1/models/{name}"]["get"]["responses"] |= {
        "404": {"description": "There is no such model.", "content": _json({"$ref": _REF.format(model="Error")})}
    }
    paths["/v1/models/{name}"]["get"]["parameters"] = [
        {"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}
    ]
    paths["/health"] = _get("Whether the server answers.", "403")
    paths["/metrics"] = _get("Counters for Prometheus.", "401", "403", content_type="text/plain")
    paths["/state"] = _get("Counters, and where each expert is.", "401", "403")
    return {
        "openapi": "3.1.0",
        "info": {"title": "hobbit serve", "version": __version__},
        "paths": paths,
        "components": {"schemas": schemas, "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}},
    }


def _get(summary: str, *errors: str, content_type: str = "application/json") -> dict[str, Any]:
    schema = {"type": "string" if content_type == "text/plain" else "object"}
    answer = {"description": "The answer.", "content": {content_type: {"schema": schema}}}
    return {
        "get": {"summary": summary, "security": [{}, {"key": []}], "responses": {"200": answer, **_errors(*errors)}}
    }


def _json(schema: Any) -> dict[str, Any]:  # noqa: ANN401
    return {"application/json": {"schema": schema}}


def _errors(*statuses: str) -> dict[str, Any]:
    content = _json({"$ref": _REF.format(model="Error")})
    return {status: {"description": _ERRORS[status], "content": content} for status in statuses}
