"""`hobbit tune`: the thresholds of a target mix, and the file that keeps the result."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from sample_tuning import TUNING

from hobbit_py.mixed import (
    DEFAULT_TILT,
    default_lo_share,
    default_policy,
    device_policy,
    format_loss,
    full_lo_share,
    lo_alone_settings,
    mixed_settings,
    tuned_filter,
    wants_lo_alone,
)
from hobbit_py.policies import HI, CachePrior, Reroute, RouterFilter, Substitute, WeightThresholds
from hobbit_py.tune import Tuning, load_tuning, save_tuning, tuning_path
from hobbit_py.tune.routing import (
    HI_A_TOKEN,
    MORE_HI_A_TOKEN,
    RoutingRecorder,
    hi_thresholds,
    mix_thresholds,
    skip_thresholds,
)

LO_ALONE = replace(TUNING, hi_above=1.0, lo_share=1.0)


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    model, lo = tmp_path / "model.gguf", tmp_path / "model.lo-Q2_K.gguf"
    model.write_bytes(b"m" * 1000)
    lo.write_bytes(b"l" * 300)
    return model, lo


def recorded_weights() -> npt.NDArray[np.float32]:
    rng = np.random.default_rng(0)
    rows = -np.sort(-rng.dirichlet(np.ones(8), 5000).astype(np.float32), axis=1)
    recorder = RoutingRecorder()
    for row in rows:
        assert list(recorder.choose(0, row, np.zeros(8, np.int8))) == [HI] * 8
    weights = recorder.weights()
    assert np.array_equal(weights, rows)
    return weights


def test_mix_thresholds_give_the_mix() -> None:
    weights = recorded_weights()
    scores = np.cumsum(weights, axis=1) - weights
    mix = mix_thresholds(weights)
    assert (scores <= mix.t1).mean() == pytest.approx(0.67, abs=0.001)
    assert (scores > mix.t2).mean() == pytest.approx(0.03, abs=0.001)


def test_ladders_are_quantiles_of_the_weights() -> None:
    weights = recorded_weights()
    ladder = hi_thresholds(weights)
    assert [float((weights >= t).mean()) * 8 for t in ladder] == pytest.approx(HI_A_TOKEN, abs=0.01)
    assert [(weights < t).mean() for t in skip_thresholds(weights)] == pytest.approx([0.01, 0.03], abs=0.001)
    more = hi_thresholds(weights, has_own_hi=True)
    assert [float((weights >= t).mean()) * 8 for t in more] == pytest.approx((*HI_A_TOKEN, *MORE_HI_A_TOKEN), abs=0.01)
    # With two experts used, two in hi a token would be exact mode.
    assert len(hi_thresholds(np.sort(weights[:, :2])[:, ::-1])) == len(HI_A_TOKEN) - 1


def test_stored_beside_the_model(pair: tuple[Path, Path]) -> None:
    model, lo = pair
    assert load_tuning([model], lo) is None
    path = save_tuning([model], lo, TUNING)
    assert path == model.with_name("model.hobbit.json")
    assert load_tuning([model], lo) == TUNING
    save_tuning([model], lo, replace(TUNING, hi_above=0.5))
    loaded = load_tuning([model], lo)
    assert loaded is not None
    assert loaded.hi_above == 0.5
    assert sorted(p.name for p in model.parent.iterdir()) == ["model.gguf", "model.hobbit.json", "model.lo-Q2_K.gguf"]


def test_is_about_the_hi_copies_too(pair: tuple[Path, Path]) -> None:
    model, lo = pair
    hi = model.with_name("model.lo-Q4_K.gguf")
    hi.write_bytes(bytes(64))
    tuning = replace(TUNING, reroute_below=0.3)
    save_tuning([model], lo, tuning, hi_path=hi)
    assert load_tuning([model], lo) is None
    assert load_tuning([model], lo, hi) == tuning
    assert tuned_filter([str(model)], lo) is None
    assert tuned_filter([str(model)], lo, hi) == Reroute(0.3, 1)
    save_tuning([model], None, None)  # as after --eviction-only
    assert load_tuning([model], lo, hi) == tuning
    save_tuning([model], lo, tuning)
    assert load_tuning([model], lo, hi) is None
    assert load_tuning([model], lo) == tuning


def test_a_failed_write_leaves_the_old_file(pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    model, lo = pair
    path = save_tuning([model], lo, TUNING)
    before = path.read_bytes()

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        save_tuning([model], lo, replace(TUNING, hi_above=0.5))
    assert path.read_bytes() == before
    assert len(list(model.parent.iterdir())) == 3


@pytest.mark.parametrize("changed", ["model", "lo", "lo renamed"])
def test_counts_for_these_very_files_alone(pair: tuple[Path, Path], changed: str) -> None:
    model, lo = pair
    save_tuning([model], lo, TUNING)
    if changed == "model":
        model.write_bytes(b"m" * 1001)
    elif changed == "lo":
        lo.write_bytes(b"l" * 301)
    else:
        lo = lo.rename(lo.with_name("model.lo-Q3_K.gguf"))
    assert load_tuning([model], lo) is None


@pytest.mark.parametrize(
    "change",
    [
        {"schema": 2},
        {"schema": 5},
        {"reroute_below": 1.5},
        {"reroute_below": None},
        {"reroute_fall": -0.1},
        {"reroute_fall": None},
        {"hi_above": None},
        {"hi_above": "0.5"},
        {"hi_above": True},
        {"hi_above": 1.5},
        {"lo_share": -0.1},
        {"loss": float("nan")},
        {"tokens": 10**400},
        {"model": []},
    ],
    ids=lambda change: str(change)[:40],
)
def test_what_cannot_be_used_counts_as_absent(pair: tuple[Path, Path], change: dict[str, object]) -> None:
    model, lo = pair
    path = save_tuning([model], lo, TUNING)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    assert load_tuning([model], lo) is None


def test_a_file_of_an_earlier_version_is_made_anew(pair: tuple[Path, Path]) -> None:
    """What `hobbit tune` wrote when it went by margins of near ties: schema 5."""
    model, lo = pair
    path = save_tuning([model], lo, TUNING)
    stored = json.loads(path.read_text()) | {"schema": 5, "reroute_margin": 0.5}
    del stored["reroute_below"], stored["reroute_fall"]
    path.write_text(json.dumps(stored))
    assert load_tuning([model], lo) is None
    assert tuned_filter([str(model)], lo) is None
    save_tuning([model], lo, TUNING)
    assert load_tuning([model], lo) == TUNING


def test_rerouting_is_stored(pair: tuple[Path, Path]) -> None:
    model, lo = pair
    save_tuning([model], lo, TUNING)
    assert tuned_filter([str(model)], lo) is None
    save_tuning([model], lo, replace(TUNING, reroute_below=0.3, reroute_fall=0.02))
    assert tuned_filter([str(model)], lo) == Reroute(0.3, 1, 0.02)


@pytest.mark.parametrize(
    ("below", "router_filter", "said"),
    [
        (0.0, None, "with lo copies from model.lo-Q2_K.gguf; loss 0.4% perplexity, measured by hobbit tune."),
        (
            0.3,
            Reroute(0.3),
            "missing experts rerouted to resident ones; loss 0.4% perplexity, measured by hobbit tune.",
        ),
        (0.3, None, "Q2_K.gguf; loss 0.4% perplexity, measured by hobbit tune with another router filter."),
        (0.0, Reroute(0.0), "Q2_K.gguf; loss 0.4% perplexity, measured by hobbit tune."),
        (
            0.3,
            Reroute(0.1),
            "to resident ones; loss 0.4% perplexity, measured by hobbit tune with another router filter.",
        ),
        (0.3, Reroute(0.3, fall=0.01), "measured by hobbit tune with another router filter."),
        (0.3, Substitute(0.0), "Q2_K.gguf; loss 0.4% perplexity, measured by hobbit tune with another router filter."),
        (
            0.0,
            CachePrior(0.1),
            "to resident ones; loss 0.4% perplexity, measured by hobbit tune with no router filter.",
        ),
    ],
    ids=str,
)
def test_the_note_says_what_the_loss_was_measured_with(
    pair: tuple[Path, Path], below: float, router_filter: RouterFilter | None, said: str
) -> None:
    model, lo = pair
    save_tuning([model], lo, replace(TUNING, reroute_below=below))
    settings = mixed_settings(
        [str(model)],
        lo,
        8,
        12,
        policy=None,
        lo_share=None,
        memory_share=0.25,
        lo_ratio=0.4,
        router_filter=router_filter,
    )
    assert settings.note.endswith(said)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "; its loss was not measured yet, 'hobbit tune' does."),
        (
            {"router_filter": Substitute(0.5)},
            ", missing experts rerouted to resident ones; the loss of these settings ",
        ),
        (
            {"router_filter": Substitute(0.5), "policy": WeightThresholds(0.3), "lo_share": 0.15},
            ", missing experts rerouted to resident ones; the loss of these settings ",
        ),
        ({"lo_share": 0.15}, "; the loss of these settings is not known"),
        ({"router_filter": Reroute(0.15)}, ", missing experts rerouted to resident ones; the loss of these settings "),
        *(
            ({"router_filter": unchanging}, "; its loss was not measured yet, 'hobbit tune' does.")
            for unchanging in (CachePrior(0.0), Reroute(0.0), Substitute(0.0))
        ),
    ],
    ids=str,
)
def test_the_note_says_what_runs_where_nothing_was_tuned(
    pair: tuple[Path, Path], given: dict[str, Any], said: str
) -> None:
    model, lo = pair
    hi = model.with_name("model.lo-Q4_K.gguf")
    keywords = {"policy": None, "lo_share": None} | given
    settings = mixed_settings([str(model)], lo, 8, 12, memory_share=0.25, lo_ratio=0.4, hi=hi, **keywords)
    what = f"Mixed precision with lo copies from {lo.name} and hi copies from {hi.name}"
    assert settings.note.startswith(what + said)


def test_with_more_memory_lo_copies_get_no_more_than_is_of_use(pair: tuple[Path, Path]) -> None:
    model, lo = pair
    save_tuning([model], lo, replace(TUNING, lo_share=0.9))
    shares = [
        mixed_settings(
            [str(model)], lo, 8, 12, policy=None, lo_share=None, memory_share=memory_share, lo_ratio=0.4
        ).lo_share
        for memory_share in (0.25, 0.5, 1.0)
    ]
    assert shares == [0.9, full_lo_share(0.5, 0.4), 0.0]


@pytest.mark.parametrize(
    ("min_lo_bits", "given", "is_wanted"),
    [
        (4.5, {}, True),
        (4.25, {}, False),
        (4.25, {"lo_share": 1.0}, True),
        (4.5, {"lo_share": 0.9}, False),
        (4.5, {"policy": WeightThresholds(0.5)}, False),
        (4.5, {"policy": WeightThresholds(0.5), "lo_share": 1.0}, False),
    ],
    ids=str,
)
@pytest.mark.parametrize("is_tuned", [False, True])
def test_when_lo_copies_serve_alone(
    pair: tuple[Path, Path], min_lo_bits: float, given: dict[str, Any], is_wanted: bool, is_tuned: bool
) -> None:
    model, lo = pair
    if is_tuned:
        save_tuning([model], lo, TUNING)
    keywords = {"policy": None, "lo_share": None} | given
    is_overruled = is_tuned and not given
    assert wants_lo_alone([str(model)], lo, min_lo_bits, **keywords) == (is_wanted and not is_overruled)


@pytest.mark.parametrize(
    ("tuning", "router_filter", "said"),
    [
        (None, None, "the loss of that is not known, 'hobbit perplexity --against exact' measures it."),
        (TUNING, None, "the loss of that is not known, 'hobbit perplexity --against exact' measures it."),
        (LO_ALONE, None, "; loss 0.4% perplexity, measured by hobbit tune."),
        (LO_ALONE, CachePrior(0.1), "measured by hobbit tune with no router filter."),
        (replace(LO_ALONE, reroute_below=0.3), Reroute(0.3), "rerouted to resident ones; loss 0.4% perplexity, "),
    ],
    ids=["not tuned", "tuned with hi copies", "tuned alone", "another filter", "rerouted"],
)
@pytest.mark.parametrize("is_held", [False, True])
def test_lo_copies_alone_name_the_loss_where_tune_measured_just_that(
    pair: tuple[Path, Path], tuning: Tuning | None, router_filter: RouterFilter | None, said: str, is_held: bool
) -> None:
    model, lo = pair
    if tuning is not None:
        save_tuning([model], lo, tuning)
    note = lo_alone_settings([str(model)], lo, is_held=is_held, router_filter=router_filter).note
    assert note.startswith("Every expert is used in its lo copy, ")
    assert said in note
    assert ("all on the GPU" in note) == is_held


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000], ids=lambda c: repr(c[:4]))
def test_a_damaged_file_counts_as_absent(pair: tuple[Path, Path], content: bytes) -> None:
    model, lo = pair
    tuning_path(model).write_bytes(content)
    assert load_tuning([model], lo) is None


def test_one_file_for_all_parts_of_a_split_model() -> None:
    assert tuning_path("a/m-00001-of-00003.gguf") == Path("a/m.hobbit.json")


@pytest.mark.parametrize(("loss", "text"), [(0.004, "0.4%"), (0.0, "0.0%"), (-0.0001, "0.0%"), (-0.004, "-0.4%")])
def test_loss_in_words(loss: float, text: str) -> None:
    assert format_loss(loss) == text


def test_defaults_depend_on_the_experts_used() -> None:
    assert default_policy(2, 0.5, 8) == WeightThresholds.tilted(0.5, DEFAULT_TILT, 8)
    for memory_share, hi_above in ((0.1, 0.21), (0.25, 0.21), (0.375, 0.225), (0.5, 0.24), (0.9, 0.24)):
        policy = default_policy(8, memory_share, 13)
        assert policy.hi_above - 6 * policy.fall == pytest.approx(hi_above)
        assert policy.hi_above / (policy.hi_above - 12 * policy.fall) == pytest.approx(1.25 / 0.75)
        assert policy == WeightThresholds(policy.hi_above, fall=policy.fall)
    assert device_policy(2, 0.43) == WeightThresholds(0.8)
    assert device_policy(2, 0.53) == WeightThresholds(1.0)
    assert device_policy(8, 0.53) == WeightThresholds(0.4)


def test_by_default_lo_copies_get_no_more_than_makes_every_expert_resident() -> None:
    lo_ratio = 0.4
    for memory_share in (0.65, 0.9):
        lo_share = default_lo_share(8, memory_share, lo_ratio)
        n_in_hi, n_in_lo = memory_share * (1 - lo_share), memory_share * lo_share / lo_ratio
        assert n_in_hi + n_in_lo == pytest.approx(1)
    assert default_lo_share(8, 0.25, lo_ratio) == default_lo_share(8, 0.5, lo_ratio) == 0.45  # no room for all
    assert default_lo_share(2, 0.25, lo_ratio) == 0.25
    assert default_lo_share(8, 1.0, lo_ratio) == 0.0
    assert default_lo_share(8, 0.5, 1.2) == 0.45  # copies that are no smaller
