"""Damaged model files: a few of the mutants of scripts/fuzz_files.py, and the damages that once ended the process.

`scripts/fuzz_files.py --count 10000` is the long run (docs/reliability.md).
"""

import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from gguf_anatomy import F32, STRING, U32, Entry, Gguf, read, write
from gguf_mutants import KINDS, mutant
from support import ModelFactory, stock_llama

import hobbit_py

F16_TENSOR, I32_TENSOR = 1, 26
SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


def run_script(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPTS / arguments[0]), *arguments[1:]], capture_output=True, text=True, check=False
    )


def test_mutants_are_refused_or_run_as_stock_does() -> None:
    done = run_script("fuzz_files.py", "--count", "60", "--seed", "20")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "60 files, 0 not taken well" in done.stdout
    for verdict in ("refused (header)", "refused (model)", "ran (model)"):
        assert verdict in done.stdout


def test_parsers_of_our_own_files() -> None:
    done = run_script("fuzz_parsers.py", "all", "--random", "100", "--seed", "20")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("100 inputs") == 10


def test_a_mutant_is_its_numbers(tiny_model: ModelFactory) -> None:
    original = read(tiny_model("qwen3moe").read_bytes())
    assert bytes(write(original).content) == tiny_model("qwen3moe").read_bytes()
    mutants = [mutant([original], 1, index) for index in range(len(KINDS))]
    assert [m.kind for m in mutants] == KINDS
    assert mutants == [mutant([original], 1, index) for index in range(len(KINDS))]
    assert all(m.content != bytes(write(original).content) for m in mutants if m.kind.startswith("bits"))


def set_value(key: bytes, value: int | float | bytes) -> Callable[[Gguf], None]:
    def change(gguf: Gguf) -> None:
        value_type = STRING if isinstance(value, bytes) else F32 if isinstance(value, float) else U32
        entry = gguf.find(key)
        if entry is None:
            gguf.entries.append(Entry(key, value_type, [value]))
        else:
            entry.value_type, entry.items = value_type, [value]

    return change


def rename(name: bytes, new_name: bytes, type_id: int) -> Callable[[Gguf], None]:
    def change(gguf: Gguf) -> None:
        tensor = next(tensor for tensor in gguf.tensors if tensor.name == name)
        tensor.name, tensor.type_id = new_name, type_id

    return change


def halve_a_norm(gguf: Gguf) -> None:
    norm = next(tensor for tensor in gguf.tensors if tensor.name == b"output_norm.weight")
    norm.type_id, norm.data = F16_TENSOR, norm.data[: len(norm.data) // 2]
    gguf.lay_out()


def spoil_the_end_token(gguf: Gguf) -> None:
    tokens, end = gguf.find(b"tokenizer.ggml.tokens"), gguf.find(b"tokenizer.ggml.eos_token_id")
    assert tokens is not None
    assert end is not None
    tokens.items[int(end.items[0])] = b"\xff\xfe"


# What llama.cpp asserts against while it loads, and what llama_cpp raises of texts.
DAMAGES: dict[str, tuple[Callable[[Gguf], None], str]] = {
    "more experts used than there are": (set_value(b"qwen3moe.expert_used_count", 1000), "contradicts itself"),
    "no layers": (set_value(b"qwen3moe.block_count", 0), "contradicts itself"),
    "rope scaling of no kind": (set_value(b"qwen3moe.rope.scaling.type", b"nonsense"), "contradicts itself"),
    "number of parts that is none": (set_value(b"split.count", 2.5), "split.count is no integer"),
    "architecture that is no text": (set_value(b"general.architecture", b"\xff\xfe"), "no word of ASCII"),
    "tensor's name that is no text": (rename(b"output_norm.weight", b"\xff\xfe", I32_TENSOR), "no weights are stored"),
    "negative epsilon": (set_value(b"qwen3moe.attention.layer_norm_rms_epsilon", -1.0), "a number of 0 or more"),
    "context of no length": (set_value(b"qwen3moe.context_length", 2**32 - 1), "expected 1 to 2147483647"),
    "norm of integers": (rename(b"output_norm.weight", b"output_norm.weight", I32_TENSOR), "i32, expected F32"),
    "norm of halves": (halve_a_norm, "f16, expected F32"),
    "tokenizer of another kind": (set_value(b"tokenizer.ggml.model", b"rwkv"), "no token for some letters"),
    "template that does not end": (set_value(b"tokenizer.chat_template", b"{% for m in messages %}"), "chat template"),
    "template of nothing but brackets": (set_value(b"tokenizer.chat_template", b"{{" + b"(" * 5000), "chat template"),
    "token that is no text": (spoil_the_end_token, "is not UTF-8"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_one_sentence(tiny_model: ModelFactory, tmp_path: Path, name: str) -> None:
    damage, expected = DAMAGES[name]
    damaged = read(tiny_model("qwen3moe").read_bytes())
    damage(damaged)
    path = tmp_path / "model.gguf"
    path.write_bytes(write(damaged).content)
    with pytest.raises(hobbit_py.ModelFileError) as caught:
        hobbit_py.Llama(path, n_ctx=64)
    assert expected in str(caught.value)
    assert str(caught.value).endswith(".")
    assert "\n" not in str(caught.value)
    hobbit_py.Llama(tiny_model("qwen3moe"), n_ctx=64).close()  # the process is as it was


def spell_by_letters(gguf: Gguf) -> None:
    """Makes the vocabulary a SentencePiece one, whose tokens for single bytes are missing but for the newline's."""
    set_value(b"tokenizer.ggml.model", b"llama")(gguf)
    tokens = gguf.find(b"tokenizer.ggml.tokens")
    assert tokens is not None
    tokens.items[ord("\n")], tokens.items[ord(" ")] = b"<0x0A>", "\u2581".encode()


@pytest.mark.parametrize("arch", ["qwen3moe", "llama-dense"])
def test_a_text_that_the_vocabulary_cannot_express(tiny_model: ModelFactory, tmp_path: Path, arch: str) -> None:
    damaged = read(tiny_model(arch).read_bytes())
    spell_by_letters(damaged)
    path = tmp_path / "model.gguf"
    path.write_bytes(write(damaged).content)
    with closing(hobbit_py.Llama(path, n_ctx=64)) as llama:
        plain = llama.tokenize(b"A dog.\n")
        for text in ("\u72ac".encode(), b"\xff", b"A dog. \xe7\x8a"):
            with pytest.raises(hobbit_py.ModelFileError, match=r"cannot express it \(.*\)\.$"):
                llama.tokenize(text)
        assert llama.tokenize(b"A dog.\n") == plain
        llama.eval(plain)


def test_tokens_are_those_of_stock(tiny_model: ModelFactory) -> None:
    path = tiny_model("qwen3moe")
    texts = [b"", b"A dog.", "\u72ac, \xe9t\xe9".encode(), bytes(range(256)), b"<|bos|>x" * 3, b"ra" * 20_000]
    with closing(hobbit_py.Llama(path, n_ctx=64)) as llama, stock_llama(path) as stock:
        for text in texts:
            for add_bos in (False, True):
                for special in (False, True):
                    expected = stock.tokenize(text, add_bos=add_bos, special=special)
                    assert llama.tokenize(text, add_bos=add_bos, special=special) == expected


def test_a_model_without_experts_too(tiny_model: ModelFactory, tmp_path: Path) -> None:
    damaged = read(tiny_model("llama-dense").read_bytes())
    set_value(b"llama.block_count", 0)(damaged)
    path = tmp_path / "model.gguf"
    path.write_bytes(write(damaged).content)
    with pytest.raises(hobbit_py.ModelFileError, match="contradicts itself"):
        hobbit_py.Llama(path, n_ctx=64)
    damaged.tensors.pop()
    set_value(b"llama.block_count", 2)(damaged)
    path.write_bytes(write(damaged).content)
    with pytest.raises(hobbit_py.ModelFileError, match=r"cannot load .*damaged"):
        hobbit_py.Llama(path, n_ctx=64)
