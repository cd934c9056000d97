"""What a request may ask for: bounds on the time and the memory that one client can take from the others."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from typing import Any, NoReturn

from .api_errors import ApiError

_MAX_DEPTH = 32
_MAX_VALUES = 20_000
_MAX_INTEGER = 2**63
_MAX_REPEATS = 1_000  # that a JSON schema may ask for, in all: a grammar spells each of them out

# By key, how many items a list or an object may have. Pydantic takes about 0.1 ms for an item that fits no alternative
# of a union, without letting another thread run: a body of 1 MiB could hold the server for 30 s.
_MAX_ITEMS = {
    "messages": 1024,
    "content": 256,
    "tool_calls": 64,
    "tools": 128,
    "functions": 128,
    "stop": 16,
    "prompt": 1,
    "logit_bias": 1024,
}
_NUMBER = re.compile("[0-9]{1,9}")
_REPEAT_KEYS = frozenset({"minItems", "maxItems", "minLength", "maxLength"})


@dataclass(frozen=True)
class Limits:
    """Set when the server starts."""

    max_body_bytes: int = 1 << 20
    max_tokens: int | None = None
    """Longest answer in tokens; None: what the context leaves."""
    max_waiting: int = 64
    """Requests that may wait for their turn."""


def read_json(body: bytes) -> dict[str, Any]:
    """Parses a request's body and bounds its shape; raises ApiError.

    Refused besides: numbers that are not finite or need more than 64 bits, and halves of surrogate pairs, which are no
    text in UTF-8.
    """
    try:
        value = json.loads(body, parse_constant=_refuse_constant)
    except RecursionError:
        raise _bad(f"The JSON is nested more than {_MAX_DEPTH} deep.") from None
    except UnicodeDecodeError:
        raise _bad("The body is not UTF-8.") from None
    except ValueError as error:
        raise _bad(f"The body is not JSON: {error}.") from None
    if not isinstance(value, dict):
        raise _bad("The body must be a JSON object.")
    _check_shape(value)
    # A field set to null means the same as one left out.
    return {name: field for name, field in value.items() if field is not None}


def _check_shape(body: dict[str, Any]) -> None:
    n_values = 0
    n_repeats = 0
    n_items = dict.fromkeys(_MAX_ITEMS, 0)
    level: list[tuple[str, Any]] = [("", body)]
    for _depth in range(_MAX_DEPTH):
        deeper: list[tuple[str, Any]] = []
        for name, value in level:
            if isinstance(value, (dict, list)):
                n_values += len(value)
                if n_values > _MAX_VALUES:
                    raise _bad(f"The JSON holds more than {_MAX_VALUES} values.")
                if name in n_items:
                    n_items[name] += len(value)
                    if n_items[name] > _MAX_ITEMS[name]:
                        raise _bad(f"{name!r} may have {_MAX_ITEMS[name]} items in all.", param=name)
                if isinstance(value, dict):
                    deeper += value.items()
                    deeper += (("", key) for key in value)
                else:
                    deeper += (("", item) for item in value)
            else:
                _check_scalar(name, value)
                if name in _REPEAT_KEYS and isinstance(value, (int, float)):
                    n_repeats += abs(int(value))
                    if n_repeats > _MAX_REPEATS:
                        raise _bad(f"The JSON schema asks for more than {_MAX_REPEATS} repetitions in all.")
        level = deeper
        if not level:
            return
    raise _bad(f"The JSON is nested more than {_MAX_DEPTH} deep.")


def _check_scalar(name: str, value: object) -> None:
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise _bad("A text holds half of a surrogate pair.") from None
        if name == "pattern" and math.prod(max(1, int(n)) for n in _NUMBER.findall(value)) > _MAX_REPEATS:
            raise _bad(f"A pattern asks for more than {_MAX_REPEATS} repetitions.")
        if name == "$ref" and not value.startswith("#"):
            raise _bad("A JSON schema may refer only to itself.")
    elif isinstance(value, float):
        if not math.isfinite(value):
            _refuse_constant(str(value))
    elif isinstance(value, int) and abs(value) >= _MAX_INTEGER:
        raise _bad("A number needs more than 64 bits.")


def _refuse_constant(name: str) -> NoReturn:
    raise _bad(f"{name} is not a number that a request may hold.")


def _bad(message: str, *, param: str | None = None) -> ApiError:
    return ApiError(400, "invalid_json", message, param=param)
