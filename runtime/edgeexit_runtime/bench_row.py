"""A row of a benchmark: one batch size, in figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["RIVAL", "Row", "row_of"]

RIVAL = "rival "
"""What the name of a rival is prefixed with among the contenders."""


@dataclass(frozen=True)
class Row:
    """One batch size. Milliseconds are per batch; None: not to be had.

    Each ratio is taken round by round: for each block of batches the median of the rounds' ratios; their mean,
    weighted by the blocks' times.

    Attributes:
        batch: Samples per batch.
        threads: CPU threads that one operator may use.
        full_ms: The whole model.
        chain_ms: The segments with every exit disabled.
        cascade_ms: The cascade.
        ideal_ms: What the same exits would cost with checks and compaction free.
        default_ms: The whole model in ONNX Runtime as it comes.
        full_length_ms: The cascade with thresholds at which nobody leaves, every check run.
        stream_ms: The cascade over many batches, survivors pooled.
        chain_over_full: Chain / whole.
        cascade_over_full: Cascade / whole.
        realised_over_ideal: Ideal / cascade; 1 is perfect.
        cascade_over_default: Cascade / whole as it comes.
        full_length_over_full: The cascade that nobody leaves / whole.
        stream_over_full: Stream / whole.
        rivals_ms: Each rival.
        rivals_over_cascade: Each rival / cascade.
        missing: Why a rival is missing here, where it is not missing everywhere.
        rounds: How often everything was timed.
    """

    batch: int
    threads: int
    full_ms: float | None
    chain_ms: float | None
    cascade_ms: float | None
    ideal_ms: float | None
    chain_over_full: float | None
    cascade_over_full: float | None
    realised_over_ideal: float | None
    default_ms: float | None
    full_length_ms: float | None
    stream_ms: float | None
    cascade_over_default: float | None
    full_length_over_full: float | None
    stream_over_full: float | None
    rivals_ms: Mapping[str, float]
    rivals_over_cascade: Mapping[str, float]
    missing: Mapping[str, str]
    rounds: int

    def document(self, rivals: Sequence[str] = ()) -> dict[str, Any]:
        """The row as `--json` has it, with `NAME_ms` and `NAME_over_cascade` for each of `rivals`."""
        document = asdict(self)
        times, ratios = document.pop("rivals_ms"), document.pop("rivals_over_cascade")
        for name in dict.fromkeys((*rivals, *times)):
            key = name.replace("-", "_")
            document[f"{key}_ms"], document[f"{key}_over_cascade"] = times.get(name), ratios.get(name)
        return document


def row_of(
    spent: Mapping[str, NDArray[np.float64]],
    streams: NDArray[np.float64],
    *,
    batch: int,
    threads: int,
    batches: int,
    missing: Mapping[str, str],
) -> Row:
    """Medians over the rounds.

    Args:
        spent: Seconds (rounds, blocks) by contender.
        streams: Seconds per batch (rounds,) of the stream; none if it was not timed.
        batch: Samples per batch.
        threads: CPU threads that one operator may use.
        batches: In a round.
        missing: Rivals that were left out, with the reasons.
    """

    def ms(name: str) -> float | None:
        return 1e3 * float(np.median(spent[name], axis=0).sum()) / batches if name in spent else None

    def ratio(upper: str, lower: str) -> float | None:
        if upper not in spent or lower not in spent:
            return None
        weights = np.median(spent[lower], axis=0)
        return float(np.median(spent[upper] / spent[lower], axis=0) @ weights / weights.sum())

    ran = [name.removeprefix(RIVAL) for name in spent if name.startswith(RIVAL)]
    streamed = len(streams) > 0
    return Row(
        batch=batch,
        threads=threads,
        full_ms=ms("full"),
        chain_ms=ms("chain"),
        cascade_ms=ms("cascade"),
        ideal_ms=ms("ideal"),
        chain_over_full=ratio("chain", "full"),
        cascade_over_full=ratio("cascade", "full"),
        realised_over_ideal=ratio("ideal", "cascade"),
        default_ms=ms("default"),
        full_length_ms=ms("full_length"),
        stream_ms=1e3 * float(np.median(streams)) if streamed else None,
        cascade_over_default=ratio("cascade", "default"),
        full_length_over_full=ratio("full_length", "full"),
        stream_over_full=float(np.median(streams / spent["full"].sum(axis=1)) * batches)
        if streamed and "full" in spent
        else None,
        rivals_ms={name: float(ms(RIVAL + name) or 0.0) for name in ran},
        rivals_over_cascade={name: float(ratio(RIVAL + name, "cascade") or 0.0) for name in ran},
        missing=missing,
        rounds=len(spent["cascade"]),
    )
