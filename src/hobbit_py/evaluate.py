"""Teacher-forced measurements: perplexity, and how far the predictions are from exact mode's.

Windows and scored positions are those of llama.cpp's `llama-perplexity`: the text is cut into windows of n_ctx tokens,
each begins with the token that begins a text where the model has one, and only the second half of a window is scored,
so that every scored token has a context.

Tokens are evaluated one at a time, as in decoding: that is where experts are missing one by one. A batch needs most
experts of a layer whatever is resident, and its tokens share them. llama.cpp rounds otherwise in batches: perplexities
with and without `chunked` differ in the third or fourth digit, as they do in stock llama.cpp.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from .errors import HobbitError, UsageError
from .stats import Stats

if TYPE_CHECKING:
    from .llama import Llama

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Progress = Callable[[float], None]

_MIN_WINDOW = 8
_FREE_DISK_MARGIN_BYTES = 64 << 20


@dataclass(frozen=True)
class Windows:
    """The tokens of a text as `llama-perplexity` evaluates them: inputs [n_windows][n_ctx], the first of each the BOS.

    Logits at positions first_scored .. n_ctx - 2 are scored, against the text's next token.
    """

    inputs: tuple[tuple[int, ...], ...]
    targets: tuple[tuple[int, ...], ...]
    first_scored: int

    @property
    def n_tokens(self) -> int:
        """Tokens evaluated."""
        return sum(len(window) for window in self.inputs)

    @property
    def n_scored(self) -> int:
        """Predictions scored."""
        return sum(len(targets) for targets in self.targets)


def cut_windows(
    tokens: Sequence[int], n_ctx: int, *, bos: int | None = None, first_scored: int | None = None
) -> Windows:
    """Cuts a text's tokens into whole windows; a text shorter than one window is one window.

    `first_scored` is the first position whose prediction is scored, by default the middle. Raises UsageError for a text
    of fewer than 8 tokens.
    """
    n_ctx = min(n_ctx, len(tokens))
    if n_ctx < _MIN_WINDOW:
        raise UsageError(f"The text has {len(tokens)} tokens, expected at least {_MIN_WINDOW}; give a longer one.")
    first = n_ctx // 2 if first_scored is None else first_scored
    starts = range(0, len(tokens) - n_ctx + 1, n_ctx)
    inputs = [list(tokens[start : start + n_ctx]) for start in starts]
    targets = [tuple(window[first + 1 :]) for window in inputs]
    if bos is not None:
        for window in inputs:
            window[0] = bos
    return Windows(tuple(tuple(window) for window in inputs), tuple(targets), first)


def windows_of(
    llama: Llama, text: bytes, n_ctx: int, *, max_tokens: int | None = None, first_scored: int | None = None
) -> Windows:
    """Windows of a text in the model's tokens, of which the first max_tokens are used."""
    tokens = llama.tokenize(text, add_bos=True, special=True)
    return cut_windows(tokens[:max_tokens], n_ctx, bos=_window_begin(llama), first_scored=first_scored)


def _window_begin(llama: Llama) -> int | None:
    """The token that begins every text of this model; None if it has none."""
    tokens: list[int] = llama.tokenize(b"", add_bos=True, special=True)
    return tokens[0] if tokens else None


class Reference:
    """Log-probabilities [n_scored, n_vocab] of a run, kept in a temporary file: they may not fit in memory.

    A context manager; the file is gone with it.
    """

    def __init__(self, n_scored: int, n_vocab: int) -> None:
        """Raises HobbitError if the temporary folder has no room."""
        n_bytes = n_scored * n_vocab * 4
        folder = tempfile.gettempdir()
        free_bytes = shutil.disk_usage(folder).free
        if free_bytes < n_bytes + _FREE_DISK_MARGIN_BYTES:
            raise HobbitError(
                f"{folder!r} has {free_bytes >> 20} MiB free, expected {n_bytes >> 20} MiB for the predictions of "
                f"exact mode; use fewer tokens, or set TMPDIR to a folder with more room."
            )
        self._file = tempfile.TemporaryFile(prefix="hobbit-")  # noqa: SIM115  (closed by close())
        self._file.truncate(n_bytes)
        self.log_probs: np.memmap[tuple[int, int], np.dtype[np.float32]] = np.memmap(
            self._file, np.float32, "r+", shape=(n_scored, n_vocab)
        )
        self.nll: Doubles = np.empty(n_scored)

    def __enter__(self) -> Reference:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Removes the file."""
        self._file.close()


@dataclass(frozen=True)
class Divergence:
    """How far predictions are from the reference's, on the same tokens.

    `loss` is the perplexity over the reference's, minus one, and `loss_se` its standard error, both from the paired
    difference of the log-likelihoods. KL divergences are from the reference, in nats.
    """

    loss: float
    loss_se: float
    kl_mean: float
    kl_p99: float
    top1_agreement: float


@dataclass(frozen=True)
class Evaluation:
    """One teacher-forced run: `nll` [n_scored] in nats, and what the expert cache did meanwhile."""

    nll: Doubles
    n_tokens: int
    elapsed_s: float
    stats: Stats
    divergence: Divergence | None = None

    @property
    def perplexity(self) -> float:
        """exp of the mean negative log-likelihood."""
        return float(np.exp(self.nll.mean()))

    @property
    def read_bytes_per_token(self) -> float:
        """Expert bytes read from the drive, over all tokens evaluated."""
        return self.stats.read_bytes / self.n_tokens

    @property
    def shares(self) -> tuple[float, float, float]:
        """Shares of the selected experts that ran in hi, in lo, and not at all; in exact mode all run in hi."""
        n_pairs = (self.stats.n_used_hi, self.stats.n_used_lo, self.stats.n_skipped)
        n = sum(n_pairs)
        return (n_pairs[0] / n, n_pairs[1] / n, n_pairs[2] / n) if n else (1.0, 0.0, 0.0)


def evaluate(
    llama: Llama,
    windows: Windows,
    *,
    chunked: bool = False,
    against: Reference | None = None,
    record: Reference | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Runs the windows through the model.

    Args:
        llama: Its context must hold a window. Made with `logits_all=True` for `chunked`.
        windows: What to evaluate.
        chunked: Evaluate batches of n_batch tokens instead of single ones: faster, and not what decoding does.
        against: Compare with these predictions, recorded on the same windows.
        record: Keep the predictions here.
        progress: Called with the fraction done, 0.0 to 1.0.
    """
    n_scored = windows.n_scored
    nll = np.empty(n_scored)
    kl = np.empty(n_scored)
    n_agreed = row = 0
    stats_before, time_start = llama.stats(), time.perf_counter()
    for log_probs, targets in _predictions(llama, windows, chunked=chunked, progress=progress):
        rows = slice(row, row + len(targets))
        nll[rows] = -log_probs[np.arange(len(targets)), targets]
        if record is not None:
            record.log_probs[rows] = log_probs
        if against is not None:
            expected = np.asarray(against.log_probs[rows])
            kl[rows] = (np.exp(expected) * (expected - log_probs)).sum(axis=1, dtype=np.float64)
            n_agreed += int((expected.argmax(axis=1) == log_probs.argmax(axis=1)).sum())
        row = rows.stop
    if record is not None:
        record.nll[:] = nll
    divergence = None
    if against is not None:
        loss, loss_se = _paired_loss(nll, against.nll)
        divergence = Divergence(loss, loss_se, float(kl.mean()), float(np.quantile(kl, 0.99)), n_agreed / n_scored)
    return Evaluation(
        nll=nll,
        n_tokens=windows.n_tokens,
        elapsed_s=time.perf_counter() - time_start,
        stats=llama.stats().since(stats_before),
        divergence=divergence,
    )


def read_text(path: Path) -> bytes:
    """A text file; raises UsageError."""
    try:
        text = path.read_bytes()
    except OSError as error:
        raise UsageError(f"The text {str(path)!r} cannot be read: {error.strerror}.") from error
    if not text.strip():
        raise UsageError(f"The text {str(path)!r} is empty; give one of some hundred words.")
    return text


def _paired_loss(nll: Doubles, expected: Doubles) -> tuple[float, float]:
    difference = nll - expected
    ratio = float(np.exp(difference.mean()))
    se = float(difference.std(ddof=1) / np.sqrt(len(difference))) if len(difference) > 1 else 0.0
    return ratio - 1.0, ratio * se


def _predictions(
    llama: Llama, windows: Windows, *, chunked: bool, progress: Progress | None
) -> Iterator[tuple[Floats, npt.NDArray[np.int64]]]:
    """Yields log-probabilities [n, n_vocab] of scored positions in order, with the tokens [n] that came next."""
    n_done = 0
    n_batch = llama.n_batch if chunked else 1
    for window, targets in zip(windows.inputs, windows.targets, strict=True):
        llama.reset()
        for start in range(0, len(window), n_batch):
            batch = window[start : start + n_batch]
            llama.eval(batch)
            n_done += len(batch)
            if progress is not None:
                progress(n_done / windows.n_tokens)
            first = max(start, windows.first_scored)
            end = min(start + len(batch), len(window) - 1)  # nothing follows the window's last token
            if first < end:
                logits = llama.scores[first:end] if chunked else _last_logits(llama)
                yield (
                    _log_softmax(logits),
                    np.asarray(targets[first - windows.first_scored : end - windows.first_scored]),
                )


def _last_logits(llama: Llama) -> Floats:
    import llama_cpp

    logits: Floats = np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(llama.ctx, -1), shape=(1, llama.n_vocab()))
    return logits


def _log_softmax(logits: Floats) -> Floats:
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_sum = np.log(np.exp(shifted).sum(axis=1, keepdims=True, dtype=np.float64))
    log_probs: Floats = (shifted - log_sum).astype(np.float32)
    return log_probs
