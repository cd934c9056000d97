"""`hobbit bench` as a process, with the bundled model."""

import json
import math
import re
import subprocess
import sys
from typing import Any

import pytest

from hobbit_py.bundled import bundled_model

pytestmark = pytest.mark.alone


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "hobbit_py", "bench", "--prompt-tokens", "16", "-n", "16", "--threads", "1", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    done = bench("--expert-memory", "50%,2MiB", "--json")
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_one_line_a_budget(report: dict[str, Any]) -> None:
    labels = [figures["case"]["budget"]["label"] for figures in report["figures"]]
    assert labels == ["all experts resident", "50% of the experts", "expert memory 2.00 MiB"]
    resident, half, scarce = report["figures"]
    assert resident["hit_rate"] in (None, 1.0)  # None: all are there for good, so that none is asked for
    assert resident["read_bytes_per_token"] == 0
    assert half["hit_rate"] > scarce["hit_rate"]
    assert scarce["read_bytes_per_token"] > half["read_bytes_per_token"] > 0
    for figures in report["figures"]:
        for name in ("decode_tok_s", "prompt_tok_s", "load_s", "first_token_s", "cpu_s_per_token", "peak_rss_bytes"):
            assert figures[name] > 0, name


def test_the_roofline_follows_from_the_figures(report: dict[str, Any]) -> None:
    resident, _, scarce = report["figures"]
    roofline = scarce["roofline"]
    assert math.isclose(roofline["compute_s"], 1 / resident["decode_tok_s"])
    assert math.isclose(roofline["io_s"], scarce["read_bytes_per_token"] / report["drive"]["bytes_s"])
    assert math.isclose(roofline["token_s"], 1 / scarce["decode_tok_s"])
    assert not scarce["compute_is_estimate"]


def test_exact_runs_give_the_same_tokens(report: dict[str, Any]) -> None:
    tokens = [run["measurement"]["tokens"] for run in report["runs"]]
    assert len(tokens) == 3
    assert tokens[0] == tokens[1] == tokens[2]


def test_tables_and_estimated_compute_time() -> None:
    done = bench("--expert-memory", "25%", "--no-reference")
    assert done.returncode == 0, done.stderr
    assert re.search(r"25% of the experts +│ exact +│ +[\d.]+ ", done.stdout)
    assert re.search(r"Drive: \d+ MB/s .* of 136 KiB", done.stdout)
    assert "~: token time less its stalls" in done.stdout


def test_a_preset_runs_with_its_policies() -> None:
    """The one that changes what is routed: more of it is resident, and other tokens are no mistake of exact mode's."""
    hits = []
    for preset in ("baseline", "cache-prior"):
        done = bench("--preset", preset, "--expert-memory", "25%,50%", "--no-reference", "--json")
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        assert found["preset"] == preset
        hits.append(found["figures"][0]["hit_rate"])
    assert hits[1] > hits[0] + 0.05


def test_a_budget_that_is_too_small_is_told_and_the_others_are_measured() -> None:
    done = bench("--memory", "1MiB,1GiB", "--no-reference", "--json")
    assert done.returncode == 0, done.stderr
    assert "memory 1.00 MiB, exact: a memory budget of 1.00 MiB is too small" in done.stderr
    (figures,) = json.loads(done.stdout)["figures"]
    assert figures["case"]["budget"]["label"] == "memory 1.00 GiB"
    done = bench("--memory", "1MiB", "--no-reference")
    assert done.returncode == 1
    assert done.stderr.endswith("hobbit: No run succeeded; each one's reason is above.\n")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--memory", "8XB"], "unknown unit"),
        (["--expert-memory", "101%"], "'101%' is not a percentage"),
        (["--precision", "mixed"], "hobbit pack"),
        (["--preset", "hobit"], "did you mean 'hobbit'"),
        (["--text", "nowhere.txt"], "'nowhere.txt' is not a file"),
        (["nowhere.gguf"], "nowhere.gguf"),
    ],
)
def test_mistakes_are_one_sentence(arguments: list[str], expected: str) -> None:
    done = bench(*arguments)
    assert done.returncode == 2, done.stderr
    assert not done.stdout
    assert done.stderr.count("\n") == 1
    assert expected in done.stderr


def test_bundled_model_has_no_lo_copy_beside_it() -> None:
    """What the tests above rely on: exact mode alone is measured by default."""
    assert not list(bundled_model().parent.glob("*.lo-*.gguf"))
