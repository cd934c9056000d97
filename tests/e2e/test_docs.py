"""Runs the command blocks of README.md and docs/*.md as written, in a folder with the files that they name.

A block that cannot be run here has a marker above it, <!-- not run: needs the internet -->, and one that needs other
arguments for the small model that it is run with says so: <!-- run with THIS for THAT -->.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
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


class User:
    """Runs blocks in a folder, one after another; what runs in the background ends with the `with`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        programs = f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
        self._environment = {**os.environ, "PATH": programs, "HOME": str(folder)}
        self._in_background: list[subprocess.Popen[str]] = []

    def __enter__(self) -> "User":
        return self

    def __exit__(self, *_exception: object) -> None:
        for process in self._in_background:
            os.killpg(process.pid, signal.SIGINT)
        for process in self._in_background:
            process.communicate(timeout=60)

    def run(self, block: Block) -> None:
        command = ["bash", "-euo", "pipefail", "-c", block.runs]
        if block.language == "python":
            command = [sys.executable, "-c", block.runs]
        if block.waits_for is not None:
            self._start(command, block, block.waits_for)
            return
        done = subprocess.run(
            command,
            cwd=self._folder,
            env=self._environment,
            input="",
            capture_output=True,
            text=True,
            check=False,
            timeout=900,
        )
        assert done.returncode == 0, f"{block.where}\n{block.runs}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr, f"{block.where}\n{done.stderr}"

    def _start(self, command: list[str], block: Block, url: str) -> None:
        process = subprocess.Popen(
            command,
            cwd=self._folder,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._in_background.append(process)
        give_up_at = time.monotonic() + 120
        while time.monotonic() < give_up_at and process.poll() is None:
            try:
                with urllib.request.urlopen(url, timeout=5):
                    return
            except OSError:
                time.sleep(0.2)
        pytest.fail(f"{block.where}\n{block.runs}\nis not up; exit code {process.poll()}")


@pytest.mark.parametrize("path", RUNNABLE, ids=lambda path: path.name)
def test_blocks_run_as_written(path: Path, folder: Path) -> None:
    with User(folder) as user:
        for block in blocks_of(path):
            if block.language and not block.not_run:
                user.run(block)
