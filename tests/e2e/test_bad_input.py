"""What a user may get wrong about a model file or a budget: one sentence, exit code 2, no traceback."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support import ModelFactory
from tiny_models import split_model

import hobbit_py

MakeModel = Callable[[Path, Path], Path]  # (a good model, an empty folder) -> what the user names


def missing(_good: Path, folder: Path) -> Path:
    return folder / "model.gguf"


def directory(_good: Path, folder: Path) -> Path:
    path = folder / "model.gguf"
    path.mkdir()
    return path


def not_a_gguf(_good: Path, folder: Path) -> Path:
    path = folder / "model.gguf"
    path.write_bytes(b"root:x:0:0:" * 1000)
    return path


def empty(_good: Path, folder: Path) -> Path:
    path = folder / "model.gguf"
    path.touch()
    return path


def only_the_magic(_good: Path, folder: Path) -> Path:
    path = folder / "model.gguf"
    path.write_bytes(b"GGUF")
    return path


def truncated_header(good: Path, folder: Path) -> Path:
    path = folder / "model.gguf"
    path.write_bytes(good.read_bytes()[:1000])
    return path


def truncated_data(good: Path, folder: Path) -> Path:
    path = folder / "model.gguf"
    path.write_bytes(good.read_bytes()[:-5000])
    return path


def _split(good: Path, folder: Path) -> list[Path]:
    return split_model(Path(shutil.copy(good, folder / "model.gguf")), 3)


def missing_part(good: Path, folder: Path) -> Path:
    parts = _split(good, folder)
    parts[1].unlink()
    return parts[0]


def directory_as_part(good: Path, folder: Path) -> Path:
    parts = _split(good, folder)
    parts[2].unlink()
    parts[2].mkdir()
    return parts[0]


def truncated_part(good: Path, folder: Path) -> Path:
    parts = _split(good, folder)
    parts[2].write_bytes(parts[2].read_bytes()[:-5000])
    return parts[0]


def wrong_part(good: Path, folder: Path) -> Path:
    parts = _split(good, folder)
    shutil.copy(parts[1], parts[2])
    return parts[0]


def second_part_named(good: Path, folder: Path) -> Path:
    return _split(good, folder)[1]


def unknown_architecture(good: Path, folder: Path) -> Path:
    path = folder / "model.gguf"
    content = good.read_bytes()
    assert content.count(b"qwen3moe") > 1
    path.write_bytes(content.replace(b"qwen3moe", b"qwen9moe"))
    return path


BAD_MODELS: dict[MakeModel, str] = {
    missing: "does not exist",
    directory: "is a folder",
    not_a_gguf: "is not a GGUF file",
    empty: "is empty",
    only_the_magic: "is truncated",
    truncated_header: "header that is damaged, truncated",
    truncated_data: "is truncated: tensor",
    missing_part: "part 2 of 3 of the model, does not exist",
    directory_as_part: "is a folder",
    truncated_part: "is truncated: tensor",
    wrong_part: "part 3 of 3 of the model but its header does not say so",
    second_part_named: "name the first one",
    unknown_architecture: "qwen9moe",
}
BAD_SIZES = ["12parsecs", "-1", "1KiB", "900TiB", "", "0", "nan", "1e9", "auto GiB"]


def hobbit_generate(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "hobbit_py", "generate", "--prompt", "It was", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def assert_one_sentence(done: subprocess.CompletedProcess[str], expected: str) -> None:
    assert done.returncode == 2, done.stderr
    assert not done.stdout
    assert done.stderr.startswith("hobbit: ")
    assert done.stderr.count("\n") == 1
    assert done.stderr.rstrip().endswith((".", "?"))
    assert expected in done.stderr


@pytest.mark.parametrize("make", BAD_MODELS, ids=lambda make: make.__name__)
def test_bad_model_in_python(tiny_model: ModelFactory, tmp_path: Path, make: MakeModel) -> None:
    path = make(tiny_model("qwen3moe"), tmp_path)
    with pytest.raises(hobbit_py.ModelFileError) as caught:
        hobbit_py.Llama(path, n_ctx=64)
    assert "model" in str(caught.value)
    assert str(caught.value).endswith(".")
    assert BAD_MODELS[make] in str(caught.value)


@pytest.mark.parametrize("make", BAD_MODELS, ids=lambda make: make.__name__)
def test_bad_model_on_the_command_line(tiny_model: ModelFactory, tmp_path: Path, make: MakeModel) -> None:
    assert_one_sentence(hobbit_generate(str(make(tiny_model("qwen3moe"), tmp_path))), BAD_MODELS[make])


@pytest.mark.parametrize("size", BAD_SIZES)
@pytest.mark.parametrize("keyword", ["memory", "expert_memory"])
def test_bad_size_in_python(tiny_model: ModelFactory, keyword: str, size: str) -> None:
    if keyword == "expert_memory" and size in ("0", "1KiB", "900TiB"):
        hobbit_py.Llama(tiny_model("qwen3moe"), n_ctx=64, expert_memory=size).close()  # small, or all there are
        return
    with pytest.raises((hobbit_py.UsageError, hobbit_py.MemoryBudgetError)):
        hobbit_py.Llama(tiny_model("qwen3moe"), n_ctx=64, **{keyword: size})


@pytest.mark.parametrize("size", BAD_SIZES)
def test_bad_size_on_the_command_line(size: str) -> None:
    assert_one_sentence(hobbit_generate(f"--memory={size}"), "")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--frobnicate"], "--frobnicate"),
        (["--memry", "1GiB"], "--memory"),
        (["--memory"], "--memory"),
        (["--ctx", "many"], "many"),
        (["-n", "0"], "-n"),
        (["--threads", "-3"], "--threads"),
        (["--memory", "1GiB", "--expert-memory", "1MiB"], "exclude each other"),
        (["one.gguf", "two.gguf"], "two.gguf"),
        (["--prompt-file", "nowhere.txt"], "--prompt"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_usage(arguments: list[str], expected: str) -> None:
    assert_one_sentence(hobbit_generate(*arguments), expected)


def test_what_a_model_with_experts_refuses(tiny_model: ModelFactory) -> None:
    path = tiny_model("qwen3moe")
    for keyword, value in (
        ("use_mlock", True),
        ("vocab_only", True),
        ("n_gpu_layers", 7),
        ("precision", "approximate"),
    ):
        with pytest.raises(hobbit_py.UsageError, match=keyword):
            hobbit_py.Llama(path, n_ctx=64, **{keyword: value})
