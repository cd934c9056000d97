"""Names of models on the hub, and which files of a repository they mean."""

from pathlib import Path

import pytest

from hobbit_py import UsageError
from hobbit_py.hub import Reference
from hobbit_py.hub.choose import RemoteFile, choose, models_in

FILES = [
    RemoteFile("README.md", 10),
    RemoteFile("Big-30B-A3B-Q4_K_M.gguf", 400),
    RemoteFile("Big-30B-A3B-UD-Q4_K_XL.gguf", 450),
    RemoteFile("Big-30B-A3B-IQ2_XXS.gguf", 100),
    RemoteFile("BF16/Big-30B-A3B-BF16-00002-of-00002.gguf", 900),
    RemoteFile("BF16/Big-30B-A3B-BF16-00001-of-00002.gguf", 900),
    RemoteFile("mmproj-BF16.gguf", 5),
    RemoteFile("imatrix_unsloth.gguf", 5),
    RemoteFile("Big-30B-A3B-Q4_K_M.lo-Q2_K.gguf", 100),
]


def test_models_of_a_repository_smallest_first() -> None:
    assert [(model.quant, model.n_bytes) for model in models_in(FILES)] == [
        ("IQ2_XXS", 100),
        ("Q4_K_M", 400),
        ("UD-Q4_K_XL", 450),
        ("BF16", 1800),
    ]


@pytest.mark.parametrize(
    ("quant", "first"),
    [
        (None, "Big-30B-A3B-Q4_K_M.gguf"),
        ("ud-q4_k_xl", "Big-30B-A3B-UD-Q4_K_XL.gguf"),
        ("BF16", "BF16/Big-30B-A3B-BF16-00001-of-00002.gguf"),
    ],
)
def test_choice(quant: str | None, first: str) -> None:
    assert choose(Reference("a/b", quant), FILES).files[0].name == first


@pytest.mark.parametrize(
    ("files", "quant", "expected"),
    [
        (FILES, "Q8_0", "no quantisation Q8_0; name one of IQ2_XXS, Q4_K_M, UD-Q4_K_XL, BF16: a/b:IQ2_XXS."),
        (FILES[:1], None, "no GGUF model"),
        ([FILES[3], FILES[2]], None, "several models"),
        (FILES[4:5], "BF16", "1 of the 2 parts"),
        ([RemoteFile("x-Q4_0.gguf", 1), RemoteFile("y-Q4_0.gguf", 1)], "Q4_0", "several|no quantisation"),
    ],
)
def test_what_cannot_be_chosen(files: list[RemoteFile], quant: str | None, expected: str) -> None:
    with pytest.raises(UsageError, match=expected):
        choose(Reference("a/b", quant), files)


def test_a_single_model_needs_no_name_of_its_quantisation() -> None:
    assert choose(Reference("a/b"), [RemoteFile("weights.gguf", 1)]).quant == "weights"


def test_what_a_models_argument_means(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Reference.of_argument("org/name:Q4_K_M") == Reference("org/name", "Q4_K_M")
    assert Reference.of_argument(Path("org/name")) == Reference("org/name")
    for path in ("model.gguf", "org/model.gguf", "/abs/olute", "./org/name", "a/b/c", "model"):
        assert Reference.of_argument(path) is None
    (tmp_path / "org").mkdir()
    assert Reference.of_argument("org/name") is None
    with pytest.raises(UsageError, match="ORG/REPO"):
        Reference.parse("model.gguf")
