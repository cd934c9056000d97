"""The file of the hot set: a hint that is whole, or absent."""

import json
from pathlib import Path

import pytest

from hobbit_py import warm_start
from hobbit_py.bundled import bundled_model
from hobbit_py.warm_start import hot_set_paths, load_hot_set, save_hot_set

COPIES = [(3, 7, 0), (0, 65535, 1), (0, 0, 0)]


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / "models" / "model.gguf"
    path.parent.mkdir()
    path.write_bytes(b"GGUF")
    return str(path)


def test_what_is_saved_is_loaded(model: str) -> None:
    assert load_hot_set([model]) == []
    assert save_hot_set([model], COPIES) == Path(model).with_name("model.hot.json")
    assert load_hot_set([model]) == COPIES
    assert sorted(path.name for path in Path(model).parent.iterdir()) == ["model.gguf", "model.hot.json"]


def test_another_model_of_that_name_has_none(model: str) -> None:
    save_hot_set([model], COPIES)
    Path(model).write_bytes(b"GGUF of another size")
    assert load_hot_set([model]) == []


def test_the_parts_of_a_split_model_share_one(model: str) -> None:
    first = str(Path(model).with_name("big-00001-of-00002.gguf"))
    assert hot_set_paths(first)[0].name == "big.hot.json"


def test_a_folder_that_cannot_be_written(model: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # Root may write anywhere, so the refusal is made.
    replace = warm_start.write_text_atomically

    def refuse_beside(path: Path, text: str) -> None:
        if path.parent == Path(model).parent:
            raise PermissionError(13, "Permission denied")
        replace(path, text)

    monkeypatch.setattr(warm_start, "write_text_atomically", refuse_beside)
    saved = save_hot_set([model], COPIES)
    assert saved is not None
    assert saved.is_relative_to(tmp_path / "cache" / "hobbit_py")
    assert load_hot_set([model]) == COPIES


def test_nowhere_to_write_is_no_failure(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", model)  # a file, where no folder can be made
    Path(model).with_name("model.hot.json").mkdir()
    assert save_hot_set([model], COPIES) is None
    assert load_hot_set([model]) == []


def test_an_interrupted_save_leaves_the_old_one(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    save_hot_set([model], COPIES)

    def interrupt(_descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(warm_start.os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save_hot_set([model], [(1, 1, 1)])
    assert load_hot_set([model]) == COPIES
    assert len(list(Path(model).parent.iterdir())) == 2


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"\xff\xfe",
        b"[" * 100_000,
        b"[]",
        b"null",
        {"schema": 2},
        {"bytes": None},
        {"copies": None},
        {"copies": [[1, 2]]},
        {"copies": [[1, 2, 2]]},
        {"copies": [[-1, 2, 0]]},
        {"copies": [[1, 65536, 0]]},
        {"copies": [[1.0, 2, 0]]},
        {"copies": [[True, 2, 0]]},
        {"copies": ["abc"]},
    ],
    ids=str,
)
def test_damage_is_absence(model: str, damage: bytes | dict[str, object]) -> None:
    path = save_hot_set([model], COPIES)
    assert path is not None
    if isinstance(damage, dict):
        damage = json.dumps(json.loads(path.read_text()) | damage).encode()
    path.write_bytes(damage)
    assert load_hot_set([model]) == []


def test_nothing_is_kept_in_the_package() -> None:
    path = str(bundled_model())
    before = sorted(Path(path).parent.iterdir())
    assert save_hot_set([path], COPIES) is None
    assert sorted(Path(path).parent.iterdir()) == before
