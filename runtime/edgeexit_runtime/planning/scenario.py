"""A scenario: what the tiers cost, what lies between them, and where samples leave."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite

from edgeexit.errors import UsageError
from edgeexit.profiles import Profile

__all__ = ["INPUT", "Link", "Payload", "Scenario", "TierCosts"]

INPUT = "input"
"""What `Payload.precision` says of the model's own inputs, which travel as they are."""


@dataclass(frozen=True)
class Link:
    """The way from one tier to the next.

    Attributes:
        bandwidth_mbit: Megabits a second towards the later tier; infinity is allowed.
        rtt_ms: From asking to an answer that took no time and no room.

    Raises:
        UsageError: A number that no link has.
    """

    bandwidth_mbit: float
    rtt_ms: float

    def __post_init__(self) -> None:
        """Refuse what makes no sense."""
        if not self.bandwidth_mbit > 0:
            raise UsageError("a link needs bandwidth", got=f"{self.bandwidth_mbit:g} Mbit/s", expected="more than 0")
        if not (isfinite(self.rtt_ms) and self.rtt_ms >= 0):
            raise UsageError("there is no such round trip", got=f"{self.rtt_ms:g} ms", expected="0 or more")

    def sending_ms(self, size_bytes: float) -> float:
        """How long the link is taken by so many bytes."""
        return size_bytes * 8e-3 / self.bandwidth_mbit

    def crossing_ms(self, size_bytes: float) -> float:
        """How much later an answer comes because a payload of so many bytes had to cross."""
        return self.rtt_ms + self.sending_ms(size_bytes)


@dataclass(frozen=True)
class Payload:
    """What one sample takes along.

    Attributes:
        precision: `INPUT` for the model's inputs, whereupon the later tier begins with segment 0; else that of
            the boundary tensors, whereupon it goes on where the sender stopped.
        size_bytes: Of a sample.
        changed: The share of samples with another label or exit than unrounded, as measured at export;
            None where that was not measured.
    """

    precision: str
    size_bytes: int
    changed: float | None = None

    @property
    def is_input(self) -> bool:
        """Whether the later tier begins from the start."""
        return self.precision == INPUT


@dataclass(frozen=True)
class TierCosts:
    """What one tier takes.

    Attributes:
        name: What tables call it.
        exits_ms: (E,) a single sample from segment 0 until each exit answers; rising.
        busy_ms: (E,) a sample of each segment, check and decision in batches of `batch`.
        batch: The batch size of `busy_ms`.
        energy_mj: (E,) as `exits_ms`; None where it is not known.
    """

    name: str
    exits_ms: tuple[float, ...]
    busy_ms: tuple[float, ...]
    batch: int
    energy_mj: tuple[float, ...] | None = None

    @classmethod
    def of(cls, name: str, profile: Profile) -> TierCosts:
        """Of a profile; `busy_ms` at the batch size at which all segments together are quickest a sample."""

        def busy(at: int) -> tuple[float, ...]:
            n = profile.batches[at]
            return tuple((entry.run_ms[at] + entry.decide_ms[at]) / n for entry in profile.segments)

        at = min(range(len(profile.batches)), key=lambda at: (sum(busy(at)), at))
        return cls(name, profile.exits_ms, busy(at), profile.batches[at], profile.energy_mj)

    def latency_ms(self, first: int, last: int) -> float:
        """A single sample from segment `first` to the answer of exit `last`."""
        return self.exits_ms[last] - (self.exits_ms[first - 1] if first else 0.0)


@dataclass(frozen=True)
class Scenario:
    """Everything that alternatives are reckoned from.

    Attributes:
        exits: The names of the E exits.
        shares: (E,) the share of samples that leave at each exit.
        tiers: From the device on, at least one.
        links: One from each tier to the next.
        payloads: For each segment k, what could be sent in front of it: the model's input first, and for k ≥ 1 the
            boundary in one or more precisions.
        radio_watts: What the device draws while it sends.

    Raises:
        UsageError: The parts do not fit one another.
    """

    exits: tuple[str, ...]
    shares: tuple[float, ...]
    tiers: tuple[TierCosts, ...]
    links: tuple[Link, ...]
    payloads: tuple[tuple[Payload, ...], ...]
    radio_watts: float = 0.0

    def __post_init__(self) -> None:
        """Refuse parts that do not fit."""
        count = len(self.exits)
        rows = [self.shares, self.payloads, *(tier.exits_ms for tier in self.tiers)]
        if count == 0 or any(len(row) != count for row in rows):
            raise UsageError("a scenario needs the same exits everywhere", got=[len(row) for row in rows])
        if not self.tiers or len(self.links) != len(self.tiers) - 1:
            raise UsageError(
                "a scenario needs one link between each two tiers",
                got=f"{len(self.links)} links",
                expected=f"{len(self.tiers) - 1} for {len(self.tiers)} tiers",
            )
        if not all(options and options[0].is_input for options in self.payloads):
            raise UsageError("the first payload of each segment is the input")

    @property
    def count(self) -> int:
        """How many exits and segments, E."""
        return len(self.exits)

    def reaching(self, k: int) -> float:
        """The share of samples that get to segment k; 0 behind the last."""
        return sum(self.shares[k:])
