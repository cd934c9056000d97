"""`hobbit perplexity` and `hobbit tune` as processes, on the bundled model and a lo copy of it."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hobbit_py.bundled import bundled_model, sample_text
from hobbit_py.mixed import format_loss
from hobbit_py.simulate import load_trace

QUARTER = "7MiB"  # of the bundled model's experts


def hobbit(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "hobbit_py", *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def report(*arguments: str | Path) -> dict[str, Any]:
    result = hobbit(*arguments, "--threads", "1", "--json")
    assert result.returncode == 0, result.stderr
    parsed: dict[str, Any] = json.loads(result.stdout)
    return parsed


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled model with a lo copy beside it."""
    path = Path(shutil.copy(bundled_model(), tmp_path_factory.mktemp("model") / "model.gguf"))
    packed = hobbit("pack", path, "--lo", "Q3_K")
    assert packed.returncode == 0, packed.stderr
    return path


def test_mixed_against_exact(model: Path) -> None:
    arguments = ("perplexity", model, "--text", sample_text(), "--tokens", "256", "--ctx", "128")
    arguments += ("--expert-memory", QUARTER)
    mixed = report(*arguments, "--against", "exact", "--t1", "0", "--t2", "0.9")
    exact = report(*arguments, "--precision", "exact")
    assert set(mixed) >= {
        "perplexity",
        "kl_mean",
        "kl_p99",
        "top1_agreement",
        "share_hi",
        "share_lo",
        "share_skip",
        "read_bytes_per_token",
        "tokens",
    }
    assert set(mixed) == set(exact)
    assert mixed["perplexity"] / exact["perplexity"] - 1 == pytest.approx(mixed["loss"])
    assert mixed["tokens"] == 256
    assert mixed["tokens_scored"] == 126
    assert 0 < mixed["kl_mean"] < mixed["kl_p99"] < 1
    assert 0.5 < mixed["top1_agreement"] <= 1
    assert min(mixed["share_hi"], mixed["share_lo"], mixed["share_skip"]) > 0
    assert mixed["share_hi"] + mixed["share_lo"] + mixed["share_skip"] == pytest.approx(1)
    assert 0 < mixed["read_bytes_per_token"] < exact["read_bytes_per_token"]
    assert (exact["share_hi"], exact["kl_mean"], exact["precision"]) == (1, None, "exact")


def test_thresholds_fall_from_layer_to_layer(model: Path) -> None:
    arguments = ("perplexity", model, "--text", sample_text(), "--tokens", "64", "--chunked")
    arguments += ("--expert-memory", QUARTER)
    flat = report(*arguments, "--hi-above", "0.9")
    falling = report(*arguments, "--hi-above", "0.9", "--fall", "0.9")  # everything in hi from the second layer on
    assert flat["share_hi"] < falling["share_hi"] < 1


def test_rerouting_by_hand(model: Path) -> None:
    arguments = ("perplexity", model, "--text", sample_text(), "--tokens", "64", "--ctx", "64")
    arguments += ("--expert-memory", QUARTER, "--hi-above", "0.3", "--lo-share", "0.5")
    plain = report(*arguments)
    for rule in (("--reroute", "0.7"), ("--reroute-below", "0.5")):
        assert report(*arguments, *rule)["read_bytes_per_token"] < plain["read_bytes_per_token"], rule


def test_report_in_words(model: Path) -> None:
    result = hobbit("perplexity", model, "--text", sample_text(), "--tokens", "64", "--chunked", "--threads", "1")
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("perplexity ")
    assert "mixed: " in result.stdout
    assert result.stderr.startswith("hobbit: Mixed precision with lo copies from model.lo-Q3_K.gguf")


SETTINGS = ("hi_above", "wait_above", "skip_below", "tilt", "lo_share", "reroute_below", "reroute_fall")


@pytest.mark.parametrize("options", [(), ("--try-rerouting",)], ids=str)
def test_tune_stores_what_the_next_run_uses(model: Path, options: tuple[str, ...]) -> None:
    size = ("--expert-memory", QUARTER, "--tokens", "128", "--ctx", "128", "--max-loss", "5%")
    tuned = report("tune", model, *size, *options)
    stored = model.with_name("model.hobbit.json")
    try:
        assert Path(tuned["stored"]) == stored
        assert json.loads(stored.read_text())["hi_above"] == tuned["hi_above"]
        chosen = [m for m in tuned["measured"] if all(m[name] == tuned[name] for name in SETTINGS)]
        assert len(chosen) == 1
        assert any(m["reroute_below"] > 0 for m in tuned["measured"]) == bool(options)
        assert chosen[0]["loss"] == tuned["loss"] <= 0.05
        assert tuned["time_ratio"] == min(m["time_ratio"] for m in tuned["measured"] if m["loss"] <= 0.05) < 1
        result = hobbit("generate", model, "--prompt", "It was", "-n", "2", "--expert-memory", QUARTER)
        assert "measured by hobbit tune" in result.stderr
        assert ("rerouted" in result.stderr) == (tuned["reroute_below"] > 0)
    finally:
        stored.unlink()


@pytest.fixture(scope="module")
def hi(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Finer copies than the lo one, in a folder of their own."""
    path = tmp_path_factory.mktemp("hi") / "model.lo-Q5_K.gguf"
    packed = hobbit("pack", model, "--lo", "Q5_K", "--out", path)
    assert packed.returncode == 0, packed.stderr
    return path


def test_settings_by_hand_and_what_is_said_of_them(model: Path, hi: Path) -> None:
    by_hand = ("--hi-above", "0.3", "--fall", "0.01", "--lo-share", "0.3", "--reroute", "0.5")
    generate = ("generate", model, "--prompt", "It was", "-n", "2", "--expert-memory", QUARTER)
    result = hobbit(*generate, "--hi", hi, *by_hand)
    assert result.returncode == 0, result.stderr
    assert result.stderr == (
        f"hobbit: Mixed precision with lo copies from model.lo-Q3_K.gguf and hi copies from {hi.name}, missing experts "
        "rerouted to resident ones; the loss of these settings is not known, 'hobbit perplexity --against exact' "
        "measures it.\n"
    )


@pytest.mark.alone
def test_bench_with_hi_copies_and_settings_by_hand(model: Path, hi: Path) -> None:
    """They are those of its mixed runs; exact ones are left alone."""
    bench = ("bench", model, "--expert-memory", "25%", "--no-reference", "--prompt-tokens", "16", "-n", "32")
    by_hand = ("--hi", hi, "--hi-above", "0.3", "--lo-share", "0.3", "--reroute", "0.7")
    own, given = report(*bench), report(*bench, *by_hand)
    assert [f["case"]["precision"] for f in given["figures"]] == ["exact", "mixed"]
    assert given["runs"][0]["measurement"]["tokens"] == own["runs"][0]["measurement"]["tokens"]
    assert given["figures"][1]["read_bytes_per_token"] < own["figures"][1]["read_bytes_per_token"]
    assert given["mixed"]["hi"] == str(hi)
    assert given["mixed"]["policy"]["hi_above"] == 0.3
    assert f"hi copies from {hi.name}, missing experts rerouted" in given["runs"][1]["measurement"]["note"]
    told = hobbit(*bench, *by_hand, "--precision", "mixed")
    assert f"mixed: {given['runs'][1]['measurement']['note']}\n" in told.stdout


def test_tune_is_about_the_hi_copies_given(model: Path, hi: Path) -> None:
    size = ("--expert-memory", QUARTER, "--hi", hi)
    tuned = report("tune", model, *size, "--tokens", "128", "--ctx", "128", "--max-loss", "5%")
    stored = Path(tuned["stored"])
    try:
        assert json.loads(stored.read_text())["hi"]["name"] == hi.name
        generate = ("generate", model, "--prompt", "It was", "-n", "2", "--expert-memory", QUARTER)
        with_hi, without = hobbit(*generate, "--hi", hi).stderr, hobbit(*generate).stderr
        assert f"and hi copies from {hi.name}; loss {format_loss(tuned['loss'])} perplexity" in with_hi
        assert "its loss was not measured yet" in without  # the hi copies are not beside the model
    finally:
        stored.unlink()


def test_a_plain_run_uses_the_pair_that_was_tuned(tmp_path: Path) -> None:
    """Three files of copies beside the model, of which a plain run takes the largest until a pair was tuned."""
    path = Path(shutil.copy(bundled_model(), tmp_path / "model.gguf"))
    largest, hi, lo = (tmp_path / f"model.lo-{lo_type}.gguf" for lo_type in ("Q6_K", "Q5_K", "Q3_K"))
    for copies in (largest, hi, lo):
        assert hobbit("pack", path, "--lo", copies.stem.removeprefix("model.lo-"), "--out", copies).returncode == 0
    size = ("--expert-memory", QUARTER, "--threads", "1")
    generate = ("generate", path, "--prompt", "It was", "-n", "2", *size)
    trace = ("trace", path, "--text", sample_text(), "--tokens", "32", *size, "-o")
    assert hobbit(*trace, tmp_path / "before.npz").returncode == 0
    assert f"lo copies from {largest.name}; its loss was not measured yet" in hobbit(*generate).stderr
    text = ("--tokens", "128", "--ctx", "128")
    tuned = report("tune", path, *size[:2], *text, "--max-loss", "5%", "--hi", hi, "--lo", lo, "--try-rerouting")
    assert tuned["hi_above"] > 0
    said = f"Mixed precision with lo copies from {lo.name} and hi copies from {hi.name}"
    plain, named = hobbit(*generate), hobbit(*generate, "--lo", lo, "--hi", hi)
    assert plain.stderr == named.stderr
    assert plain.stderr.startswith(f"hobbit: {said}")
    assert f"loss {format_loss(tuned['loss'])} perplexity, measured by hobbit tune." in plain.stderr
    assert f"lo copies from {lo.name}; its loss was not measured yet" in hobbit(*generate, "--lo", lo).stderr
    assert "Mixed" not in hobbit(*generate, "--precision", "exact").stderr
    assert hobbit(*trace, tmp_path / "after.npz").returncode == 0
    before, after = (load_trace(tmp_path / f"{name}.npz") for name in ("before", "after"))
    assert np.array_equal(before.hi_part_bytes, after.hi_part_bytes)  # of the model itself: exact mode is recorded
    hi.unlink()
    assert f"lo copies from {largest.name}; its loss was not measured yet" in hobbit(*generate).stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("perplexity",), "--text"),
        (("perplexity", "--text", "missing.txt"), "missing.txt"),
        (("perplexity", "--text", sample_text(), "--t1", "0.5", "--precision", "exact"), "--t1"),
        (("perplexity", bundled_model(), "--text", sample_text(), "--t1", "0.5"), "hobbit pack"),
        (("perplexity", "--text", sample_text(), "--precision", "mixed"), "hobbit pack"),
        (("tune", bundled_model()), "hobbit pack"),
        (("tune", "--max-loss", "much"), "much"),
    ],
    ids=str,
)
def test_mistakes_are_one_sentence(arguments: tuple[str | Path, ...], said: str) -> None:
    result = hobbit(*arguments)
    assert result.returncode == 2, result.stderr
    assert not result.stdout
    assert result.stderr.startswith("hobbit: ")
    assert result.stderr.count("\n") == 1
    assert said in result.stderr


def test_tuning_with_memory_for_everything_is_refused(model: Path) -> None:
    result = hobbit("tune", model, "--expert-memory", "1GiB", "--tokens", "64")
    assert result.returncode == 2, result.stderr
    assert "nothing to save" in result.stderr
    assert not model.with_name("model.hobbit.json").exists()


def test_trace_simulate_and_tune_eviction(tmp_path: Path) -> None:
    path = Path(shutil.copy(bundled_model(), tmp_path / "model.gguf"))
    trace, plot = tmp_path / "t.npz", tmp_path / "t.png"
    done = hobbit("trace", path, "--text", sample_text(), "--tokens", "96", "--threads", "1", "-o", trace)
    assert done.returncode == 0, done.stderr
    assert "96 tokens, 8 layers, 2 experts each" in done.stdout
    done = hobbit("simulate", trace, "--capacity", "25%,50%", "--json", "--plot", plot)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert {"preset", "capacity", "hit_rate", "miss_bytes", "recall", "belady_miss_bytes"} <= set(rows[0])
    assert plot.read_bytes().startswith(b"\x89PNG")
    by_name = {(row["preset"], row["capacity"]): row for row in rows}
    assert by_name["baseline", 0.5]["hit_rate"] > by_name["baseline", 0.25]["hit_rate"]
    assert 0.5 < by_name["mixtral-offloading", 0.25]["recall"][0] <= 1
    (known,) = json.loads(
        hobbit("simulate", trace, "--capacity", "25%", "--preset", "auto", "--predictor", "oracle", "--json").stdout
    )
    assert (known["preset"], known["recall"]) == ("default", [1.0, 1.0, 1.0])
    assert known["stall_s"] < by_name["default", 0.25]["stall_s"]

    arguments = ("--expert-memory", QUARTER, "--tokens", "96", "--ctx", "96")
    tuned = report("tune", path, "--eviction-only", *arguments)
    assert tuned["eviction"]["exact"]["miss_ratio"] <= 1
    stored = json.loads(Path(tuned["stored"]).read_text())
    assert stored["eviction"] == tuned["eviction"]
    done = hobbit("perplexity", path, "--text", sample_text(), "--tokens", "8", "--expert-memory", QUARTER)
    assert f"Eviction: {tuned['eviction']['exact']['name']}, chosen by hobbit tune." in done.stderr


def test_a_trace_is_of_what_the_router_chose(tmp_path: Path) -> None:
    traces = []
    for preset in ("baseline", "cache-prior"):
        path = tmp_path / f"{preset}.npz"
        arguments = ("--text", sample_text(), "--tokens", "32", "--threads", "1", "--expert-memory", QUARTER)
        done = hobbit("trace", "--preset", preset, *arguments, "-o", path)
        assert done.returncode == 0, done.stderr
        traces.append(load_trace(path))
    assert np.array_equal(traces[0].expert_idxs, traces[1].expert_idxs)


def test_what_a_router_filter_costs_is_measured_against_the_unfiltered_model() -> None:
    arguments = ("--text", sample_text(), "--tokens", "64", "--ctx", "64", "--expert-memory", QUARTER)
    assert report("perplexity", "--preset", "cache-prior", "--against", "exact", *arguments)["kl_mean"] > 1e-4
    assert report("perplexity", "--preset", "baseline", "--against", "exact", *arguments)["kl_mean"] == 0


def test_the_predictor_that_a_preset_needs_is_trained(tmp_path: Path) -> None:
    path = Path(shutil.copy(bundled_model(), tmp_path / "model.gguf"))
    arguments = ("perplexity", path, "--text", sample_text(), "--tokens", "32", "--preset", "expertflow")
    assert "'hobbit tune --predictor-only' does that" in hobbit(*arguments).stderr
    trained = report("tune", path, "--predictor-only", "--tokens", "768", "--expert-memory", QUARTER)
    assert Path(trained["path"]).is_file()
    assert trained["n_tokens"] == 768
    assert Path(trained["gates_path"]).is_file()
    recalls = (trained[f"recall_{name}"] for name in ("gates", "hybrid", "trained"))
    assert all(0.5 < recall <= 1 for of_distances in recalls for recall in of_distances)
    assert hobbit(*arguments).returncode == 0


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("simulate", "missing.npz"), "No such file"),
        (("simulate", sample_text()), "no trace"),
        (("simulate", "t.npz", "--capacity", "all"), "'all' is not a share"),
        (("simulate", "t.npz", "--preset", "hobit"), "did you mean 'hobbit'"),
        (("simulate", "t.npz", "--eviction", "lruu"), "did you mean 'lru'"),
        (("simulate", "t.npz", "--predictor", "hybrid"), "'hybrid' cannot be simulated"),
        (("tune", "--eviction-only", "--predictor-only"), "exclude each other"),
        (("tune", "--predictor-only", "--tokens", "64"), "takes at least 512"),
        (("trace", bundled_model(), "--text", sample_text(), "-o", "missing/t.npz"), "There is no folder"),
    ],
)
def test_mistakes_with_policies_are_one_sentence(arguments: tuple[str | Path, ...], named: str) -> None:
    result = hobbit(*arguments)
    assert result.returncode == 2
    assert named in result.stderr
    assert result.stderr.count("\n") == 1
