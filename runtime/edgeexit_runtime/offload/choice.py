"""The choice of what to send: boundary tensors or the model's inputs, in which precision, compressed or not."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from numpy.typing import NDArray

from edgeexit.errors import UsageError
from edgeexit.manifest import Manifest, PayloadEntry, TensorSpec
from edgeexit.payload import MAX_CHANGED, PRECISIONS, packed_bytes
from edgeexit_runtime.offload.link import Link

__all__ = ["AUTO", "Chooser", "Payload", "Source", "Wishes"]

Source = Literal["boundary", "input"]
AUTO = "auto"

_SOURCES = ("boundary", "input")
_COMPRESSIONS = (AUTO, "on", "off")
_GZIP_BYTES_PER_S = 20e6
_SLACK = 0.1
_SLACK_S = 0.001
_LEAST_CHANGED = 1e-6
_LEARNING = 0.02


@dataclass(frozen=True, slots=True)
class Wishes:
    """What may be sent.

    Attributes:
        source: `boundary`, `input`, or `auto`.
        precision: One of `PRECISIONS`, or `auto`. Only tensors of floating point are rounded.
        compress: `on`, `off`, or `auto`: where it pays.
        max_changed: With `auto`, no precision that changed the answers of a larger share of the samples at export;
            where that was not measured, nothing is rounded.
    """

    source: str = AUTO
    precision: str = AUTO
    compress: str = AUTO
    max_changed: float = MAX_CHANGED

    def __post_init__(self) -> None:
        for got, expected in (
            (self.source, (AUTO, *_SOURCES)),
            (self.precision, (AUTO, *PRECISIONS)),
            (self.compress, _COMPRESSIONS),
        ):
            if got not in expected:
                raise UsageError("there is no such payload", got=got, expected=", ".join(expected))
        if not 0 <= self.max_changed <= 1:
            raise UsageError("that is no share of the samples", got=self.max_changed, expected="0 to 1")


@dataclass(frozen=True, slots=True)
class Payload:
    """One way to send samples.

    Attributes:
        source: What is sent.
        precision: How it is rounded.
        compress: Whether the message is compressed.
        raw_bytes: Of a sample, before compression.
        wire_bytes: Of a sample, after it.
        changed: Share of the samples that then get another answer.
        repeated_macs: Of a sample: what the server computes once more.
    """

    source: Source
    precision: str
    compress: bool
    raw_bytes: float
    wire_bytes: float
    changed: float
    repeated_macs: float

    @property
    def name(self) -> str:
        """Such as `boundary fp16 gzip`."""
        return f"{self.source} {self.precision}{' gzip' if self.compress else ''}"

    @property
    def rounding(self) -> float:
        """What payloads are ranked by where they take about as long: 0 for exact ones alone."""
        return 0.0 if self.precision == "fp32" else self.changed + _LEAST_CHANGED

    def compressing_s(self, rows: int) -> float:
        """What compressing so many samples takes, about."""
        return rows * self.raw_bytes / _GZIP_BYTES_PER_S if self.compress else 0.0


class Chooser:
    """Takes the quickest payload, or a more exact one that takes hardly longer.

    Seconds = network (from the link) + compressing + what the server computes once more. While the link's
    bandwidth is unknown, the smallest payload counts as the quickest.

    Args:
        manifest: The bundle's; its measured payloads say what rounding and compressing do.
        wishes: What may be sent.
        link: What the network takes.
    """

    def __init__(self, manifest: Manifest, wishes: Wishes, link: Link) -> None:
        self._segments = manifest.segments
        self._wishes = wishes
        self._link = link
        self._macs = [0.0]
        for segment in manifest.segments:
            self._macs.append(self._macs[-1] + segment.macs + segment.head_macs)
        self._payloads: dict[tuple[int, bool], tuple[Payload, ...]] = {}
        self._seconds_per_mac: float | None = None

    def sources(self, k: int, has_inputs: bool) -> tuple[Source, ...]:
        """What samples in front of segment k might be sent as."""
        if k == 0:
            return ("boundary",)  # which is the model's inputs
        wished = self._wishes.source
        boundary: tuple[Source, ...] = () if wished == "input" else ("boundary",)
        return (*boundary, "input") if has_inputs and wished != "boundary" else boundary

    def choose(
        self,
        k: int,
        arrays: Mapping[str, NDArray[Any]],
        inputs: Mapping[str, NDArray[Any]] | None,
        taken: Mapping[Source, Collection[str]],
    ) -> Payload | None:
        """How to send samples that stand in front of segment k.

        Args:
            k: The segment.
            arrays: (n, …) by the names of `Tail.takes`.
            inputs: (n, …) by the names of the model's inputs; None where they are not at hand.
            taken: For each source the precisions that the server takes.

        Returns:
            None where nothing that is wished for is taken.
        """
        rows = len(next(iter(arrays.values())))
        payloads = [p for p in self._of(k, arrays, inputs) if p.precision in taken.get(p.source, ())]
        if self._wishes.precision == AUTO:
            # a server that takes rounded tensors alone has decided the matter
            payloads = [
                p for p in payloads if p.precision == PRECISIONS[0] or p.changed <= self._wishes.max_changed
            ] or payloads
        found = [(self._expected_s(payload, rows), payload) for payload in payloads]
        if len(found) < 2:
            return found[0][1] if found else None
        limit_s = min(seconds for seconds, _ in found) * (1 + _SLACK) + _SLACK_S * self._known
        within = [(payload.rounding, seconds, i) for i, (seconds, payload) in enumerate(found) if seconds <= limit_s]
        return found[min(within)[2]][1]

    def observe_server(self, first: int, exits: Collection[int], server_s: float) -> None:
        """Learn what a MAC takes on the server: it ran samples from segment `first` to these exits."""
        macs = sum(self._macs[e + 1] - self._macs[first] for e in exits)
        if macs <= 0 or server_s <= 0:
            return
        seconds, known = server_s / macs, self._seconds_per_mac
        # queues and overheads only ever add to it, so the quickest counts, and is forgotten slowly
        self._seconds_per_mac = seconds if known is None or seconds < known else known + _LEARNING * (seconds - known)

    @property
    def _known(self) -> bool:
        return self._link.bytes_per_s is not None

    def _expected_s(self, payload: Payload, rows: int) -> float:
        """Seconds; bytes while the bandwidth is unknown."""
        network_s = self._link.seconds(rows * payload.wire_bytes)
        if network_s is None:
            return payload.wire_bytes
        repeated_s = rows * payload.repeated_macs * (self._seconds_per_mac or 0.0)
        return network_s + payload.compressing_s(rows) + repeated_s

    def _of(
        self, k: int, arrays: Mapping[str, NDArray[Any]], inputs: Mapping[str, NDArray[Any]] | None
    ) -> tuple[Payload, ...]:
        key = (k, inputs is not None)
        found = self._payloads.get(key)
        if found is None:
            sources = self.sources(k, inputs is not None)
            boundary = self._boundary(k, arrays) if "boundary" in sources else ()
            whole = self._inputs(k, inputs) if inputs is not None and "input" in sources else ()
            found = self._payloads[key] = (*boundary, *whole)
        return found

    def _boundary(self, k: int, arrays: Mapping[str, NDArray[Any]]) -> Iterator[Payload]:
        entries = self._segments[k].payloads or () if k else ()
        measured: dict[str, PayloadEntry] = {entry.precision: entry for entry in entries}
        for precision in self._precisions(exact=k == 0):
            entry = measured.get(precision)
            size = _size_bytes(arrays, precision)
            changed = float(precision != "fp32") if entry is None else entry.changed  # unmeasured: the worst
            ratio = None if entry is None or not entry.size_bytes else entry.compressed_bytes / entry.size_bytes
            for compress in self._compressions(ratio):
                wire_bytes = size * min(1.0, ratio or 1.0) if compress else size
                yield Payload("boundary", precision, compress, size, wire_bytes, changed, 0.0)

    def _inputs(self, k: int, inputs: Mapping[str, NDArray[Any]]) -> Iterator[Payload]:
        for precision in self._precisions(exact=True):
            size = _size_bytes(inputs, precision)
            for compress in self._compressions(None):
                yield Payload("input", precision, compress, size, size, 0.0, self._macs[k])

    def _precisions(self, *, exact: bool) -> tuple[str, ...]:
        if self._wishes.precision != AUTO:
            return (self._wishes.precision,)
        return PRECISIONS[:1] if exact else PRECISIONS

    def _compressions(self, ratio: float | None) -> tuple[bool, ...]:
        if self._wishes.compress != AUTO:
            return (self._wishes.compress == "on",)
        return (False,) if ratio is None or ratio >= 1 else (False, True)


def _size_bytes(arrays: Mapping[str, NDArray[Any]], precision: str) -> int:
    """Of one sample."""
    specs = (TensorSpec(name=name, dtype=array.dtype.name, shape=array.shape[1:]) for name, array in arrays.items())
    return sum(packed_bytes(spec, precision) for spec in specs)
