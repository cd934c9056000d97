"""The options that set mixed mode by hand: what hobbit_py.Llama gets of them, and what is refused before it loads."""

from pathlib import Path
from typing import Any

import pytest
from support import ModelFactory

from hobbit_py import cli, policies
from hobbit_py.cli import common
from hobbit_py.errors import HobbitError
from hobbit_py.policies import HobbitThresholds, Reroute, Substitute, WeightThresholds

COMMANDS = {
    "chat": (),
    "generate": ("--prompt", "x"),
    "serve": ("--port", "0"),
    "perplexity": ("--text", __file__),
}


class LoadedError(HobbitError):
    """Ends a command where it would load its model."""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.gguf"
    path.touch()
    path.with_name("model.lo-Q2_K.gguf").touch()
    return path


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The keywords of each model that a command would load."""
    found: list[dict[str, Any]] = []

    def construct(_path: Path, _options: common.ModelOptions, _progress: object, keywords: dict[str, Any]) -> None:
        found.append({name: keywords[name] for name in ("policy", "lo_share", "router_filter") if name in keywords})
        raise LoadedError("It would load.")

    monkeypatch.setattr(common, "_construct", construct)
    return found


@pytest.mark.parametrize("command", COMMANDS)
def test_what_is_given_by_hand_is_what_the_model_runs_with(
    command: str, model: Path, loaded: list[dict[str, Any]]
) -> None:
    pair = ("--hi-above", "0.3", "--fall", "0.01", "--lo-share", "0.15", "--reroute", "0.5")
    assert cli.main([command, str(model), *COMMANDS[command], *pair]) == 1
    assert loaded == [
        {"policy": WeightThresholds(0.3, fall=0.01), "lo_share": 0.15, "router_filter": Substitute(0.5)},
    ]


@pytest.mark.parametrize("command", COMMANDS)
def test_thresholds_are_made_once(
    command: str, model: Path, loaded: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []

    def make(**thresholds: float) -> WeightThresholds:
        made.append(WeightThresholds(**thresholds))
        return made[-1]

    monkeypatch.setattr(policies, "WeightThresholds", make)
    assert cli.main([command, str(model), *COMMANDS[command], "--hi-above", "0.3"]) == 1
    assert [found["policy"] for found in loaded] == made == [WeightThresholds(0.3)]


@pytest.mark.parametrize(
    ("arguments", "keywords"),
    [
        ((), {}),
        (("--skip-below", "0.03"), {"policy": WeightThresholds(0.0, skip_below=0.03)}),
        (("--wait-above", "2"), {"policy": WeightThresholds(0.0, wait_above=2.0)}),
        (("--lo-share", "0"), {"lo_share": 0.0}),
        (("--reroute", "0"), {"router_filter": Substitute(0.0)}),
        (("--reroute-below", "0.15"), {"router_filter": Reroute(0.15)}),
        (("--reroute-below", "0"), {"router_filter": Reroute(0.0)}),
        (("--reroute-below", "0.26", "--reroute-fall", "0.019"), {"router_filter": Reroute(0.26, fall=0.019)}),
        (("--reroute", "0.5", "--precision", "mixed", "--preset", "baseline"), {"router_filter": Substitute(0.5)}),
    ],
    ids=str,
)
def test_what_is_not_given_is_left_open(
    arguments: tuple[str, ...], keywords: dict[str, Any], model: Path, loaded: list[dict[str, Any]]
) -> None:
    assert cli.main(["chat", str(model), *arguments]) == 1
    assert loaded == [keywords]


def test_exact_mode_that_is_compared_with_gets_none_of_it(model: Path, loaded: list[dict[str, Any]]) -> None:
    assert cli.main(["perplexity", str(model), *COMMANDS["perplexity"], "--against", "exact", "--reroute", "0.5"]) == 1
    assert loaded == [{}]


def test_hobbits_thresholds_are_those_of_perplexity(model: Path, loaded: list[dict[str, Any]]) -> None:
    arguments = ("--t1", "0.2", "--lo-share", "0.5")
    assert cli.main(["perplexity", str(model), *COMMANDS["perplexity"], *arguments]) == 1
    assert loaded == [{"policy": HobbitThresholds(0.2, 1.0), "lo_share": 0.5}]


@pytest.mark.parametrize("command", [*COMMANDS, "bench"])
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ("--hi-above", "0.3", "--reroute", "0.5", "--precision", "exact"),
            "With --precision exact there is no use for --hi-above and --reroute; leave out the one or the other.",
        ),
        (
            ("--hi-above", "0.3", "--lo-share", "0", "--reroute", "0.5", "--preset", "baseline"),
            "The preset 'baseline' runs in exact mode, where there is no use for --hi-above, --lo-share and --reroute; "
            "give --precision mixed as well, or leave that out.",
        ),
        (
            ("--lo", __file__, "--hi", __file__, "--precision", "exact"),
            "With --precision exact there is no use for --lo and --hi; leave out the one or the other.",
        ),
        (("--lo", __file__, "--reroute", "0.5", "--preset", "baseline"), "no use for --lo and --reroute; give"),
        (("--fall", "0.01"), "--fall says by how much --hi-above falls from layer to layer; give --hi-above as well."),
        (("--hi-above", "nan"), "nan is not a finite number"),
        (("--fall", "inf", "--hi-above", "0.3"), "inf is not a finite number"),
        (("--reroute", "1.5"), "1.5 is not in the range"),
        (("--reroute-below", "1.5"), "1.5 is not in the range"),
        (
            ("--reroute-fall", "0.01"),
            "--reroute-fall says by how much --reroute-below falls from layer to layer; give --reroute-below as well.",
        ),
        (
            ("--reroute", "0.5", "--reroute-fall", "0.01"),
            "--reroute-fall says by how much --reroute-below falls from layer to layer; give --reroute-below as well.",
        ),
        (("--reroute-below", "0.1", "--reroute-fall", "inf"), "inf is not a finite number"),
        (
            ("--reroute", "0", "--reroute-below", "0.15"),
            "--reroute and --reroute-below are two rules for which missing expert gives way; give one of them.",
        ),
    ],
    ids=str,
)
def test_what_makes_no_sense_is_refused(
    command: str,
    arguments: tuple[str, ...],
    said: str,
    model: Path,
    loaded: list[dict[str, Any]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    against = ("--against", "exact") if command == "perplexity" else ()  # which is a run before it
    assert cli.main([command, str(model), *COMMANDS.get(command, ()), *against, *arguments]) == 2
    assert said in capsys.readouterr().err
    assert not loaded


@pytest.mark.parametrize("command", [*COMMANDS, "bench"])
def test_without_a_lo_copy(
    command: str, model: Path, loaded: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    model.with_name("model.lo-Q2_K.gguf").unlink()
    assert cli.main([command, str(model), *COMMANDS.get(command, ()), "--reroute", "0.5"]) == 2
    assert capsys.readouterr().err == (
        f"hobbit: There is no use for --reroute without a lo copy and there is none beside {str(model)!r}; make one "
        "with 'hobbit pack', or name one with --lo.\n"
    )
    assert not loaded


@pytest.mark.parametrize("command", [*COMMANDS, "bench"])
@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--precision", "mixed"), "--precision mixed"),
        (("--lo", __file__), "--lo"),
        (("--hi", __file__, "--hi-above", "0.3", "--fall", "0.01"), "--hi, --hi-above and --fall"),
        (("--lo-share", "0.5", "--reroute-below", "0.1"), "--lo-share and --reroute-below"),
    ],
    ids=str,
)
def test_a_model_without_experts_has_no_use_for_any_of_it(
    command: str,
    arguments: tuple[str, ...],
    named: str,
    tiny_model: ModelFactory,
    loaded: list[dict[str, Any]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = str(tiny_model("llama-dense"))
    assert cli.main([command, model, *COMMANDS.get(command, ()), *arguments]) == 2
    assert (
        capsys.readouterr().err == f"hobbit: {model!r} has no experts, so there is no use for {named}; leave it out.\n"
    )
    assert not loaded


def test_nor_for_an_eviction_policy_or_thresholds_of_another_kind(
    tiny_model: ModelFactory, loaded: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    model = str(tiny_model("llama-dense"))
    given = ("--eviction", "lru", "--t1", "0.2", "--skip-renorm")
    assert cli.main(["perplexity", model, *COMMANDS["perplexity"], *given]) == 2
    assert "no use for --eviction, --t1 and --skip-renorm; leave" in capsys.readouterr().err
    assert cli.main(["chat", model, "--memory", "1GiB", "--no-prefetch"]) == 1
    assert len(loaded) == 1


@pytest.mark.parametrize("arguments", [(), ("--eviction-only",), ("--predictor-only",), ("--lo", __file__)], ids=str)
def test_nor_for_tuning(
    arguments: tuple[str, ...], tiny_model: ModelFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    model = str(tiny_model("llama-dense"))
    assert cli.main(["tune", model, *arguments]) == 2
    assert capsys.readouterr().err == f"hobbit: {model!r} has no experts, so there is nothing to tune.\n"


def test_what_tune_is_to_find_out_cannot_be_given_to_it(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`--reroute` takes a margin wherever there is one."""
    assert cli.main(["tune", str(model), "--reroute"]) == 2
    assert "No such option" in capsys.readouterr().err


def test_both_kinds_of_thresholds(
    model: Path, loaded: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = (*COMMANDS["perplexity"], "--t1", "0.2", "--hi-above", "0.3")
    assert cli.main(["perplexity", str(model), *arguments]) == 2
    assert "give one kind" in capsys.readouterr().err
    assert not loaded


def test_a_missing_model_is_for_its_loader_to_name(loaded: list[dict[str, Any]]) -> None:
    assert cli.main(["chat", "nowhere.gguf", "--reroute", "0.5"]) == 1
    assert len(loaded) == 1
