"""What a client is told when its request fails, in OpenAI's form."""

from __future__ import annotations

import re
import sys
import traceback

import jinja2
from starlette.responses import JSONResponse

from ..errors import HobbitError

_TOO_LONG = re.compile(r"Requested tokens \((\d+)\) exceed context window of (\d+)")


class ApiError(Exception):
    """Ends a request with an HTTP status; the message is one sentence for the client."""

    def __init__(self, status: int, code: str, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.param = param

    def body(self) -> dict[str, object]:
        """The object that OpenAI's clients look for."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        """The whole answer. Clients retry a 503 by themselves, after the time that is named."""
        headers = {}
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        elif self.status == 503:
            headers["Retry-After"] = "1"
        return JSONResponse(self.body(), self.status, headers)


def too_long(n_ctx: int, found: str) -> ApiError:
    """The prompt does not fit."""
    return ApiError(
        400,
        "context_length_exceeded",
        f"This model's context holds {n_ctx} tokens and the prompt has {found}; shorten it.",
    )


def explain(error: Exception) -> ApiError:
    """Turns what a request ended with into what its client may know; details of our own failures go to stderr."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, HobbitError):
        print(f"hobbit: {error}", file=sys.stderr)
        return ApiError(500, "model_failed", "The model could not be computed; the server's log says why.")
    if isinstance(error, jinja2.TemplateError):
        return ApiError(400, "template_error", f"The model's chat template refuses these messages: {error}.")
    if isinstance(error, ValueError):
        if match := _TOO_LONG.search(str(error)):
            return too_long(int(match[2]), match[1])
        # llama_cpp's way to refuse an argument, and a template's to refuse a conversation.
        return ApiError(400, "invalid_request", str(error) or type(error).__name__)
    print("hobbit: a request failed unexpectedly:", file=sys.stderr)
    traceback.print_exception(error, file=sys.stderr)
    return ApiError(500, "internal_error", "The request failed unexpectedly; the server's log says why.")
