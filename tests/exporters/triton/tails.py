"""A device that stops in front of a segment, and what it makes of a tail's logits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgeexit.bundle import Bundle
from edgeexit.policies import State
from edgeexit_runtime.tail import Tail

Arrays = dict[str, NDArray[Any]]
Ask = Callable[[Arrays], NDArray[np.float32]]
"""Gives a tail's logits (n, E, C) for boundary tensors by name."""


class Answers(NamedTuple):
    """Labels and exits, (n,) each; −1 where there is no answer yet."""

    labels: NDArray[np.int64]
    exits: NDArray[np.int64]


class Waiting(NamedTuple):
    """Samples that did not leave: their rows among all, their boundary tensors, and the policy's state."""

    rows: NDArray[np.intp]
    arrays: Arrays
    state: State


def golden_inputs(bundle: Bundle) -> Arrays:
    """The model's inputs of the golden samples."""
    return {spec.name: bundle.check[f"input.{spec.name}"] for spec in bundle.manifest.inputs}


def stopped(bundle: Bundle, k: int, inputs: Arrays) -> tuple[Answers, Waiting]:
    """What a device that runs segments 0 to k − 1 answers, and what waits in front of segment k; some must."""
    n = len(next(iter(inputs.values())))
    answers, rows = Answers(np.full(n, -1), np.full(n, -1)), np.arange(n)
    if k == 0:
        return answers, Waiting(rows, inputs, bundle.policy().start(n, len(bundle.manifest.labels)))
    tail = Tail.open(bundle, upto=k)
    group = tail.begin(inputs)
    for j in range(k):
        decision, group = tail.step(j, group)
        answers.labels[rows[decision.leave]], answers.exits[rows[decision.leave]] = decision.label[decision.leave], j
        stay = np.flatnonzero(~decision.leave)
        assert len(stay), f"no sample gets to segment {j + 1}"
        rows, group = rows[stay], tail.keep(group, stay)
    arrays = tail.arrays(k, group)
    return answers, Waiting(rows, {spec.name: arrays[spec.name] for spec in tail.boundary(k)}, group.state)


def handed_on(bundle: Bundle, k: int, inputs: Arrays, ask: Ask) -> Answers:
    """Answers of a device that stops in front of segment k, asks for the rest, and applies the policy to it."""
    answers, waiting = stopped(bundle, k, inputs)
    policy, state = bundle.policy(), waiting.state
    logits = ask(waiting.arrays)
    for j in range(k, len(bundle.manifest.segments)):
        decision, state = policy.decide(j, np.ascontiguousarray(logits[:, j - k]), state)
        rows = waiting.rows[decision.leave & (answers.exits[waiting.rows] < 0)]
        labels = dict(zip(waiting.rows, decision.label, strict=True))
        answers.labels[rows], answers.exits[rows] = [labels[row] for row in rows], j
    return answers
