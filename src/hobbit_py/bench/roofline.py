"""Where a token's time lies between its two lower bounds."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Roofline:
    """Seconds per token: computing with every expert resident, reading what was missed at the drive's bandwidth.

    A token takes at least the larger of the two, which perfect overlap would reach, and about their sum without any.
    After the roofline model of Williams, Waterman and Patterson (CACM 52(4), 2009), with the drive as the memory.
    """

    compute_s: float
    io_s: float
    token_s: float

    @property
    def max_s(self) -> float:
        """The lower bound."""
        return max(self.compute_s, self.io_s)

    @property
    def sum_s(self) -> float:
        """What a run without overlap takes."""
        return self.compute_s + self.io_s

    @property
    def over_max(self) -> float:
        """Token time over the lower bound; below 1 the drive or the cores were faster than when they were measured."""
        return self.token_s / self.max_s

    @property
    def position(self) -> float | None:
        """Where the token time lies from the bound (0) to the sum (1); None where the two are within 5%.

        Below 0 and above 1 are possible: the bounds were measured at another moment.
        """
        span_s = self.sum_s - self.max_s
        return (self.token_s - self.max_s) / span_s if span_s > 0.05 * self.max_s else None
