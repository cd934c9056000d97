"""What `--lo` may say, and which type fits which row."""

import pytest
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

from hobbit_py.errors import UsageError
from hobbit_py.pack.types import BLOCK_WEIGHTS, LO_TYPES, LoTypes, fitting_type


@pytest.mark.parametrize(
    ("text", "gate", "down", "canonical", "label"),
    [
        ("Q2_K", "Q2_K", "Q2_K", "Q2_K", "Q2_K"),
        ("q2_k", "Q2_K", "Q2_K", "Q2_K", "Q2_K"),
        (" iq3_xxs , down = q4_0 ", "IQ3_XXS", "Q4_0", "IQ3_XXS,down=Q4_0", "IQ3_XXS-down-Q4_0"),
        ("Q2_K,down=Q2_K", "Q2_K", "Q2_K", "Q2_K", "Q2_K"),
        ("Q2_K,down=Q4_0,gate=Q3_K", "Q3_K", "Q4_0", "Q2_K,gate=Q3_K,down=Q4_0", "Q2_K-gate-Q3_K-down-Q4_0"),
    ],
)
def test_parse(text: str, gate: str, down: str, canonical: str, label: str) -> None:
    lo = LoTypes.parse(text)
    assert (lo.of("gate"), lo.of("down"), str(lo), lo.file_label) == (gate, down, canonical, label)
    assert LoTypes.parse(str(lo)) == lo


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "'' is not a type"),
        ("Q2", "did you mean Q2_K?"),
        ("Q4_K_M", "did you mean Q4_K?"),
        ("F16", "'F16' is not a type"),
        ("zebra", "the types are Q2_K, "),
        ("down=Q4_0", "name the type of all matrices first"),
        ("Q2_K,Q4_0", "expected KIND=TYPE"),
        ("Q2_K,middle=Q4_0", "'middle=Q4_0'"),
        ("Q2_K,down=", "'' is not a type"),
        ("Q2_K,down=Q4_0,down=Q5_0", "twice"),
    ],
)
def test_what_cannot_be_parsed_is_one_sentence(text: str, named: str) -> None:
    with pytest.raises(UsageError, match=named) as raised:
        LoTypes.parse(text)
    assert "\n" not in str(raised.value)


def test_block_sizes_are_those_of_ggml() -> None:
    for name, n_weights in BLOCK_WEIGHTS.items():
        assert n_weights == GGML_QUANT_SIZES[GGMLQuantizationType[name]][0]


def test_a_row_that_fits_keeps_the_type() -> None:
    for name in LO_TYPES:
        assert fitting_type(name, 512) == name


@pytest.mark.parametrize(
    ("wanted", "n_in", "taken"),
    [
        ("Q2_K", 384, "Q4_0"),
        ("Q3_K", 384, "Q4_0"),
        ("Q4_K", 384, "Q5_0"),
        ("Q5_K", 384, "Q5_1"),
        ("Q6_K", 384, "Q8_0"),
        ("IQ2_XXS", 384, "IQ4_NL"),
        ("IQ4_XS", 384, "IQ4_NL"),
        ("MXFP4", 384, "MXFP4"),
        ("Q2_K", 40, "F16"),
        ("Q4_0", 40, "F16"),
    ],
)
def test_a_row_that_does_not_fit_takes_the_nearest_type(wanted: str, n_in: int, taken: str) -> None:
    assert fitting_type(wanted, n_in) == taken
