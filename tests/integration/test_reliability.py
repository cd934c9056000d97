"""A few cases of each check of scripts/reliability.py; docs/reliability.md has what the long ones found."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "reliability.py"


@pytest.mark.parametrize(
    "arguments",
    [
        ("faults", "--count", "12", "--seed", "2"),
        ("property", "--count", "6", "--seed", "2"),
        ("kill", "--step", "9", "--case", "trace", "--case", "tune"),
        ("platforms", "--case", "64 KiB alignment", "--arch", "qwen3moe"),
    ],
    ids=lambda arguments: "-".join(arguments).replace(" ", "-"),
)
def test_short(arguments: tuple[str, ...]) -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
