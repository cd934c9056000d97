"""The only place that knows llama-cpp-python's inside: version gates, and loading a model with our device.

llama-cpp-python has no public way to hand llama.cpp a device, a buffer type for some tensors, or a FILE* to load from.
Its `Llama` makes its model through `llama_cpp._internals.LlamaModel`, so that class is replaced by ours while one of
our models is being loaded, in the loading thread alone.

Import this before llama_cpp and _core, and take both from here: what it sets and checks must come first.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from ._cxx_runtime import own_runtime
from .cores import openmp_spin_count
from .errors import HobbitError, HostError, ModelFileError, ReadError

SUPPORTED_LLAMA_CPP_PYTHON = "0.3.36"
SUPPORTED_GGML = "0.25.3"
SUPPORTED_BACKEND_API = 2
_ALL_LAYERS = 0x7FFFFFFF
_PLAIN_TEXT = b"\n" + bytes(range(ord(" "), ord("~") + 1))
EXPERT_TENSOR_PATTERN = rb"^blk\.(0|[1-9][0-9]*)\.ffn_(gate|up|down|gate_up)_exps\.weight$"

# libgomp looks at this once, when it is loaded.
if "llama_cpp" not in sys.modules:
    os.environ.setdefault("GOMP_SPINCOUNT", str(openmp_spin_count()))

try:
    import jinja2
    import llama_cpp as llama_cpp
    import llama_cpp._internals as internals
    import llama_cpp.llama_cpp as c_api
    from llama_cpp._utils import suppress_stdout_stderr
except ImportError as error:
    raise HostError(
        f"llama-cpp-python {SUPPORTED_LLAMA_CPP_PYTHON} cannot be imported ({error}); install it with "
        f"'pip install llama-cpp-python=={SUPPORTED_LLAMA_CPP_PYTHON}'."
    ) from error

if llama_cpp.__version__ != SUPPORTED_LLAMA_CPP_PYTHON:
    raise HostError(
        f"llama-cpp-python {llama_cpp.__version__} is installed and this hobbit_py needs {SUPPORTED_LLAMA_CPP_PYTHON}; "
        f"install it with 'pip install llama-cpp-python=={SUPPORTED_LLAMA_CPP_PYTHON}'."
    )

if (_runtime_file := own_runtime(c_api._lib)) is not None:
    raise HostError(
        f"llama-cpp-python was built with a C++ runtime inside of {_runtime_file}, which crashes beside the one that "
        "numpy loads; build it with the shared one: "
        "CMAKE_ARGS=-DCMAKE_SHARED_LINKER_FLAGS=-Wl,--no-as-needed,-l:libstdc++.so.6 "
        f"pip install --force-reinstall --no-cache-dir llama-cpp-python=={SUPPORTED_LLAMA_CPP_PYTHON}."
    )

from . import _core as _core  # noqa: E402  (llama_cpp maps the ggml that _core must find)

if _core.ggml_version() != SUPPORTED_GGML:
    raise HostError(
        f"llama-cpp-python was built with ggml {_core.ggml_version()} and this hobbit_py needs {SUPPORTED_GGML}; "
        f"reinstall it with 'pip install --force-reinstall llama-cpp-python=={SUPPORTED_LLAMA_CPP_PYTHON}'."
    )
if _core.ggml_backend_api_version != SUPPORTED_BACKEND_API:
    raise HostError(
        f"this hobbit_py was compiled for version {_core.ggml_backend_api_version} of ggml's backend interface and "
        f"needs version {SUPPORTED_BACKEND_API}; reinstall it with 'pip install --force-reinstall hobbit_py'."
    )


class _BufferTypeOverride(ctypes.Structure):
    """llama_model_tensor_buft_override."""

    _fields_ = [("pattern", ctypes.c_char_p), ("buffer_type", ctypes.c_void_p)]


class _Load(threading.local):
    """The load that this thread is in the middle of."""

    engine: _core.Engine | None = None
    progress: Callable[[float], None] | None = None
    before: Callable[[Any], None] | None = None


_load = _Load()
_patch_lock = threading.RLock()
_stock_model = internals.LlamaModel
_stock_context = internals.LlamaContext


@dataclass(frozen=True)
class ContextNeeds:
    """What llama.cpp takes for a model and a context, in bytes; experts excluded."""

    dense_bytes: int
    context_bytes: int
    compute_bytes: int
    device_bytes: int
    """All that lies in a device's own memory; the others are of the host's."""
    n_vocab: int


@contextlib.contextmanager
def loading(
    engine: _core.Engine, progress: Callable[[float], None] | None, before: Callable[[Any], None] | None = None
) -> Iterator[None]:
    """While it lasts, a `llama_cpp.Llama` made in this thread loads through `engine`. Other threads are not touched.

    `before` is called with the llama_model_params just before the load; what it raises ends it.
    """
    with _patch_lock:
        internals.LlamaModel, internals.LlamaContext = _make_model, _make_context
        _load.engine, _load.progress, _load.before = engine, progress, before
        try:
            yield
        finally:
            _load.engine, _load.progress, _load.before = None, None, None
            internals.LlamaModel, internals.LlamaContext = _stock_model, _stock_context


def _make_model(**arguments: Any) -> Any:  # noqa: ANN401
    if _load.engine is None:
        return _stock_model(**arguments)
    return (_Model if _load.engine.is_moe else _PlainModel)(**arguments)


def _make_context(**arguments: Any) -> Any:  # noqa: ANN401
    ours = isinstance(arguments.get("model"), _Model)
    return (_Context if ours else _stock_context)(**arguments)


@contextlib.contextmanager
def explaining(path: str, architecture: str) -> Iterator[None]:
    """What llama_cpp raises, or llama.cpp aborts for, in a `Llama` made of a damaged file becomes a ModelFileError."""
    guard = _core.AbortGuard()
    try:
        with guard:
            yield
    except (jinja2.TemplateError, SyntaxError, RecursionError) as error:  # of its parser, or Python's own below it
        reason = str(error).partition("\n")[0].rstrip(".")
        raise ModelFileError(f"{path!r} has a chat template that is not sound Jinja: {reason}.") from error
    except UnicodeDecodeError as error:
        raise ModelFileError(f"{path!r} has a text that is not UTF-8: download it again.") from error
    except ValueError as error:
        if str(error) == "Failed to create llama_context":
            raise _no_context(path, guard) from None
        if str(error).startswith("Failed to load model"):
            raise ModelFileError(_cannot_load(path, architecture, _contradiction(guard))) from None
        raise


def check_vocabulary(model: Any) -> None:  # noqa: ANN401
    """Of a model made while `loading`: refuses one that cannot express plain text, before anybody asks it to."""
    model.tokenize(_PLAIN_TEXT, add_bos=True, special=True)


def _cannot_load(path: str, architecture: str, reason: str) -> str:
    named = architecture or "none is named"
    reason = reason or f"it is damaged, or this llama.cpp does not know its architecture ({named})"
    return f"llama.cpp cannot load {path}: {reason}."


def _contradiction(guard: _core.AbortGuard) -> str:
    """What llama.cpp would have ended the process for; "" if it would not have."""
    return f"it contradicts itself or what llama.cpp can run ({guard.message})" if guard.message else ""


def _no_context(path: str, guard: _core.AbortGuard) -> ModelFileError:
    reason = _contradiction(guard) or "this needs more memory than there is, or more than the model allows"
    return ModelFileError(f"llama.cpp cannot make a context for {path}: {reason}.")


class _PlainModel(_stock_model):  # type: ignore[misc, valid-type]
    """LlamaModel that raises what llama.cpp's tokeniser ends the process for."""

    def tokenize(self, text: bytes, add_bos: bool, special: bool) -> list[int]:
        address = ctypes.cast(self.vocab, ctypes.c_void_p).value or 0
        try:
            return _core.tokenize(address, text, add_bos, special)
        except _core.StoreError as error:
            raise ModelFileError(f"{self.path_model!r} is damaged, or not for this text: {error}.") from None


class _Model(_PlainModel):
    """LlamaModel, loaded from the engine's stream."""

    def __init__(self, *, path_model: str, params: Any, verbose: bool = True) -> None:  # noqa: ANN401
        assert _load.engine is not None
        self.path_model = path_model
        self.params = params
        self.verbose = verbose
        self.engine = _load.engine  # outlives the llama_model, which points into it
        self.sampler = None
        self.custom_samplers: list[Any] = []
        self._exit_stack = contextlib.ExitStack()
        if _load.before is not None:
            _load.before(params)
        self.model = _load_model(self.engine, params, progress=_load.progress, verbose=verbose)
        self._exit_stack.callback(self._free)
        self.vocab = c_api.llama_model_get_vocab(self.model)

    def _free(self) -> None:
        c_api.llama_model_free(self.model)
        self.model = None
        del self.engine  # its cache and open files go now, not when the last reference to the Llama does


class _Context(_stock_context):  # type: ignore[misc, valid-type]
    """LlamaContext that raises what the engine says of a failed computation."""

    def __init__(self, *, model: Any, params: Any, verbose: bool = True) -> None:  # noqa: ANN401
        with explaining(model.path_model, model.engine.architecture):
            super().__init__(model=model, params=params, verbose=verbose)

    def decode(self, batch: Any) -> None:  # noqa: ANN401
        try:
            super().decode(batch)
        except RuntimeError as error:
            raise self._explain(error) from None

    def encode(self, batch: Any) -> None:  # noqa: ANN401
        try:
            super().encode(batch)
        except RuntimeError as error:
            raise self._explain(error) from None

    def _explain(self, error: RuntimeError) -> Exception:
        failure = self.model.engine.take_error()
        if failure is None:
            return error
        message, number, path = failure
        return ReadError(f"{message}.", number, path) if path else HobbitError(f"{message}.")


def _load_model(
    engine: _core.Engine,
    params: Any,  # noqa: ANN401
    *,
    progress: Callable[[float], None] | None = None,
    dry: bool = False,
    verbose: bool = False,
) -> Any:  # noqa: ANN401
    """Loads everything but the experts; `dry` only what is known from headers, without weights."""
    params = type(params).from_buffer_copy(params)
    overrides = (_BufferTypeOverride * 2)(
        _BufferTypeOverride(EXPERT_TENSOR_PATTERN, engine.buffer_type_address), _BufferTypeOverride(None, None)
    )
    devices = (ctypes.c_void_p * 2)(engine.device_address, None)
    interruptions: list[BaseException] = []

    def on_progress(fraction: float, _user_data: object) -> bool:
        # An exception cannot cross llama.cpp: it ends the load and is raised afterwards.
        try:
            if progress is not None:
                progress(fraction)
        except BaseException as error:
            interruptions.append(error)
        return not interruptions

    params.tensor_buft_overrides = ctypes.cast(overrides, ctypes.c_void_p).value
    params.devices = ctypes.cast(devices, ctypes.c_void_p).value
    params.n_gpu_layers = _ALL_LAYERS
    params.load_mode = c_api.LLAMA_LOAD_MODE_NONE
    # Repacked weights need a second layout in memory, and crash on some AMX machines (docs/design.md).
    params.use_extra_bufts = False
    params.no_alloc = dry
    params.progress_callback = c_api.llama_progress_callback(on_progress)
    try:
        with suppress_stdout_stderr(disable=verbose), _core.AbortGuard() as guard:
            model = c_api.llama_model_load_from_file_ptr(ctypes.c_void_p(engine.open_stream()), params)
        reason = engine.stream_error() or _contradiction(guard)
    finally:
        engine.close_stream()
    if interruptions:
        if model is not None:
            c_api.llama_model_free(model)
        raise interruptions[0]
    if model is None:
        raise ModelFileError(_cannot_load(engine.paths[0], engine.architecture, reason))
    return model


def measure(engine: _core.Engine, model_params: Any, context_params: Any, *, verbose: bool = False) -> ContextNeeds:  # noqa: ANN401
    """What a model and a context will need, found out without allocating or reading any of it."""
    model = _load_model(engine, model_params, dry=True, verbose=verbose)
    try:
        with suppress_stdout_stderr(disable=verbose), _core.AbortGuard() as guard:
            context = c_api.llama_init_from_model(model, context_params)
        if context is None:
            raise _no_context(engine.paths[0], guard)
        try:
            needs = _breakdown(engine, context, dry=True)
        finally:
            c_api.llama_free(context)
        return ContextNeeds(*needs, n_vocab=c_api.llama_vocab_n_tokens(c_api.llama_model_get_vocab(model)))
    finally:
        c_api.llama_model_free(model)


def memory_of(context: Any) -> ContextNeeds:  # noqa: ANN401
    """What an existing context of one of our models and its model hold."""
    return ContextNeeds(*_breakdown(context.model.engine, context.ctx, dry=False), n_vocab=context.model.n_vocab())


def _breakdown(engine: _core.Engine, context: Any, *, dry: bool) -> tuple[int, int, int, int]:  # noqa: ANN401
    address = ctypes.cast(context, ctypes.c_void_p).value
    assert address is not None
    return _core.memory_breakdown(address, engine.buffer_type_address, dry)


def new_context(model: Any, params: Any, *, verbose: bool = False) -> Any:  # noqa: ANN401
    """A further context of a model that was loaded through an engine (`Llama._model`)."""
    return _Context(model=model, params=params, verbose=verbose)
