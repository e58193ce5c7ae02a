"""Replies held against the question: whether they fit it, and what the policy makes of bare logits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import isnan
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeexit.payload import STATE
from edgeexit.policies import Policy
from edgeexit_runtime.offload.transport import OffloadError
from edgeexit_runtime.wire.messages import Reply

__all__ = ["Terms", "check_reply", "decided"]

_LARGEST = 1.0001  # a softmax in float32 may end a little above 1
_COLUMNS = {
    "label": np.dtype(np.int64),
    "probability": np.dtype(np.float32),
    "exit": np.dtype(np.int64),
    "score": np.dtype(np.float32),
    "degraded": np.dtype(np.bool_),
}


@dataclass(frozen=True, slots=True)
class Terms:
    """What a reply has to fit.

    Attributes:
        rows: How many samples were asked about.
        first: The segment that they stood in front of.
        exits, classes: Of the whole cascade.
    """

    rows: int
    first: int
    exits: int
    classes: int


def check_reply(reply: Reply, terms: Terms) -> None:
    """Refuse a reply that cannot be one to the question.

    Args:
        reply: With labels.
        terms: The question's.

    Raises:
        OffloadError: "protocol".
    """
    rows, first, exits, classes = terms.rows, terms.first, terms.exits, terms.classes
    for name, dtype in _COLUMNS.items():
        column = getattr(reply, name)
        if not isinstance(column, np.ndarray) or column.shape != (rows,) or column.dtype != dtype:
            raise _lie(f"{name} is not {dtype} of {rows} rows")
    if len(reply.tier) != rows or not all(reply.tier):
        raise _lie(f"{len(reply.tier)} names of tiers for {rows} rows")
    # Python's numbers: most questions are of one sample, for which NumPy's reductions take ten times as long
    if not all(0 <= label < classes for label in reply.label.tolist()):
        raise _lie(f"a label outside of {classes} classes")
    if not all(first <= exit_index < exits for exit_index in reply.exit.tolist()):
        raise _lie(f"an exit outside of {first} to {exits - 1}")
    # NaN is what a sample of no numbers gets anywhere: others of the same question have nothing to do with it
    if not all(0 <= probability <= _LARGEST or isnan(probability) for probability in reply.probability.tolist()):
        raise _lie("a probability outside of 0 to 1")
    if not 0 <= reply.server_ms < float("inf"):
        raise _lie("a time that is no number")


def decided(reply: Reply, policy: Policy, arrays: Mapping[str, NDArray[Any]], terms: Terms) -> Reply:
    """Apply the policy to a reply of bare logits.

    Args:
        reply: With logits (n, E, C) of the exits from `terms.first` on.
        policy: The bundle's.
        arrays: The samples as they left this tier; the policy's state is among them, and read unless `terms.first`
            is 0.
        terms: The question's.

    Raises:
        OffloadError: "protocol": the logits are of another shape.
    """
    rows, first, exits, classes = terms.rows, terms.first, terms.exits, terms.classes
    logits = reply.logits
    if logits is None or logits.shape != (rows, exits - first, classes) or logits.dtype != np.float32:
        raise _lie(f"logits that are not float32 of {rows} rows, {exits - first} exits and {classes} classes")
    label, exit_index = np.zeros(rows, np.int64), np.zeros(rows, np.int64)
    probability, score = np.zeros(rows, np.float32), np.zeros(rows, np.float32)
    state = policy.start(rows, classes)
    if first:
        state = tuple(arrays[f"{STATE}{i}"] for i in range(len(state)))
    left = np.arange(rows)
    for k in range(first, exits):
        decision, state = policy.decide(k, logits[left, k - first], state)
        leave = decision.leave if k < exits - 1 else np.ones(len(left), np.bool_)
        out = left[leave]
        label[out], exit_index[out] = decision.label[leave], k
        probability[out], score[out] = decision.probability[leave], decision.score[leave]
        left, state = left[~leave], tuple(array[~leave] for array in state)
        if not len(left):
            break
    return replace(reply, label=label, probability=probability, exit=exit_index, score=score, logits=None)


def _lie(detail: str) -> OffloadError:
    return OffloadError("protocol", f"the reply has {detail}")
