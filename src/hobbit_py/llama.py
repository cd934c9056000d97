"""`Llama`: llama_cpp.Llama for models whose experts do not fit in memory."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from . import _host
from ._expert_setup import ExpertSetup
from ._host import _core, llama_cpp
from ._keywords import check_expert_keywords, check_keywords
from ._memory_plan import Granted
from ._native_policies import to_native
from ._native_prefetch import keep_traces, record_predictions
from ._native_stats import ABSENT as ABSENT
from ._native_stats import HI as HI
from ._native_stats import LO as LO
from ._native_stats import LOADING as LOADING
from ._native_stats import read_residency, read_stats
from ._open_engine import open_engine
from ._promises import live_engines
from .choice import choose
from .cores import n_compute_threads
from .errors import HobbitError, UsageError, as_sentence
from .memory import parse_budget
from .mixed import choose_copies
from .policies import EvictionPolicy, PrecisionPolicy, Prefetch, RouterFilter
from .predict import Recording
from .sizes import parse_bytes
from .stats import Stats
from .vram import choose_device, parse_vram
from .warm_start import load_hot_set, save_hot_set

_DEFAULT_MAX_CTX = 4096


class Llama(llama_cpp.Llama):  # type: ignore[misc]
    """A drop-in `llama_cpp.Llama` that keeps only the experts that matter in memory.

    Everything of `llama_cpp.Llama` works: completions, chat, streaming, embeddings, saved state. With
    `precision="exact"` tokens and logits are bit-identical to it, whatever the budget.

    Args:
        model_path: GGUF file, or the first part of a split one.
        memory: Budget of the whole process in bytes, as text ("8GiB"), or "auto": what the system has free.
        expert_memory: Bytes for the expert cache alone, instead of `memory`; for experiments.
        preset: Which published system's policies to run with, see `hobbit_py.policies.PRESETS`. "auto": what
            `hobbit tune` found best for this model and about this much memory, else the defaults. The arguments below
            take precedence.
        precision: "exact", "mixed", or "auto": the preset's, which is mixed for "auto" if there is a lo copy.
        lo: GGUF with the low-precision copies (`hobbit pack`), or any other quantisation of the same model. None: those
            beside the model that `hobbit tune` found settings for, with hi left out its hi copies as well; else the
            largest one there, `<model>.lo-*.gguf`, that is coarser than hi.
        hi: GGUF whose experts are the hi copies in mixed mode, finer than `lo`: with little memory an IQ4_XS copy
            (`hobbit pack`) beside a Q2_K one reads less for its loss than the model's own Q8_0 experts would. None:
            the experts of the model, but for what lo says.
        lo_share: Share of the expert memory for lo copies; None: what `hobbit tune` found, else
            `mixed.default_lo_share`. 1 on a GPU, without a policy: nothing but lo copies is used, as it is by default
            with fine ones (`mixed.wants_lo_alone`).
        policy: Decides in mixed mode which copy of an expert a token gets; an object, or a name of
            `hobbit_py.policies.registry`, where other packages may add theirs. None: the thresholds that `hobbit tune`
            found for this model, else those of `mixed.default_policy`.
        skip_renorm: See `set_policy`.
        router_filter: `policies.CachePrior`, `policies.Reroute` or `policies.Substitute`: prefer resident experts where
            the router nearly does not care. Changes results. None: the preset's; in mixed mode, with preset, policy and
            lo_share left out as well, what `hobbit tune` found.
        eviction: Decides which resident expert goes; likewise. None: the preset's. One written in Python is asked once
            a layer, by the thread that computes.
        warm_start: Remember on close() which experts were in memory (`hobbit_py.warm_start`), and read those that the
            run before remembered in the background, as far as there is room. Exact results never change.
        prefetch: Read ahead, while the drive is idle, what the next layers will probably want: True, False, the name of
            a predictor, or a `policies.Prefetch`; None: as the preset does. Never changes a result.
        vram: Budget of a GPU's own memory in bytes, as text, or "auto": what is free of it. The dense weights go there
            and the experts that are used most. None, with `device` and `unified` left out: everything runs on the CPU.
        expert_vram: Bytes for the experts in the GPU's memory alone, instead of `vram`; for experiments. With
            `device="CPU"` the same logic runs over ordinary memory.
        device: ggml's name of the device that computes, "CUDA0"; None: the first GPU if `vram` or `unified` is given,
            else the CPU.
        unified: Whether the GPU shares the main memory, so that there is nothing to copy; None: what the device says.
            With `device="CPU"` the same logic runs on the CPU.
        host_compute: Whether the CPU may multiply by experts that the GPU lacks, where that is done sooner than a copy.
            None: in exact mode where it rounds as the GPU does, in mixed mode always. True: always, sooner done, with
            last bits that depend on what is resident. False: never.
        progress: Called with the fraction loaded, 0.0 to 1.0; what it raises ends the load.
        n_ctx: Context length in tokens; 0: the model's own; None: the model's own, at most 4096.
        n_threads: Compute threads; None: every core this process may use, less some beside a GPU's own memory and while
            experts are waited for (`cores.n_spare_cores`; not with flash attention, where tokens depend on the number).
        verbose: Show llama.cpp's log on stderr.
        **keywords: All other keywords of `llama_cpp.Llama`. `use_mmap` has no effect on a model with experts.

    Raises:
        ModelFileError: The file is missing, damaged or of an unknown kind.
        MemoryBudgetError: `memory` is below what the model needs; names the smallest budget that works.
        UsageError: An argument has a value that cannot be used.
        TypeError: An unknown keyword.
    """

    _engine: _core.Engine | None = None
    _holds_lo = False
    _warm_start = False

    before_batch: Callable[[int, int], None] | None = None
    """Called before a batch is computed with its number of tokens, and how many of the same evaluation went before it.

    What it raises ends the request, and the next one goes on from what was computed.
    """

    def __init__(
        self,
        model_path: str | os.PathLike[str],
        *,
        memory: int | str = "auto",
        expert_memory: int | str | None = None,
        preset: str = "auto",
        precision: str = "auto",
        lo: str | os.PathLike[str] | None = None,
        hi: str | os.PathLike[str] | None = None,
        lo_share: float | None = None,
        policy: PrecisionPolicy | str | None = None,
        skip_renorm: bool = False,
        router_filter: RouterFilter | None = None,
        eviction: EvictionPolicy | str | None = None,
        warm_start: bool = False,
        prefetch: bool | str | Prefetch | None = None,
        vram: int | str | None = None,
        expert_vram: int | str | None = None,
        device: str | None = None,
        unified: bool | None = None,
        host_compute: bool | None = None,
        progress: Callable[[float], None] | None = None,
        n_ctx: int | None = 512,
        n_threads: int | None = None,
        n_threads_batch: int | None = None,
        verbose: bool = False,
        **keywords: Any,  # noqa: ANN401
    ) -> None:
        check_keywords(keywords)
        chosen = choose(
            preset,
            precision=precision,
            eviction=eviction,
            policy=policy,
            skip_renorm=skip_renorm,
            lo_share=lo_share,
            router_filter=router_filter,
            prefetch=prefetch,
            host_compute=host_compute,
        )
        granted = Granted(
            memory_bytes=parse_budget(memory),
            expert_memory_bytes=None if expert_memory is None else parse_bytes(expert_memory),
            vram_bytes=parse_vram(vram),
            expert_vram_bytes=None if expert_vram is None else parse_bytes(expert_vram),
        )
        chosen_device = choose_device(
            _core.devices(), device=device, vram=vram, expert_vram=expert_vram, unified=unified
        )
        path = os.fspath(model_path)

        self._own_arguments: dict[str, Any] = {
            "memory": memory,
            "expert_memory": expert_memory,
            "preset": preset,
            "precision": precision,
            "lo": lo,
            "hi": hi,
            "lo_share": lo_share,
            "policy": policy,
            "skip_renorm": skip_renorm,
            "eviction": eviction,
            "prefetch": prefetch,
            "router_filter": router_filter,
            "warm_start": warm_start,
            "vram": vram,
            "expert_vram": expert_vram,
            "device": device,
            "unified": unified,
            "host_compute": host_compute,
        }
        self._memory_bytes = 0
        self._last_stats = Stats(precision="dense")  # of a model without experts, and after close()
        self.note: str | None = None
        self.eviction: str | None = None
        self.predictor: str | None = None
        self.lo_path: str | None = None
        self.hi_path: str | None = None
        self.model_paths: tuple[str, ...] = (path,)
        lo_path, hi_path = choose_copies(path, lo, hi, chosen.precision)
        engine = open_engine(path, chosen_device, lo_path, hi_path)

        if not n_ctx:
            n_ctx_train = engine.get_int(f"{engine.architecture}.context_length", _DEFAULT_MAX_CTX)
            n_ctx = n_ctx_train if n_ctx == 0 else min(_DEFAULT_MAX_CTX, n_ctx_train)
        may_spare_cores = n_threads is None and n_threads_batch is None and not keywords.get("flash_attn")
        n_threads = n_threads or n_compute_threads(beside_copies=may_spare_cores and chosen_device.has_tier)
        arguments = {
            **keywords,
            "n_ctx": n_ctx,
            "n_threads": n_threads,
            "n_threads_batch": n_threads_batch or n_threads,
            "verbose": verbose,
        }
        if not engine.is_moe:
            self.note = "This model has no experts: it runs as plain llama.cpp, and the memory budget is not enforced."
            if chosen_device.name != "CPU":
                arguments.setdefault("n_gpu_layers", -1)
            with _host.explaining(path, engine.architecture), _host.loading(engine, None):
                super().__init__(path, **arguments)
                _host.check_vocabulary(self._model)
            return

        self.model_paths = tuple(engine.paths)
        check_expert_keywords(keywords)
        setup = ExpertSetup(engine, chosen_device, granted, chosen, lo_path, hi_path)

        def before_load(model_params: Any) -> None:  # noqa: ANN401
            measure = partial(_host.measure, engine, model_params, self.context_params, verbose=verbose)
            setup.check(measure, self._n_output_rows())

        with _host.explaining(path, engine.architecture), _host.loading(engine, progress, before=before_load):
            super().__init__(path, **arguments)
            _host.check_vocabulary(self._model)
        try:
            promise = setup.start(_host.memory_of(self._ctx), self._n_output_rows(), may_spare_cores=may_spare_cores)
        except HobbitError:
            self.close()
            raise
        self._engine = engine
        self._memory_bytes = setup.memory_bytes
        self.note, self.eviction, self.predictor = setup.note, setup.eviction, setup.prefetch.predictor
        if lo_path is not None:
            self.lo_path = os.fspath(lo_path)
            self.hi_path = None if hi_path is None else os.fspath(hi_path)
        self._holds_lo = setup.holds_lo
        self._warm_start = warm_start
        if warm_start:
            copies = load_hot_set(self.model_paths)
            engine.warm([(layer, expert, _core.Precision(precision)) for layer, expert, precision in copies])
        live_engines[engine] = promise

    @classmethod
    def from_pretrained(cls, repo_id: str, filename: str | None = None, **keywords: Any) -> Llama:  # noqa: ANN401
        """Loads a model from the Hugging Face hub, fetched on its first use; needs the extra [hub].

        Args:
            repo_id: "ORG/REPO" or "ORG/REPO:QUANT"; without QUANT the only model of the repository, or Q4_K_M. A split
                model comes with all its parts.
            filename: A file of the repository, or a pattern that fits one alone, as in llama_cpp.Llama.
            **keywords: As for `Llama`.

        Raises:
            UsageError: There is no such model, or several.
            HobbitError: The hub cannot be reached.
        """
        if filename is not None:
            llama: Llama = super().from_pretrained(repo_id, filename, **keywords)
            return llama
        from .hub.fetch import resolve

        return cls(resolve(repo_id), **keywords)

    def set_policy(self, policy: PrecisionPolicy, *, skip_renorm: bool = False) -> None:
        """Decides from the next token on which copy of a missing expert is used; without a lo copy it has no effect.

        Args:
            policy: One of `hobbit_py.policies`, or an object of one's own with the same `choose` method. What that
                raises ends the request with a HobbitError.
            skip_renorm: Whether the weights of a token's other experts grow to make up for a skipped one.

        Raises:
            UsageError: `policy` has no `choose` method, or a GPU holds all experts in lo and none as in the model.
        """
        if self._holds_lo:
            raise UsageError(
                "All experts are on the GPU in their lo copies and none as in the model, so a policy has nothing to "
                "choose from; give it as policy when the model is loaded."
            )
        if self._engine is not None:
            self._engine.set_precision_policy(to_native(policy), skip_renorm)

    def eval(self, tokens: Sequence[int]) -> None:
        """Evaluates tokens behind those already in the context, in batches of n_batch."""
        if self.before_batch is None:
            super().eval(tokens)
            return
        for n_before in range(0, len(tokens), self.n_batch):
            batch = tokens[n_before : n_before + self.n_batch]
            self.before_batch(len(batch), n_before)
            super().eval(batch)

    def residency(self) -> list[list[int]]:
        """Where each expert is at this moment: [n_layers][n_expert], of `ABSENT`, `LOADING`, `LO` and `HI`.

        Layers without experts have empty lists; a model without experts has no layers.
        """
        return [] if self._engine is None else read_residency(self._engine)

    def stats(self) -> Stats:
        """What the expert cache did since the model was loaded; after `close()`, until then."""
        return self._last_stats if self._engine is None else read_stats(self._engine, self._memory_bytes)

    def reset(self) -> None:
        """As llama_cpp.Llama's; what the eviction policy keeps of one sequence ends here as well."""
        super().reset()
        if self._engine is not None:
            try:
                self._engine.reset_sequence()
            except RuntimeError as error:  # of an eviction policy of one's own
                raise HobbitError(as_sentence(str(error))) from error

    def record_predictions(self) -> Callable[[], Recording]:
        """Begins to record what predictors see, for tokens evaluated at most eight at a time; returns how to end that.

        The prefetch settings must be those of "stacked-gates" with a "fixed" horizon, or nothing is seen.
        """
        if self._engine is None:
            raise UsageError("This model has no experts: there is nothing to predict.")
        return record_predictions(self._engine)

    def prediction_recall(self) -> list[float]:
        """Share of the experts selected that were among as many best guesses, one layer ahead, two, ...; nan: none.

        Nothing is predicted while all experts are in memory, but for `record_predictions`.
        """
        counts = [] if self._engine is None else self._engine.prediction_counts()
        return [n_guessed / n_selected if n_selected else float("nan") for n_guessed, n_selected in counts]

    def close(self) -> None:
        """Frees the model, its contexts and the expert cache. Safe to call again."""
        if hasattr(self, "_stack"):  # llama_cpp's: missing if __init__ refused an argument
            super().close()
        if self._engine is not None:
            live_engines.pop(self._engine, None)
            if self.predictor == "request-trace":
                keep_traces(self._engine)
            self._last_stats = self.stats()
            if self._warm_start and self._last_stats.n_tokens > 0:
                copies = [(layer, expert, int(precision)) for layer, expert, precision in self._engine.hot_set()]
                save_hot_set(self.model_paths, copies)
            self._engine = None

    def __getstate__(self) -> dict[str, Any]:
        """What `__init__` needs to load the model again; `llama_cpp.Llama` pickles this way too."""
        state: dict[str, Any] = super().__getstate__()
        return state | self._own_arguments

    def _n_output_rows(self) -> int:
        """Rows of logits that are kept: llama.cpp's, and those of `scores`."""
        return 2 * int(self.context_params.n_ctx) if self._logits_all else 1
