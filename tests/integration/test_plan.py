"""`plan`: needs as the runtime itself finds them, and what follows for budgets and speeds."""

import dataclasses
import json
import math
import shutil
from itertools import pairwise
from pathlib import Path

import pytest
from support import ModelFactory, expert_bytes_by_layer
from tiny_models import split_model

import hobbit_py
from hobbit_py import cli
from hobbit_py.bench.stored import StoredBench, bench_path, load_bench, save_bench
from hobbit_py.pack.gguf_file import open_header
from hobbit_py.planning import BudgetPlan, Plan
from hobbit_py.planning.compute import measure_matmul
from hobbit_py.planning.predict import VramPlan

MIB = 1 << 20


def plan_of(path: Path, **keywords: object) -> Plan:
    return hobbit_py.plan(path, **{"drive_bytes_s": 1e9, "n_threads": 1, "n_ctx": 256, **keywords})  # type: ignore[arg-type]


def only(plan: Plan) -> BudgetPlan:
    (budget,) = plan.budgets
    return budget


@pytest.mark.resident
@pytest.mark.parametrize("arch", ["qwen3moe", "deepseek2", "gpt-oss", "lfm2moe", "grovemoe"])
def test_least_memory_is_what_the_runtime_asks_for(tiny_model: ModelFactory, arch: str) -> None:
    path = tiny_model(arch)
    hobbit_py.Llama(path, n_ctx=256, n_threads=1).close()  # what a first load keeps belongs to no model
    with pytest.raises(hobbit_py.MemoryBudgetError) as caught:
        hobbit_py.Llama(path, n_ctx=256, n_threads=1, memory=1)
    assert abs(plan_of(path).floor_bytes - caught.value.floor_bytes) <= 8 * MIB


def test_sizes_come_from_the_headers(tiny_model: ModelFactory) -> None:
    path = tiny_model("qwen3moe")
    found = plan_of(path)
    expert_bytes = expert_bytes_by_layer(path)
    assert found.expert_bytes == 16 * sum(expert_bytes.values())
    assert found.expert_bytes_per_token == 4 * sum(expert_bytes.values())
    assert (found.n_layers, found.n_expert, found.n_expert_used) == (3, 16, 4)
    with open_header(path) as header:
        n_kv = header.get_u32("qwen3moe.attention.head_count_kv")
        n_head = header.get_u32("qwen3moe.attention.head_count")
        n_embd = header.get_u32("qwen3moe.embedding_length")
        head_dim = header.get_u32("qwen3moe.attention.key_length")
    assert n_kv is not None
    assert n_head is not None
    assert n_embd is not None
    # Keys and values of every layer in F16.
    assert found.kv_bytes_per_1k_tokens == 1000 * 3 * 2 * 2 * n_kv * (head_dim or n_embd // n_head)


def test_headers_alone_are_enough(tiny_model: ModelFactory, tmp_path: Path) -> None:
    """A file of the right size whose tensors are all holes, as for a model on the hub."""
    whole = tiny_model("glm4moe")
    parts = split_model(Path(shutil.copy(whole, tmp_path / "m.gguf")), 2)
    for part in parts:
        with open_header(part) as header:
            begin = min(tensor.offset for tensor in header.tensors())
        n_bytes = part.stat().st_size
        with part.open("r+b") as file:
            file.truncate(begin)
            file.truncate(n_bytes)
    expected, found = plan_of(whole), plan_of(parts[0])
    names = ("architecture", "expert_bytes", "dense_bytes", "n_layers", "kv_bytes_per_1k_tokens", "n_ctx")
    assert [getattr(found, name) for name in names] == [getattr(expected, name) for name in names]


def test_more_memory_is_never_slower(tiny_model: ModelFactory) -> None:
    found = plan_of(tiny_model("qwen3moe"))
    speeds = [budget.tok_s for budget in found.budgets]
    assert len(speeds) == 4
    assert all(a is not None and b is not None and a <= b for a, b in pairwise(speeds))
    last = found.budgets[-1]
    assert last.resident_share == 1.0
    assert last.read_bytes_per_token == 0
    assert last.lo is None
    for budget in found.budgets:
        assert budget.tok_s_low is not None
        assert budget.tok_s is not None
        assert budget.tok_s_high is not None
        assert budget.tok_s_low < budget.tok_s < budget.tok_s_high


def test_a_budget_below_the_floor_does_not_fit(tiny_model: ModelFactory) -> None:
    budget = only(plan_of(tiny_model("qwen3moe"), memory="1MiB"))
    assert not budget.fits
    assert budget.tok_s is None


def test_a_slow_drive_makes_a_lo_copy_worth_it_and_a_fast_one_not(
    tiny_model: ModelFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What this process holds grows from call to call, by more than some of the experts take.
    monkeypatch.setattr("hobbit_py.planning.needs.resident_bytes", lambda: 100 * MIB)
    path = tiny_model("qwen3moe", experts_quant="Q8_0", n_expert=64)
    floor = plan_of(path).floor_bytes
    slow = only(plan_of(path, memory=floor, drive_bytes_s=1e6))
    assert slow.lo is not None
    assert slow.tok_s is not None
    assert slow.lo.tok_s > 1.15 * slow.tok_s
    assert slow.lo.n_bytes < 0.9 * plan_of(path).expert_bytes
    assert only(plan_of(path, memory=floor, drive_bytes_s=1e15)).lo is None


def test_vram_holds_dense_weights_first(tiny_model: ModelFactory) -> None:
    path = tiny_model("qwen3moe")
    little, much = plan_of(path, vram="1MiB").vram, plan_of(path, vram="8GiB").vram
    assert little is not None
    assert much is not None
    assert (little.dense_fits, little.n_slots) == (False, 0)
    assert (much.dense_fits, much.n_slots) == (True, 3 * 16)


def test_vram_that_holds_all_experts_as_lo_copies_alone(tiny_model: ModelFactory) -> None:
    path = tiny_model("qwen3moe", experts_quant="Q8_0")

    def with_vram(n_bytes: int) -> VramPlan:
        found = plan_of(path, vram=n_bytes).vram
        assert found is not None
        return found

    much = with_vram(8 << 30)
    spent = next(n for n in range(1 << 20, 1 << 28, 1 << 20) if with_vram(n).dense_fits)
    spent -= with_vram(spent).expert_memory_bytes
    types = [with_vram(spent + much.expert_memory_bytes * percent // 100).lo_type for percent in (20, 99, 100)]
    assert types == [None, "Q6_K", None]


def test_what_bench_stored_is_used_where_it_belongs(tiny_model: ModelFactory, tmp_path: Path) -> None:
    path = Path(shutil.copy(tiny_model("qwen3moe"), tmp_path / "m.gguf"))
    n_bytes = path.stat().st_size
    stored = StoredBench(n_bytes, ((0.25, 0.9), (0.5, 0.5)), "another processor", 1, 123.0)
    assert save_bench(path, stored) == bench_path(path)
    assert load_bench(path, n_bytes) == stored
    found = plan_of(path)
    assert found.reuse == "measured by hobbit bench"
    assert found.budgets[1].compute_s != 123.0
    read_share = (found.budgets[1].read_bytes_per_token or 0) / found.expert_bytes_per_token
    share = found.budgets[1].resident_share
    assert math.isclose(read_share, 0.5 * (1 - share) / 0.5, rel_tol=1e-6)
    from hobbit_py.bench.machine import processor_name

    save_bench(path, dataclasses.replace(stored, processor=processor_name()))
    assert plan_of(path).budgets[1].compute_s == 123.0
    assert load_bench(path, n_bytes + 1) is None
    bench_path(path).write_text('{"schema": 1, "reuse": [[2, "x"]]}')
    assert load_bench(path, n_bytes) is None
    assert plan_of(path).reuse.startswith("typical")


def test_matmul_is_timed_for_every_type_of_expert() -> None:
    for type_id, block_bytes in ((8, 34), (2, 18)):  # Q8_0, Q4_0
        assert measure_matmul(type_id, 256, 128, 256 * 128 // 32 * block_bytes, 1) > 1e6


def test_command(tiny_model: ModelFactory, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(tiny_model("qwen3moe"))
    arguments = ["plan", path, "--memory", "1MiB,1GiB", "--vram", "1GiB", "--drive-mb-s", "1000", "--threads", "1"]
    assert cli.main(arguments) == 0
    shown = capsys.readouterr().out
    assert "qwen3moe, 3 layers" in shown
    assert "too small" in shown
    assert "1.00 GiB of VRAM" in shown
    assert cli.main([*arguments, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert [budget["fits"] for budget in report["budgets"]] == [False, True]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["nowhere.gguf"], "nowhere.gguf"),
        (["{model}", "--memory", "8XB"], "unknown unit"),
        (["{dense}"], "has no experts"),
        (["{model}", "--drive", "{tmp}/small"], "too small"),
    ],
)
def test_mistakes_are_one_sentence(
    arguments: list[str], expected: str, tiny_model: ModelFactory, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "small").write_bytes(b"x")
    names = {"model": tiny_model("qwen3moe"), "dense": tiny_model("llama-dense"), "tmp": tmp_path}
    assert cli.main(["plan", *(argument.format(**names) for argument in arguments)]) in (1, 2)
    shown = capsys.readouterr()
    assert expected in shown.err
    assert shown.err.count("\n") == 1
