"""Every file of examples/ runs as its docstring says, with the bundled model."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from markdown_blocks import PROJECT_DIR

EXAMPLES = PROJECT_DIR / "examples"
EXPECTED = {
    "chat.py": (
        ["--max-tokens", "8"],
        r"> What is a dog\?\n.+\n\(\d+% hits, [\d.]+ MB read\)\n\n> And what is a cat\?",
    ),
    "streaming.py": (["--max-tokens", "6"], r"(?m)^'.*' +[\d.]+ MB$"),
    "custom_policy.py": ([], r"every expert in hi: +[\d.]+ MB read\nthe best one in hi: +[\d.]+ MB read\n"),
    "perplexity_sweep.py": (
        ["--tokens", "128", "--lo", "Q4_0"],
        r"exact +perplexity +[\d.]+ +[\d.]+ MB a token\nmixed with Q4_0 +perplexity +[\d.]+ +[\d.]+ MB a token\n",
    ),
}


def run(name: str, *arguments: str, folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name), *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", EXPECTED)
def test_example(name: str, tmp_path: Path) -> None:
    arguments, expected = EXPECTED[name]
    assert re.search(expected, run(name, *arguments, folder=tmp_path))
    assert not list(tmp_path.iterdir())


def test_every_example_is_run() -> None:
    # The client needs a server: tests/e2e/test_serve.py runs it.
    assert {path.name for path in EXAMPLES.glob("*.py")} == {*EXPECTED, "server_client.py"}


def test_a_policy_saves_bytes(tmp_path: Path) -> None:
    high, best = (float(mb) for mb in re.findall(r"([\d.]+) MB", run("custom_policy.py", folder=tmp_path)))
    assert best < high
