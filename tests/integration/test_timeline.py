"""The profile of generation: every read is on it once, and what is on one lane does not overlap."""

import itertools
import json
import time
from collections import defaultdict
from contextlib import closing
from pathlib import Path

import pytest
from support import ArenaSize, ModelFactory, arena_bytes, expert_bytes_by_layer, expert_counts, make_prompt

import hobbit_py
from hobbit_py import cli, timeline
from hobbit_py.errors import HobbitError


def test_records_every_read_and_nothing_twice(tiny_model: ModelFactory, tmp_path: Path) -> None:
    path = tiny_model("qwen3moe")
    with closing(hobbit_py.Llama(path, expert_memory=arena_bytes(path, ArenaSize.QUARTER), prefetch=False)) as llama:
        timeline.start(llama)
        for token in make_prompt(16):
            llama.eval([token])
        stats = llama.stats()
        timeline.write(llama, tmp_path / "trace.json")
        llama.eval([1])  # goes on, unrecorded

    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    reads = [e for e in events if e["name"] == "read"]
    assert len(reads) == stats.n_reads > 0
    assert sum(e["args"]["bytes"] for e in reads) == stats.read_bytes
    assert sum(e["dur"] for e in events if e.get("tid") == 1 and e["ph"] == "X") >= 0.9 * stats.stall_us > 0
    lanes = defaultdict(list)
    for event in events:
        if event["ph"] == "X":
            lanes[event["tid"]].append((event["ts"], event["ts"] + event["dur"]))
    assert {0, 1} < lanes.keys()
    for spans in lanes.values():
        spans.sort()
        assert all(end <= start for (_, end), (start, _) in itertools.pairwise(spans))
    begun, ended = ([e["id"] for e in events if e["ph"] == phase] for phase in "be")
    assert begun == ended


def test_a_graph_runs_whole_once_all_experts_are_there(tiny_model: ModelFactory) -> None:
    path = tiny_model("qwen3moe")
    tokens = make_prompt(16)
    with closing(hobbit_py.Llama(path, expert_memory=arena_bytes(path, ArenaSize.ALL))) as llama:
        assert llama._engine is not None

        def n_runs_a_token() -> float:
            timeline.start(llama)
            for token in tokens:
                llama.eval([token])
            return sum(kind == 0 for kind, *_ in llama._engine.take_timeline().tolist()) / len(tokens)

        llama.eval(tokens * 8)  # reads what it needs, and the rest is read in the background
        n_bytes = expert_counts(path)[0] * sum(expert_bytes_by_layer(path).values())
        while llama.stats().resident_bytes_hi < n_bytes:
            time.sleep(0.01)
        assert n_runs_a_token() == 1
        llama.record_predictions()
        assert n_runs_a_token() == len(expert_bytes_by_layer(path)) + 1


def test_records_no_more_than_was_asked_for(tiny_model: ModelFactory, tmp_path: Path) -> None:
    path = tiny_model("qwen3moe")
    with closing(hobbit_py.Llama(path, expert_memory=arena_bytes(path, ArenaSize.QUARTER))) as llama:
        timeline.start(llama, max_spans=5)
        llama.eval(make_prompt(16))
        assert timeline.write(llama, tmp_path / "trace.json") == 5


def test_a_dense_model_has_nothing_to_record(tiny_model: ModelFactory) -> None:
    with closing(hobbit_py.Llama(tiny_model("llama-dense"))) as llama, pytest.raises(HobbitError, match="no experts"):
        timeline.start(llama)


def test_generate_writes_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "trace.json"
    assert cli.main(["generate", "--prompt", "Once", "-n", "4", "--trace-out", str(out)]) == 0
    names = {
        e["args"]["name"] for e in json.loads(out.read_text())["traceEvents"] if e["ph"] == "M" and "name" in e["args"]
    }
    assert {"compute", "stall", "reader 0"} <= names
    assert cli.main(["generate", "--prompt", "Once", "-n", "4", "--trace-out", str(tmp_path / "no" / "t.json")]) == 2
    assert "cannot be written" in capsys.readouterr().err
