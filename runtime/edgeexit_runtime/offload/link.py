"""The link to a server: its round trip and bandwidth, learned from the messages that cross it."""

from __future__ import annotations

from edgeexit.errors import UsageError

__all__ = ["LIGHT_BYTES", "Link"]

LIGHT_BYTES = 1024
"""Messages up to this size tell the round trip; larger ones, beyond it, the bandwidth."""

_LARGEST_BYTES_PER_S = 1e11


class Link:
    """Exponentially weighted means of what messages took on the network.

    Seconds of a message = round trip + bytes / bandwidth, bytes as on the wire. Light messages give the round
    trip, which is shorter than any message took; the mean of heavy ones, less the round trip, gives the
    bandwidth. A message quicker than expected weighs more than a slower one, since whatever else keeps a machine
    busy only ever adds to the time.

    Args:
        slower: The weight of the newest message in each mean, in (0, 1], where it took longer than expected.
        quicker: Its weight where it did not.
    """

    def __init__(self, slower: float = 0.1, quicker: float = 0.5) -> None:
        if not 0 < slower <= quicker <= 1:
            raise UsageError(
                "a link's weights are out of range", got=f"{slower}, {quicker}", expected="0 < slower ≤ quicker ≤ 1"
            )
        self._slower = slower
        self._quicker = quicker
        self._round_trip_s: float | None = None
        self._heavy_s: float | None = None
        self._heavy_bytes = 0.0

    @property
    def rtt_s(self) -> float | None:
        """Seconds of a round trip with nothing to carry; None while unknown."""
        return self._round_trip_s

    @property
    def bytes_per_s(self) -> float | None:
        """Bandwidth; None while unknown."""
        if self._heavy_s is None:
            return None
        carrying_s = self._heavy_s - (self._round_trip_s or 0.0)
        return min(_LARGEST_BYTES_PER_S, self._heavy_bytes / max(carrying_s, 1e-9))

    def seconds(self, size_bytes: float) -> float | None:
        """What a message of so many bytes is expected to take; None while the bandwidth is unknown."""
        bandwidth = self.bytes_per_s
        return None if bandwidth is None else (self._round_trip_s or 0.0) + size_bytes / bandwidth

    def observe(self, size_bytes: float, network_s: float) -> None:
        """A message of so many bytes took so long, the server's own time left out."""
        network_s = max(network_s, 0.0)
        known_s = self._round_trip_s
        if size_bytes <= LIGHT_BYTES:
            self._round_trip_s = (
                network_s if known_s is None else min(network_s, _mean(known_s, network_s, self._slower))
            )
            return
        if known_s is not None and network_s < known_s:
            self._round_trip_s = network_s / 2  # it carried something as well, nobody knows for how long
        expected_s = self.seconds(size_bytes)
        if self._heavy_s is None or expected_s is None:
            self._heavy_s, self._heavy_bytes = network_s, float(size_bytes)
            return
        weight = self._quicker if network_s < expected_s else self._slower
        self._heavy_s = _mean(self._heavy_s, network_s, weight)
        self._heavy_bytes = _mean(self._heavy_bytes, size_bytes, weight)

    def given_up(self, size_bytes: float, elapsed_s: float) -> None:
        """A message of so many bytes was not answered for so long, and then nobody waited any more."""
        expected_s = self.seconds(size_bytes)
        if size_bytes > LIGHT_BYTES and (expected_s is None or elapsed_s > expected_s):
            self.observe(size_bytes, elapsed_s)


def _mean(mean: float, value: float, weight: float) -> float:
    return mean + weight * (value - mean)
