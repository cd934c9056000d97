"""Byte sizes as people write them."""

from typing import Any

import pytest

from hobbit_py.errors import UsageError
from hobbit_py.sizes import format_bytes, parse_bytes


@pytest.mark.parametrize(
    ("size", "n_bytes"),
    [
        (0, 0),
        (4096, 4096),
        ("4096", 4096),
        ("12B", 12),
        ("8GiB", 8 << 30),
        ("512MiB", 512 << 20),
        ("3KiB", 3 << 10),
        ("2TiB", 2 << 40),
        ("8G", 8 << 30),
        ("8g", 8 << 30),
        ("512M", 512 << 20),
        ("64K", 64 << 10),
        ("1.5GB", 1_500_000_000),
        ("10MB", 10_000_000),
        ("10kB", 10_000),
        (" 1.5 GiB ", 3 << 29),
        (".5G", 1 << 29),
        ("0.1KiB", 102),
        # A float would lose the last digit.
        ("9007199254740993", 9007199254740993),
        (str(2**63 - 1), 2**63 - 1),
    ],
)
def test_parse(size: int | str, n_bytes: int) -> None:
    assert parse_bytes(size) == n_bytes


@pytest.mark.parametrize(
    "size",
    [
        "",
        "GiB",
        "eight",
        "8 GiB of",
        "1..5G",
        "-1G",
        "+1G",
        "1e9",
        "inf",
        "nan",
        "0x10",
        "٣G",
        "1" * 100,
        "8_0",
        "8GiBs",
    ],
)
def test_refuse_text(size: str) -> None:
    _assert_refused(size)


@pytest.mark.parametrize("size", ["8X", "8388608T", 2**63, -1, True, None, 1.5])
def test_refuse_value(size: Any) -> None:
    _assert_refused(size)


def _assert_refused(size: Any) -> None:
    with pytest.raises(UsageError, match=r"write a size like 8GiB, 512MiB or 1\.5GB") as caught:
        parse_bytes(size)
    assert len(str(caught.value)) < 200
    assert "\n" not in str(caught.value)


def test_refusal_names_what_was_found() -> None:
    with pytest.raises(UsageError, match="'8XB' has the unknown unit 'XB'"):
        parse_bytes("8XB")


@pytest.mark.parametrize(
    ("n_bytes", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.00 KiB"),
        (1536, "1.50 KiB"),
        (10 << 20, "10.0 MiB"),
        (100 << 20, "100 MiB"),
        ((1 << 30) - 1, "1.00 GiB"),
        (1 << 30, "1.00 GiB"),
        (8 << 30, "8.00 GiB"),
        (5 << 50, "5120 TiB"),
        (-2048, "-2.00 KiB"),
    ],
)
def test_format(n_bytes: int, text: str) -> None:
    assert format_bytes(n_bytes) == text


@pytest.mark.parametrize("n_bytes", [1, 1000, 1 << 20, 123456789, 987654321000])
def test_formatted_sizes_can_be_given_back(n_bytes: int) -> None:
    assert parse_bytes(format_bytes(n_bytes)) == pytest.approx(n_bytes, rel=0.005)
