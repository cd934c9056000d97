"""Runs the command blocks of README.md and docs/*.md as written, in a folder with the files that they name.

A block that cannot be run here has a marker above it, <!-- not run: needs the internet -->, and one that needs other
arguments for the small model that it is run with says so: <!-- run with THIS for THAT -->.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from markdown_blocks import Block, blocks_of, documents
from tiny_models import split_model

from hobbit_py.bundled import bundled_model, sample_text

RUNNABLE = [path for path in documents() if any(b.language and not b.not_run for b in blocks_of(path))]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A user's folder: a model, a split one, a prompt, a text; and `hobbit` in PATH."""
    shutil.copy(bundled_model(), tmp_path / "model.gguf")
    split_model(Path(shutil.copy(bundled_model(), tmp_path / "parts.gguf")), 4)
    for part in tmp_path.glob("parts-*.gguf"):
        part.rename(tmp_path / part.name.replace("parts-", "model-"))
    (tmp_path / "question.txt").write_text("Once upon a time", encoding="utf-8")
    for name in ("my.txt", "text.txt"):
        shutil.copy(sample_text(), tmp_path / name)
    programs = tmp_path / "bin"
    programs.mkdir()
    hobbit = programs / "hobbit"
    hobbit.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m hobbit_py "$@"\n')
    hobbit.chmod(0o755)
    (programs / "python").symlink_to(sys.executable)
    return tmp_path


def run(block: Block, folder: Path) -> subprocess.CompletedProcess[str]:
    command = ["bash", "-euo", "pipefail", "-c", block.runs]
    if block.language == "python":
        command = [sys.executable, "-c", block.runs]
    environment = {**os.environ, "PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}", "HOME": str(folder)}
    return subprocess.run(
        command, cwd=folder, env=environment, input="", capture_output=True, text=True, check=False, timeout=900
    )


@pytest.mark.parametrize("path", RUNNABLE, ids=lambda path: path.name)
def test_blocks_run_as_written(path: Path, folder: Path) -> None:
    for block in blocks_of(path):
        if block.language and not block.not_run:
            done = run(block, folder)
            assert done.returncode == 0, f"{block.where}\n{block.runs}\n{done.stdout}\n{done.stderr}"
            assert "Traceback" not in done.stderr, f"{block.where}\n{done.stderr}"
