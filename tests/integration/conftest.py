"""Fixtures that several of these tests share."""

import pytest

from hobbit_py._host import _core


@pytest.fixture(params=["spare slots", "ring", "many chunks"])
def one_use(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where matrices of one use go, and in how many pieces."""
    make = _core.TierOptions

    def tier_options() -> _core.TierOptions:
        options = make()
        if request.param != "spare slots":
            options.small_part_bytes = 0
        if request.param == "many chunks":
            options.chunk_bytes = 512
        return options

    monkeypatch.setattr(_core, "TierOptions", tier_options)
