"""The policy that docs/policies.md shows, as a package of somebody else: found by name, live and in the simulator."""

import importlib
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from support import ModelFactory, make_prompt
from traces import random_trace

import hobbit_py
from hobbit_py.cli import main
from hobbit_py.errors import UsageError
from hobbit_py.policies import eviction_policy, precision_policy
from hobbit_py.policies.eviction import EvictionPolicy
from hobbit_py.simulate import save_trace

DOC = Path(__file__).resolve().parents[2] / "docs" / "policies.md"
MAX_LINES = 30


def policy_text() -> str:
    found = re.search(r"```python\n(.*?)```", DOC.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    return found[1]


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on the path, as pip would leave it after an installation."""
    (tmp_path / "hottest.py").write_text(policy_text(), encoding="utf-8")
    entry = re.search(r'entry-points\."(.*?)"\]\n(\S+) = "(.*?)"', DOC.read_text(encoding="utf-8"))
    assert entry is not None
    group, name, target = entry.groups()
    info = tmp_path / "hottest-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: hottest\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        f"[{group}]\n{name} = {target}\nbroken = hottest:Missing\nother = hottest:np\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    yield tmp_path
    sys.modules.pop("hottest", None)


def test_it_is_short(package: Path) -> None:
    assert len(policy_text().splitlines()) < MAX_LINES
    assert isinstance(eviction_policy("hottest"), EvictionPolicy)


def test_it_runs_live(package: Path, tiny_model: ModelFactory) -> None:
    logits = []
    for eviction in ("hottest", None):
        llama = hobbit_py.Llama(
            tiny_model("qwen3moe"), expert_memory=400_000, eviction=eviction, n_threads=1, logits_all=True
        )
        llama.eval(make_prompt(16))
        for token in make_prompt(16, 1):
            llama.eval([token])
        logits.append(np.array(llama.scores[: llama.n_tokens]))
        assert llama.stats().n_evictions > 0
        llama.close()
    assert np.array_equal(*logits)


def test_it_runs_in_the_simulator(package: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "t.npz"
    save_trace(path, random_trace(n_tokens=200))
    assert main(["simulate", str(path), "--eviction", "hottest,lru", "--capacity", "30%", "--json"]) == 0
    rows = {row["preset"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["hottest"]["belady_miss_bytes"] <= rows["hottest"]["miss_bytes"] < rows["lru"]["miss_bytes"]


def test_what_cannot_be_used_is_told(package: Path) -> None:
    with pytest.raises(UsageError, match="did you mean 'hottest'"):
        eviction_policy("hotest")
    with pytest.raises(UsageError, match="'broken' of hottest:Missing cannot be made"):
        eviction_policy("broken")
    with pytest.raises(UsageError, match="'other' of hottest:np cannot be made"):
        eviction_policy("other")
    with pytest.raises(UsageError, match="'hottest' cannot choose copies"):
        precision_policy("hottest")
