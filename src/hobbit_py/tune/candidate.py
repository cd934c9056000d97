"""What the search chooses among: settings of mixed mode, and what each costs and saves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..policies import Reroute, WeightThresholds

TILTS = (0.25, 0.0)
NEVER_WAIT = 2.0  # above any weight

# Of rerouting, ever wider: tolerances in the middle layer of a model that uses eight experts.
REROUTE_TOLERANCES = (0.06, 0.12)
# Of lo copies alone, and beside hi copies of their own (Measured.expected_loss).
WIDE_TOLERANCES = (0.12, 0.15, 0.18, 0.22)
_REROUTE_TILT = 0.75  # how much more it is in the first layer, and less in the last
_N_PROTECTED = 1  # the best expert of a token is never rerouted


@dataclass(frozen=True)
class Rerouting:
    """Of `Reroute`: the tolerance in the first layer, 0: nothing is rerouted, and by how much less it is per layer."""

    below: float = 0.0
    fall: float = 0.0

    def router_filter(self) -> Reroute | None:
        """None if nothing is rerouted."""
        return Reroute(self.below, _N_PROTECTED, self.fall) if self.below > 0 else None


def rerouting_ladder(tolerances: Sequence[float], n_used: int, n_layers: int) -> list[Rerouting]:
    """Of such tolerances, for a model that uses `n_used` experts a token in each of `n_layers`.

    The fewer are used the more each one counts, so the more a good one costs (Reroute). A fall with depth saves a tenth
    of the bytes with eight, and with two it costs (docs/router_filters.md).
    """
    tilt = _REROUTE_TILT if n_used > 2 and n_layers > 1 else 0.0
    ladder = []
    for tolerance in tolerances:
        middle = min(1.0, tolerance * 8 / n_used)
        first = min(1.0, middle * (1 + tilt))
        ladder.append(Rerouting(first, 2 * (first - middle) / (n_layers - 1) if tilt else 0.0))
    return ladder


@dataclass(frozen=True)
class Candidate:
    """Settings of mixed mode; `hi_above` is that of the middle layer, the last two are those of `Rerouting`."""

    hi_above: float
    skip_below: float
    lo_share: float
    wait_above: float = 0.0
    tilt: float = TILTS[0]
    reroute_below: float = 0.0
    reroute_fall: float = 0.0

    @property
    def is_lo_alone(self) -> bool:
        """Whether no hi copy is ever wanted, and none gets memory."""
        return is_lo_alone(self.hi_above, self.lo_share)

    def policy(self, n_layers: int) -> WeightThresholds:
        """Its precision policy in a model of so many layers."""
        return WeightThresholds.tilted(
            self.hi_above, self.tilt, n_layers, skip_below=self.skip_below, wait_above=self.wait_above
        )

    def router_filter(self) -> Reroute | None:
        """Its router filter; None without one."""
        return Rerouting(self.reroute_below, self.reroute_fall).router_filter()

    def rerouted(self, by: Rerouting) -> Candidate:
        """The same with another router filter."""
        return replace(self, reroute_below=by.below, reroute_fall=by.fall)


def is_lo_alone(hi_above: float, lo_share: float) -> bool:
    """Of thresholds and a share: no weight asks for hi, and all memory is for lo copies."""
    return hi_above >= 1.0 and lo_share >= 1.0


def lo_alone(by: Rerouting | None = None) -> Candidate:
    """No hi copies at all: with fine lo copies the fewest bytes for their loss, once experts are rerouted."""
    return Candidate(hi_above=1.0, skip_below=0.0, lo_share=1.0, tilt=0.0).rerouted(by or Rerouting())


@dataclass(frozen=True)
class Speeds:
    """Of exact mode's run: the drive while it is busy, and a token without its waits."""

    drive_bytes_s: float
    compute_s: float

    def token_s(self, read_bytes: float, wanted_bytes: float) -> float:
        """How long a token takes that reads so much and waits for so much of it.

        Reads that nobody waits for go on beside computing; the drive is busy with all of them.
        """
        return max(read_bytes / self.drive_bytes_s, self.compute_s + wanted_bytes / self.drive_bytes_s)


@dataclass(frozen=True)
class Measured:
    """What a candidate costs and saves against exact mode; see Tuning.

    `has_own_hi`: with hi copies of their own in place of the model's experts.
    """

    candidate: Candidate
    loss: float
    loss_se: float
    kl_mean: float
    bytes_ratio: float
    time_ratio: float
    has_own_hi: bool = False

    @property
    def expected_loss(self) -> float:
        """What it may be expected to lose on other text: two parts of the divergence and one of the loss.

        The divergence is what would be lost if the text were as exact mode predicts. Alone it is too much by half,
        since exact mode is no oracle, but it has a tenth of the loss's noise: of the fastest of many candidates the
        loss alone would be on the lucky side (docs/accuracy.md, "What hobbit tune does"). Where lo copies alone are
        rerouted, or copies in hi and lo, only two fifths of it are lost: most of it is of the rerouting then, and an
        expert that nearly won the place is about as good. There half of it counts. Coarse lo copies beside the model's
        own experts have a larger part in it, of which more is lost.
        """
        is_rerouted = self.candidate.reroute_below > 0 and (self.candidate.is_lo_alone or self.has_own_hi)
        divergence = self.kl_mean / 2 if is_rerouted else self.kl_mean
        return (self.loss + 2 * divergence) / 3

    def is_within(self, max_loss: float) -> bool:
        """Whether it lost no more on this text, and may be expected to lose no more on others."""
        return max(self.loss, self.expected_loss) <= max_loss
