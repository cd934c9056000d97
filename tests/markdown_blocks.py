"""Code blocks of the documentation, and the commands in its text."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

PROJECT_DIR = Path(__file__).resolve().parents[1]
_NOT_RUN = re.compile(r"<!-- not run: (?P<reason>[^>]+?) -->\s*\Z")
_RUN_WITH = re.compile(r"<!-- run with (?P<new>[^>]+?) for (?P<old>[^>]+?) -->\s*\Z")
_IN_BACKGROUND = re.compile(r"<!-- run in the background until (?P<url>\S+) answers -->\s*\Z")
_BLOCK = re.compile(r"^```(?P<language>[^\n]*)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"`([^`\n]+)`")


@dataclass(frozen=True)
class Block:
    """A fenced block; `not_run` is the reason that a marker directly above it gives, `runs` what is run in a test:

    <!-- not run: needs the internet -->
    <!-- run with --expert-memory 8MiB for --memory 8GiB -->

    `waits_for` is the address at which a program that does not end is up: it runs while the blocks below it do.

    <!-- run in the background until http://127.0.0.1:8080/health answers -->
    """

    path: Path
    line: int
    language: str
    code: str
    runs: str
    not_run: str | None
    waits_for: str | None

    @property
    def where(self) -> str:
        return f"{self.path.relative_to(PROJECT_DIR)}:{self.line}"


def documents() -> list[Path]:
    """README.md, CONTRIBUTING.md and docs/*.md."""
    return [PROJECT_DIR / "README.md", PROJECT_DIR / "CONTRIBUTING.md", *sorted((PROJECT_DIR / "docs").glob("*.md"))]


def blocks_of(path: Path) -> list[Block]:
    text = path.read_text(encoding="utf-8")
    found = []
    for match in _BLOCK.finditer(text):
        before = text[: match.start()]
        not_run, run_with = _NOT_RUN.search(before), _RUN_WITH.search(before)
        in_background = _IN_BACKGROUND.search(before)
        code = match["code"]
        if run_with is not None:
            assert run_with["old"] in code, f"{path}: {run_with[0]}"
        found.append(
            Block(
                path=path,
                line=before.count("\n") + 1,
                language=match["language"].strip(),
                code=code,
                runs=code.replace(run_with["old"], run_with["new"]) if run_with else code,
                not_run=not_run["reason"] if not_run else None,
                waits_for=in_background["url"] if in_background else None,
            )
        )
    return found


def hobbit_commands(path: Path) -> list[str]:
    """Every `hobbit ...` line of the shell blocks and of the code spans, comments and redirections cut off."""
    text = path.read_text(encoding="utf-8")
    blocks = [block.code.replace("\\\n", " ") for block in blocks_of(path) if block.language == "sh"]
    lines = [line for code in blocks for line in code.splitlines()]
    lines += _SPAN.findall(_BLOCK.sub("", text))
    # A command may stand behind an environment, a path to it, or in a chain.
    commands = [part.strip() for line in lines for part in re.split(r"&&|\||;", line.partition(" #")[0])]
    return [command for command in commands if re.match(r"hobbit(\s|$)", command)]
