"""Honest requests, each of its own samples, and what the engine itself answers to them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeexit.bundle import Bundle
from edgeexit.manifest import TensorSpec
from edgeexit_runtime.tail import Tail
from edgeexit_runtime.wire.messages import Question
from edgeexit_runtime.wire.oip import decode_reply, encode_question, parse_reply
from edgeexit_runtime.wire.oip_checksum import CHECKSUM
from hostile.marks import mark

__all__ = ["Honest", "honest_requests"]

TOLERANCE = 1e-4
"""Of probabilities: a sample's answer depends on the sample alone, and on the batch within rounding."""

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Honest:
    """A request as a good client makes it.

    Attributes:
        model: The tail.
        request_id: Its own, with a mark that nobody else has.
        arrays: (n, …) by the names of `Tail.takes`.
        message: The same as a `ModelInferRequest`, signed.
        label, exit, probability: (n,) each, what the engine answers.
    """

    model: str
    request_id: str
    arrays: Arrays
    message: Any
    label: tuple[int, ...]
    exit: tuple[int, ...]
    probability: tuple[float, ...]

    @property
    def data(self) -> bytes:
        """The message's bytes."""
        found: bytes = self.message.SerializeToString()
        return found

    @property
    def unsigned(self) -> bytes:
        """The same without a checksum, as other clients send it."""
        message = type(self.message)()
        message.CopyFrom(self.message)
        del message.parameters[CHECKSUM]
        found: bytes = message.SerializeToString()
        return found

    def misfit(self, data: bytes) -> str | None:
        """What is wrong with a server's answer; None where nothing is.

        Args:
            data: A `ModelInferResponse`.
        """
        reply = decode_reply(parse_reply(data), request_id=self.request_id, model=self.model)
        found = zip(reply.label.tolist(), reply.exit.tolist(), reply.probability.tolist(), strict=True)
        return self.difference(list(found))

    def difference(self, rows: Sequence[tuple[int, int, float]]) -> str | None:
        """How (label, exit, probability) of each row differ from the engine's; None where they do not."""
        if len(rows) != len(self.label):
            return f"{len(rows)} rows, not {len(self.label)}"
        expected = zip(self.label, self.exit, self.probability, strict=True)
        for row, (found, wanted) in enumerate(zip(rows, expected, strict=True)):
            if found[:2] != wanted[:2] or not abs(found[2] - wanted[2]) <= TOLERANCE:
                return f"row {row}: {found}, not {wanted}"
        return None


def honest_requests(
    bundle: Path, models: Sequence[str], clients: int, each: int, *, first: int = 0, rows: int = 4, seed: int = 0
) -> list[list[Honest]]:
    """For each client so many requests, to all tails in turn, of 1 to `rows` samples. No two share a sample.

    Args:
        bundle: The bundle.
        models: The names of its tails from segment `first` on.
        clients: How many lists.
        each: How many requests in each.
        first: The first segment that is served.
        rows: The most samples in a request.
        seed: Of the samples.
    """
    opened = Bundle.open(bundle)
    marks = Random(seed)
    sizes = [[1 + (c + i) % rows for i in range(each)] for c in range(clients)]
    samples = _samples(opened, sum(map(sum, sizes)), np.random.default_rng(seed))
    passages = list(_passages(Tail.open(opened), samples))
    found, start = [], 0
    for c, counts in enumerate(sizes):
        requests = []
        for i, n in enumerate(counts):
            k = (c + i) % len(models)
            requests.append(_request(models[k], passages, first + k, slice(start, start + n), mark(marks)))
            start += n
        found.append(requests)
    return found


def _request(model: str, passages: Sequence[tuple[Arrays, Any]], k: int, part: slice, own: str) -> Honest:
    arrays = {name: np.ascontiguousarray(array[part]) for name, array in passages[k][0].items()}
    leave = np.stack([decision.leave[part] for _, decision in passages[k:]])
    leave[-1] = True
    exits = k + leave.argmax(axis=0)
    rows = range(part.start, part.stop)
    answers = [(passages[e][1], row) for e, row in zip(exits.tolist(), rows, strict=True)]
    return Honest(
        model,
        own,
        arrays,
        encode_question(Question(model, own, arrays, None)),
        tuple(int(decision.label[row]) for decision, row in answers),
        tuple(exits.tolist()),
        tuple(float(decision.probability[row]) for decision, row in answers),
    )


def _passages(tail: Tail, samples: Arrays) -> Iterator[tuple[Arrays, Any]]:
    """For each segment what all samples are in front of it, and what its exit says of them."""
    group = tail.begin(samples)
    for k in range(tail.last + 1):
        arrays = tail.arrays(k, group)
        decision, group = tail.step(k, group)
        yield arrays, decision


def _samples(bundle: Bundle, n: int, random: np.random.Generator) -> Arrays:
    golden = bundle.check
    return {spec.name: _varied(golden[f"input.{spec.name}"], spec, n, random) for spec in bundle.manifest.inputs}


def _varied(golden: NDArray[Any], spec: TensorSpec, n: int, random: np.random.Generator) -> NDArray[Any]:
    """Golden samples and noise: all different, and no stranger than samples are."""
    chosen = golden[np.arange(n) % len(golden)]
    if golden.dtype.kind == "f":
        return (chosen + 0.3 * random.standard_normal(chosen.shape)).astype(golden.dtype)
    if golden.dtype == np.uint8:
        return np.clip(chosen + random.normal(0, 25, chosen.shape), 0, 255).astype(np.uint8)
    return np.ascontiguousarray(chosen)
