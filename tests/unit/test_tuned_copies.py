"""Which copies a run uses that names none: those that `hobbit tune` found settings for, while they are there."""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sample_tuning import TUNING

from hobbit_py.cli.common import ModelOptions
from hobbit_py.errors import UsageError
from hobbit_py.mixed import choose_copies
from hobbit_py.tune import TunedCopies, save_tuning, tuned_copies, tuning_path


def write(path: Path, n_bytes: int) -> Path:
    path.write_bytes(bytes(n_bytes))
    return path


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model with three lo copies beside it, the finest of which is the largest."""
    for lo_type, n_bytes in (("Q2_K", 200), ("IQ4_XS", 400), ("Q4_K", 450)):
        write(tmp_path / f"model.lo-{lo_type}.gguf", n_bytes)
    return write(tmp_path / "model.gguf", 1000)


def lo_of(model: Path, lo_type: str) -> Path:
    return model.with_name(f"model.lo-{lo_type}.gguf")


def tune_pair(model: Path, **changes: Any) -> TunedCopies:
    found = TunedCopies(lo_of(model, "Q2_K"), lo_of(model, "IQ4_XS"))
    save_tuning([model], found.lo, replace(TUNING, **changes), hi_path=found.hi)
    return found


def test_a_tuned_pair_is_found(model: Path) -> None:
    assert tuned_copies(model) is None
    pair = tune_pair(model)
    assert tuned_copies(model) == pair
    save_tuning([model], None, None)  # as after --eviction-only
    assert tuned_copies(model) == pair
    save_tuning([model], lo_of(model, "IQ4_XS"), TUNING)
    assert tuned_copies(model) == TunedCopies(lo_of(model, "IQ4_XS"), None)


def test_of_a_model_in_the_folder_that_one_is_in(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tune_pair(model)
    monkeypatch.chdir(model.parent)
    assert tuned_copies("model.gguf") == TunedCopies(Path("model.lo-Q2_K.gguf"), Path("model.lo-IQ4_XS.gguf"))


def test_of_a_split_model(tmp_path: Path) -> None:
    parts = [write(tmp_path / f"m-0000{n}-of-00002.gguf", 100 + n) for n in (1, 2)]
    lo = write(tmp_path / "m.lo-Q2_K.gguf", 20)
    save_tuning(parts, lo, TUNING)
    assert tuned_copies(parts[0]) == TunedCopies(lo, None)
    assert tuned_copies(parts[1]) is None
    write(parts[1], 7)
    assert tuned_copies(parts[0]) is None


@pytest.mark.parametrize("name", ["model.gguf", "model.lo-Q2_K.gguf", "model.lo-IQ4_XS.gguf"])
@pytest.mark.parametrize("is_missing", [False, True])
def test_a_file_that_is_another_or_gone_changes_nothing(model: Path, name: str, is_missing: bool) -> None:
    tune_pair(model)
    path = model.with_name(name)
    size = path.stat().st_size
    if is_missing:
        path.unlink()
    else:
        write(path, size + 1)
    assert tuned_copies(model) is None
    if name != "model.gguf":
        assert choose_copies(model, None, None, "auto") == (lo_of(model, "Q4_K"), None)


@pytest.mark.parametrize(
    "change",
    [
        {"schema": 4},
        {"hi_above": "much"},
        {"lo": None},
        {"lo": "model.lo-Q2_K.gguf"},
        {"hi": {"name": "model.lo-IQ4_XS.gguf"}},
        {"hi": []},
        {"model": []},
        {"model": {}},
        {"model": [None]},
        {"model": [{"name": "other.gguf", "bytes": 1000}]},
        {"lo": {"name": "../elsewhere/secret", "bytes": 5}},
        {"lo": {"name": "..", "bytes": 4096}},
        {"lo": {"name": "", "bytes": 5}},
        {"lo": {"name": "\0", "bytes": 5}},
    ],
    ids=str,
)
def test_a_file_that_cannot_be_used_changes_nothing(model: Path, change: dict[str, Any]) -> None:
    tune_pair(model)
    elsewhere = model.parent.parent / "elsewhere"
    elsewhere.mkdir(exist_ok=True)
    write(elsewhere / "secret", 5)
    path = tuning_path(model)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    assert tuned_copies(model) is None


def test_where_nothing_was_within_the_loss_other_copies_may_do_better(model: Path) -> None:
    save_tuning([model], lo_of(model, "Q2_K"), replace(TUNING, hi_above=0.0, lo_share=0.0))
    assert choose_copies(model, None, None, "auto") == (lo_of(model, "Q4_K"), None)


@pytest.mark.parametrize("precision", ["auto", "mixed"])
def test_what_is_given_wins_then_what_was_tuned_then_the_largest(model: Path, precision: str) -> None:
    assert choose_copies(model, None, None, precision) == (lo_of(model, "Q4_K"), None)
    pair = tune_pair(model)
    assert choose_copies(model, None, None, precision) == (pair.lo, pair.hi)
    assert choose_copies(model, "a.gguf", None, precision) == ("a.gguf", None)
    assert choose_copies(model, "a.gguf", "b.gguf", precision) == ("a.gguf", "b.gguf")
    assert choose_copies(model, None, pair.hi, precision) == (pair.lo, pair.hi)


def test_exact_mode_uses_none(model: Path) -> None:
    tune_pair(model)
    assert choose_copies(model, None, None, "exact") == (None, None)
    assert choose_copies(model, "a.gguf", "b.gguf", "exact") == (None, None)


def test_without_a_lo_copy(tmp_path: Path) -> None:
    model = tmp_path / "model.gguf"
    assert choose_copies(model, None, None, "auto") == (None, None)
    with pytest.raises(UsageError, match="Mixed precision needs a lo copy and there is none beside"):
        choose_copies(model, None, None, "mixed")


def test_tune_and_trace_are_about_the_model_and_not_about_what_was_tuned_before(model: Path) -> None:
    """With copies in hi that nobody named a trace would not be of exact mode."""
    tune_pair(model)
    options = ModelOptions(model=model).untuned()
    assert options.lo is not None
    assert choose_copies(os.fspath(model), options.lo, options.hi, "mixed") == (lo_of(model, "Q4_K"), None)
    assert ModelOptions(model=model, lo=lo_of(model, "Q2_K")).untuned().lo == lo_of(model, "Q2_K")
