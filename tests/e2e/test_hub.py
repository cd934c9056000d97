"""Models on the hub: fetched, listed, removed, planned and chatted with, against a hub on this machine."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_hub import FakeHub, serve_hub
from support import ModelFactory
from tiny_models import split_model

from hobbit_py.bundled import bundled_model
from hobbit_py.sizes import format_bytes

REPO = "someone/Mini-GGUF"
SPLIT = "someone/Split-GGUF"


@pytest.fixture(scope="module")
def content(tiny_model: ModelFactory, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, bytes]]:
    folder = tmp_path_factory.mktemp("hub")
    whole = tiny_model("qwen3moe")
    copy = folder / "model-Q8_0.gguf"
    copy.write_bytes(whole.read_bytes())
    parts = split_model(copy, 3)
    return {
        REPO: {
            "README.md": b"A model.",
            "mini-Q8_0.gguf": bundled_model().read_bytes(),
            "mini-Q4_0.gguf": tiny_model("llama", quant="Q4_0").read_bytes(),
            "mmproj-F16.gguf": b"GGUF of something else",
        },
        SPLIT: {f"Q8_0/{part.name}": part.read_bytes() for part in parts},
        "someone/nothing": {"README.md": b"No model."},
    }


@pytest.fixture
def hub(content: dict[str, dict[str, bytes]]) -> Iterator[FakeHub]:
    with serve_hub(FakeHub(content)) as hub:
        yield hub


def hobbit(hub: FakeHub | None, home: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "HF_ENDPOINT": hub.url if hub else "http://127.0.0.1:9",
        "HF_HOME": str(home / "hf"),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        **variables,
    }
    return subprocess.run(
        [sys.executable, "-m", "hobbit_py", *arguments],
        env=environment,
        cwd=home,
        input="",
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )


def assert_mistake(done: subprocess.CompletedProcess[str], expected: str, exit_code: int = 2) -> None:
    assert done.returncode == exit_code, done.stderr
    assert expected in done.stderr
    assert done.stderr.startswith("hobbit: ")
    assert done.stderr.count("\n") == 1


def test_pull_list_generate_off_line_and_remove(hub: FakeHub, tmp_path: Path) -> None:
    done = hobbit(hub, tmp_path, "pull", f"{REPO}:q8_0")
    assert done.returncode == 0, done.stderr
    path = Path(done.stdout.strip())
    assert path.read_bytes() == bundled_model().read_bytes()
    assert not done.stderr
    assert [name for name, _ in hub.downloads()] == ["mini-Q8_0.gguf"]

    again = hobbit(hub, tmp_path, "pull", f"{REPO}:Q8_0")
    assert again.stdout == done.stdout
    assert len(hub.downloads()) == 1

    listed = json.loads(hobbit(None, tmp_path, "list", "--json").stdout)["models"]
    assert [(m["model"], m["path"], m["complete"]) for m in listed] == [(f"{REPO}:Q8_0", str(path), True)]
    assert f"{REPO}:Q8_0" in hobbit(None, tmp_path, "list").stdout

    arguments = ("generate", f"{REPO}:Q8_0", "--prompt", "It was", "-n", "2", "--json")
    off_line = hobbit(None, tmp_path, *arguments)
    assert off_line.returncode == 0, off_line.stderr
    assert len(json.loads(off_line.stdout)["tokens"]) == 2

    packed = hobbit(None, tmp_path, "pack", f"{REPO}:Q8_0")
    assert packed.returncode == 0, packed.stderr
    lo = Path(packed.stdout.strip())
    assert lo.parent == path.parent
    assert json.loads(hobbit(None, tmp_path, *arguments).stdout)["precision"] == "mixed"

    n_bytes = path.stat().st_size + lo.stat().st_size
    removed = hobbit(None, tmp_path, "rm", f"{REPO}:Q8_0")
    assert removed.returncode == 0, removed.stderr
    assert removed.stderr == f"hobbit: {format_bytes(n_bytes)} freed.\n"
    assert not path.exists()
    assert not [p for p in (tmp_path / "hf").rglob("*") if p.is_file() and p.stat().st_size > 1 << 20]
    assert json.loads(hobbit(None, tmp_path, "list", "--json").stdout) == {"models": []}
    assert_mistake(hobbit(None, tmp_path, "rm", REPO), "is not on this machine")


def test_split_model_comes_whole_and_runs(hub: FakeHub, tmp_path: Path) -> None:
    done = hobbit(hub, tmp_path, "generate", SPLIT, "--prompt", "It was", "-n", "1", "--json")
    assert done.returncode == 0, done.stderr
    assert sorted(name for name, _ in hub.downloads()) == [f"model-Q8_0-0000{i}-of-00003.gguf" for i in (1, 2, 3)]
    (model,) = json.loads(hobbit(None, tmp_path, "list", "--json").stdout)["models"]
    assert (model["model"], model["complete"]) == (f"{SPLIT}:Q8_0", True)


def test_an_interrupted_download_is_continued(hub: FakeHub, tmp_path: Path) -> None:
    hub.cut_after_bytes = 12 << 20
    first = hobbit(hub, tmp_path, "pull", f"{REPO}:Q8_0")
    assert_mistake(first, "what was fetched is kept", 1)
    hub.cut_after_bytes, hub.gone = None, False
    hub.requests.clear()
    second = hobbit(hub, tmp_path, "pull", f"{REPO}:Q8_0")
    assert second.returncode == 0, second.stderr
    assert [wanted for _, wanted in hub.downloads()] == [f"bytes={10 << 20}-"]  # it is written in pieces of 10 MiB
    assert Path(second.stdout.strip()).read_bytes() == bundled_model().read_bytes()


def test_a_killed_download_is_continued(hub: FakeHub, tmp_path: Path) -> None:
    """What a process that is no more has left: a partial file, and a temporary one of huggingface_hub."""
    done = hobbit(hub, tmp_path, "pull", f"{REPO}:Q8_0")
    path = Path(done.stdout.strip())
    blob = path.resolve()
    path.unlink()
    partial = blob.rename(blob.with_name(f"{blob.name}.hobbit-partial"))
    with partial.open("r+b") as file:
        file.truncate(5_000_000)
    (blob.parents[1] / "refs" / "main.0123abcd.tmp").write_text("0123")
    hub.requests.clear()
    again = hobbit(hub, tmp_path, "pull", f"{REPO}:Q8_0")
    assert again.returncode == 0, again.stderr
    assert [r for _, r in hub.downloads()] == ["bytes=5000000-"]
    assert path.read_bytes() == bundled_model().read_bytes()
    (listed,) = json.loads(hobbit(None, tmp_path, "list", "--json").stdout)["models"]
    assert (listed["model"], listed["complete"]) == (f"{REPO}:Q8_0", True)


def test_damage_on_the_way_is_found(hub: FakeHub, tmp_path: Path) -> None:
    hub.claimed_sha256 = "0" * 64
    done = hobbit(hub, tmp_path, "pull", f"{REPO}:Q4_0")
    assert_mistake(done, "was damaged on its way", 1)
    assert json.loads(hobbit(None, tmp_path, "list", "--json").stdout) == {"models": []}
    hub.claimed_sha256 = None
    assert hobbit(hub, tmp_path, "pull", f"{REPO}:Q4_0").returncode == 0


def test_plan_reads_headers_alone(hub: FakeHub, tmp_path: Path) -> None:
    done = hobbit(hub, tmp_path, "plan", f"{REPO}:Q8_0", "--json", "--threads", "1")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    local = json.loads(hobbit(None, tmp_path, "plan", str(bundled_model()), "--json", "--threads", "1").stdout)
    for name in ("architecture", "file_bytes", "expert_bytes", "dense_bytes", "kv_bytes_per_1k_tokens", "n_expert"):
        assert report[name] == local[name]
    assert all(wanted.startswith("bytes=") for _, wanted in hub.downloads())
    n_bytes = sum(int(b) - int(a) + 1 for a, b in (r.removeprefix("bytes=").split("-") for _, r in hub.downloads()))
    assert n_bytes < 8 << 20
    assert not list((tmp_path / "hf").rglob("*.gguf"))
    split = json.loads(hobbit(hub, tmp_path, "plan", SPLIT, "--json", "--threads", "1").stdout)
    assert split["architecture"] == "qwen3moe"


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (REPO, "several models; name one of"),
        (f"{REPO}:Q2_K", "no quantisation Q2_K; name one of Q4_0, Q8_0"),
        ("someone/nothing", "has no GGUF model"),
        ("nobody/nowhere", "nobody/nowhere is not on the hub, or is private"),
        ("just-a-word", "does not name a model on the hub"),
    ],
)
def test_names_that_cannot_be_fetched(model: str, expected: str, hub: FakeHub, tmp_path: Path) -> None:
    assert_mistake(hobbit(hub, tmp_path, "pull", model), expected)


def test_off_line_is_one_sentence(tmp_path: Path) -> None:
    assert_mistake(hobbit(None, tmp_path, "chat", f"{REPO}:Q8_0"), "The hub cannot be reached", 1)
    assert_mistake(hobbit(None, tmp_path, "plan", REPO), "The hub cannot be reached", 1)
    assert_mistake(hobbit(None, tmp_path, "pull", REPO, HF_HUB_OFFLINE="1"), "the hub cannot be reached", 1)


def test_a_hub_that_is_out_of_order_is_one_sentence(hub: FakeHub, tmp_path: Path) -> None:
    hub.status = 403
    assert_mistake(hobbit(hub, tmp_path, "pull", REPO), "The hub answered 403", 1)


def test_from_pretrained(hub: FakeHub, tmp_path: Path) -> None:
    code = (
        "import hobbit_py\n"
        f"a = hobbit_py.Llama.from_pretrained('{REPO}:Q8_0', n_ctx=64, expert_memory='4MiB')\n"
        f"b = hobbit_py.Llama.from_pretrained('{REPO}', '*Q8_0.gguf', n_ctx=64, expert_memory='4MiB')\n"
        "print(type(a) is type(b) is hobbit_py.Llama, a.model_path, b.model_path)"
    )
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf")}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False, timeout=200
    )
    same_class, first, second = done.stdout.split()
    assert same_class == "True"
    assert Path(first).read_bytes() == Path(second).read_bytes()
    assert len(hub.downloads()) == 1


def test_without_the_extra_the_sentence_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "huggingface_hub.py").write_text("raise ImportError('not here')\n")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    done = hobbit(None, tmp_path, "chat", REPO, PYTHONPATH=path)
    assert_mistake(done, 'pip install "hobbit_py[hub]"')
