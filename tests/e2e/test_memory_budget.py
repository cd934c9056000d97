"""The memory promise: a process stays below its budget; one that is too small is refused with one that works."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import memory_box
import pytest
import widen_gguf

from hobbit_py.bundled import bundled_model

pytestmark = [pytest.mark.alone, pytest.mark.resident]

MIB = 1 << 20
PROMPT = "It was"  # keeps the bundled model talking
N_TOKENS = 200


@pytest.fixture(scope="session")
def wide_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled model's function in a file of 180 MB."""
    path = tmp_path_factory.mktemp("wide") / "wide.gguf"
    widen_gguf.widen(bundled_model(), path, embd=2, ff=3, quant_type=widen_gguf.QuantType.Q8_0)
    return path


def generate_command(path: Path, memory: str, *arguments: str) -> list[str]:
    model = [sys.executable, "-m", "hobbit_py", "generate", str(path), "--memory", memory, "--threads", "2"]
    return [*model, "--prompt", PROMPT, "--temp", "0", "--json", *arguments]


def generate(path: Path, memory: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = generate_command(path, memory, *arguments)
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


def refused_floor_mib(done: subprocess.CompletedProcess[str]) -> int:
    assert done.returncode == 2, done.stderr
    assert not done.stdout
    assert done.stderr.count("\n") == 1
    found = re.search(r"the smallest that works is (\d+)MiB", done.stderr)
    assert found is not None, done.stderr
    return int(found[1])


def floor_mib(path: Path, *arguments: str) -> int:
    return refused_floor_mib(generate(path, "1MiB", "-n", "1", *arguments))


@pytest.mark.skipif(os.geteuid() != 0, reason="control groups need root")
@pytest.mark.parametrize("above_floor_mib", [0, 60])
def test_the_budget_is_kept(wide_model: Path, above_floor_mib: int) -> None:
    """In a box 10% above the budget the process lives, and it stays below the budget itself."""
    budget_mib = floor_mib(wide_model, "--ctx", "512") + above_floor_mib
    result = memory_box.run_in_box(
        generate_command(wide_model, f"{budget_mib}MiB", "-n", str(N_TOKENS), "--ctx", "512"),
        budget_mib * MIB * 11 // 10,
        cold=False,
        timeout_s=300,
    )
    assert not result.oom_killed
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert len(report["tokens"]) == N_TOKENS
    assert report["peak_rss_bytes"] <= budget_mib * MIB
    # Otherwise it would be no budget: the experts do not fit.
    assert 0 < report["hit_rate"] < 1
    assert report["read_bytes_per_token"] > 0


@pytest.mark.parametrize("n_ctx", [256, 2048, 16384])
def test_the_smallest_budget_named_is_one_that_works(wide_model: Path, n_ctx: int) -> None:
    context = ("--ctx", str(n_ctx))
    named_mib = floor_mib(wide_model, *context)
    done = generate(wide_model, f"{named_mib}MiB", "-n", "4", *context)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["peak_rss_bytes"] <= named_mib * MIB
    # Not named by a wide margin.
    assert refused_floor_mib(generate(wide_model, f"{named_mib - 24}MiB", "-n", "4", *context)) == pytest.approx(
        named_mib, abs=8
    )


def test_a_longer_context_needs_more(wide_model: Path) -> None:
    assert floor_mib(wide_model, "--ctx", "256") < floor_mib(wide_model, "--ctx", "16384")


CHILD = """
import sys, time
import hobbit_py
hobbit_py.Llama
from hobbit_py.memory import resident_bytes
before_bytes, start = resident_bytes(), time.perf_counter()
try:
    hobbit_py.Llama(sys.argv[1], memory="100MiB", n_ctx=512)
except hobbit_py.MemoryBudgetError as error:
    floor_bytes = error.floor_bytes
print(time.perf_counter() - start, resident_bytes() - before_bytes)
llama = hobbit_py.Llama(sys.argv[1], memory=floor_bytes, n_ctx=512)
llama.eval([1, 2, 3])
"""


def test_a_budget_below_the_floor_is_refused_at_once(wide_model: Path) -> None:
    """Nothing is loaded; in the same process the budget that was named works as well."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(wide_model)], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    seconds, grown_bytes = done.stdout.split()
    assert float(seconds) < 1
    assert int(grown_bytes) < 16 * MIB


TWO_MODELS = """
import json, sys
import hobbit_py
from hobbit_py.stats import peak_rss_bytes

def load(above_floor_bytes):
    # Logits of every token are kept: rows that a model has not computed yet are not in memory yet.
    options = {"n_ctx": 1024, "n_threads": 2, "logits_all": True}
    try:
        hobbit_py.Llama(sys.argv[1], memory=1, **options)
    except hobbit_py.MemoryBudgetError as error:
        memory = error.floor_bytes + above_floor_bytes
    return hobbit_py.Llama(sys.argv[1], memory=memory, **options), memory

first, first_memory = load(60 << 20)
second, second_memory = load(20 << 20)
assert second_memory > first_memory
for llama in (second, first):
    llama.eval([1] * 512)
    for i in range(511):
        llama.eval([i % llama.n_vocab()])
print(json.dumps({
    "peak": peak_rss_bytes(),
    "budget": second_memory,
    "experts": [llama.stats().expert_memory_bytes for llama in (first, second)],
}))
"""


def test_a_second_model_counts_what_the_first_has_not_touched_yet(wide_model: Path) -> None:
    """The later budget holds for both: what a model will compute with is not resident yet."""
    done = subprocess.run(
        [sys.executable, "-c", TWO_MODELS, str(wide_model)], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert all(n_bytes > 0 for n_bytes in report["experts"])
    assert report["peak"] <= report["budget"]
    # Nor is anything counted twice: what is left over are the margins of both.
    assert report["peak"] >= report["budget"] - 110 * MIB
