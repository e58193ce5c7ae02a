"""The circuit breaker: after several failures in a row nobody asks for a while, then one question tries."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from edgeexit.errors import UsageError

__all__ = ["Breaker", "BreakerSettings", "BreakerState", "Permit"]


class BreakerState(str, Enum):
    """Closed: everybody may ask. Open: nobody. Half-open: one probe."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


@dataclass(frozen=True, slots=True)
class BreakerSettings:
    """How a breaker behaves.

    Attributes:
        failures: As many in a row open it.
        first_open_s: How long it stays open the first time, in seconds; doubled whenever a probe fails.
        longest_open_s: It never stays open longer.
    """

    failures: int = 5
    first_open_s: float = 0.1
    longest_open_s: float = 1.0

    def __post_init__(self) -> None:
        if self.failures < 1 or not 0 < self.first_open_s <= self.longest_open_s:
            raise UsageError("these settings of a circuit breaker make no sense", got=self)


class Breaker:
    """A circuit breaker for one server.

    It stays open for between half and all of its time, by chance, so that many devices do not come back at once.

    Args:
        clock: Seconds, never going back.
        rng: Uniform in [0, 1).
        settings: See `BreakerSettings`.

    Attributes:
        opened: How often it has opened.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        rng: Callable[[], float] = random.random,
        settings: BreakerSettings = BreakerSettings(),
    ) -> None:
        self.opened = 0
        self._clock = clock
        self._rng = rng
        self._settings = settings
        self._failures = 0
        self._failed_probes = 0
        self._opens_again_s: float | None = None  # None: closed
        self._probe: Permit | None = None

    @property
    def state(self) -> BreakerState:
        """What it does now."""
        if self._opens_again_s is None:
            return BreakerState.CLOSED
        return BreakerState.OPEN if self._clock() < self._opens_again_s else BreakerState.HALF_OPEN

    def permit(self) -> Permit | None:
        """Leave to ask once, to be given back by one of its methods; None where nobody may ask now."""
        if self._opens_again_s is None:
            return Permit(self)
        if self._probe is not None or self._clock() < self._opens_again_s:
            return None
        self._probe = Permit(self)
        return self._probe

    def _settle(self, permit: Permit, succeeded: bool | None) -> None:
        probe = permit is self._probe
        if probe:
            self._probe = None
        if succeeded is None:
            return
        if self._opens_again_s is not None and not probe:
            return  # an answer to a question from before it opened says nothing new
        if succeeded:
            self._failures = self._failed_probes = 0
            self._opens_again_s = None
            return
        self._failures += 1
        self._failed_probes += probe
        if probe or self._failures >= self._settings.failures:
            self._open()

    def _open(self) -> None:
        longest = self._settings.longest_open_s
        bound = min(longest, self._settings.first_open_s * 2.0 ** min(self._failed_probes, 60))
        self._opens_again_s = self._clock() + bound * (0.5 + 0.5 * self._rng())
        self._failures = 0
        self.opened += 1


class Permit:
    """Leave to ask once. The first of its methods that is called counts."""

    __slots__ = ("_breaker",)

    def __init__(self, breaker: Breaker) -> None:
        self._breaker: Breaker | None = breaker

    def succeeded(self) -> None:
        """The server answered."""
        self._settle(True)

    def failed(self) -> None:
        """The server did not answer, or not usefully."""
        self._settle(False)

    def unused(self) -> None:
        """Nothing was learned, such as when whoever asked lost interest."""
        self._settle(None)

    def _settle(self, succeeded: bool | None) -> None:
        breaker, self._breaker = self._breaker, None
        if breaker is not None:
            breaker._settle(self, succeeded)
