"""The cascade: segments in a row, left by each sample as soon as the policy is sure of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeexit.bundle import Bundle
from edgeexit.errors import DataError, UsageError
from edgeexit.manifest import Manifest, SegmentEntry
from edgeexit.policies import Policy
from edgeexit_runtime.answers import Answer, Answers, Insight, Resolved
from edgeexit_runtime.backends import Backend, Handle, Lane, Segment, SessionSettings, load_backend
from edgeexit_runtime.batches import Batch, BatchChecker
from edgeexit_runtime.compaction import compact, split
from edgeexit_runtime.tap import tapped_entry, tapped_graph
from edgeexit_runtime.wiring import wire

__all__ = ["Cascade"]


class Cascade:
    """A bundle's segments, opened and ready.

    A cascade remembers nothing of a call but the memory that single samples went through, and no two
    threads are ever given the same. So one cascade may be shared by several threads as long as its
    backend's segments may: those of ONNX Runtime and the fake may.

    Args:
        manifest: The bundle's manifest.
        policy: Decides after each segment.
        backend: Where the segments were opened.
        segments: The first K of the manifest's segments. If that is not all of them, samples that
            are unresolved after the last get its answer, marked as degraded.
        tapped: Whether the segments hand out features, as a last output.

    Attributes:
        manifest: As given.
        policy: As given.
        exits: K, the number of exits here.

    Raises:
        BundleError: The segments do not fit together.
        UsageError: There are no segments, or more than the manifest lists.
    """

    def __init__(
        self,
        manifest: Manifest,
        policy: Policy,
        backend: Backend,
        segments: Sequence[Segment],
        *,
        tapped: bool = False,
    ) -> None:
        _check_count(len(segments), manifest)
        self.manifest = manifest
        self.policy = policy
        self.exits = len(segments)
        self._backend = backend
        self._tapped = tapped
        self._entries = _entries(manifest, self.exits, tapped)
        self._lanes: list[Lane] = []
        self._checker = BatchChecker(manifest.inputs)
        self._stages = tuple(zip(segments, wire(manifest.inputs, self._entries), strict=True))
        self._reason = (
            f"this tier runs {self.exits} of {len(manifest.segments)} segments and none of its exits was sure"
            if self.exits < len(manifest.segments)
            else None
        )

    @classmethod
    def open(
        cls,
        bundle: str | Path | Bundle,
        *,
        target: str | Path | None = None,
        threads: int | None = None,
        backend: str | Backend = "onnxruntime",
        upto: int | None = None,
        tapped: bool = False,
    ) -> Cascade:
        """Open a bundle.

        Args:
            bundle: A folder, a `.eexit` file, or a bundle opened before.
            target: A known device, or the path of a target file; its settings are used.
            threads: CPU threads that one operator may use; the target's when None, else 1.
            backend: A backend's name, or a backend.
            upto: Run only the first K segments; all of them when None.
            tapped: Let the segments hand out what the exits' heads read, for `insight`. It costs `run` a
                copy of them.

        Raises:
            BundleError: The bundle is incomplete, altered or malformed.
            BackendError: The backend is missing or cannot run it.
            UsageError: No such target or backend, or a number is out of range.
        """
        opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
        settings = _settings(target, threads)
        engine = load_backend(backend) if isinstance(backend, str) else backend
        manifest, tensors, policy = opened.manifest, opened.exits, opened.policy()
        count = len(manifest.segments) if upto is None else upto
        _check_count(count, manifest)
        graphs = [opened.segment(k) for k in reversed(range(count))]
        del opened  # and let go of each graph as soon as it is open: its bytes are needed once
        segments = [
            engine.open(tapped_graph(graphs.pop(), entry) if tapped else graphs.pop(), entry, tensors, settings)
            for entry in _entries(manifest, count, tapped)
        ]
        return cls(manifest, policy, engine, segments, tapped=tapped)

    def with_policy(self, policy: Policy) -> Cascade:
        """The same segments under another policy, or other thresholds. Nothing is opened again."""
        segments = [segment for segment, _ in self._stages]
        return Cascade(self.manifest, policy, self._backend, segments, tapped=self._tapped)

    def with_tensors(self, tensors: Mapping[str, NDArray[Any]]) -> Cascade:
        """The same segments with other tensors for some heads. Nothing is opened again.

        This cascade stays as it is, so other threads may go on with it.

        Args:
            tensors: By their names in `exits.safetensors`. For each segment all of its policy inputs, or none.

        Raises:
            BundleError: A tensor is missing, or has another dtype or shape than the manifest says.
        """
        segments = [
            self._backend.rebound(segment, entry, tensors)
            if any(spec.name in tensors for spec in entry.policy_inputs)
            else segment
            for (segment, _), entry in zip(self._stages, self._entries, strict=True)
        ]
        return Cascade(self.manifest, self.policy, self._backend, segments, tapped=self._tapped)

    def run(self, batch: Batch) -> Answers:
        """Answer a batch of any size, also of none.

        Args:
            batch: (n, …) array for a model of one input, else such arrays by the inputs' names;
                dtype and shape as in the manifest.

        Raises:
            DataError: A name, dtype or shape differs from the manifest.
            BackendError: The device failed.
        """
        arrays, n = self._checker.check(batch)
        if n == 1:
            return Answers.of_one(self._resolve_one(arrays, 0))
        answers = Answers.blank(n)
        for resolved in self._resolve(arrays, n):
            answers.put(resolved)
        if self._reason is not None and answers.degraded.any():
            return replace(answers, reason=self._reason)
        return answers

    def stream(self, batches: Iterable[Batch]) -> Iterator[Answer]:
        """Answer batches one after another, each sample as soon as it is resolved.

        Samples that leave at an early exit come before samples of the same batch that need more;
        `Answer.index` says which is which.

        Raises:
            DataError: A name, dtype or shape differs from the manifest.
            BackendError: The device failed.
        """
        start = 0
        for batch in batches:
            arrays, n = self._checker.check(batch)
            if n == 1:
                yield self._resolve_one(arrays, start)
            else:
                for resolved in self._resolve(arrays, n):
                    yield from resolved.answers(start, self._reason)
            start += n

    def logits(self, batch: Batch) -> NDArray[np.float32]:
        """Every exit's logits, (K, n, classes), with nobody leaving.

        Raises:
            DataError: A name, dtype or shape differs from the manifest.
            BackendError: The device failed.
        """
        arrays, n = self._checker.check(batch)
        if n == 0:
            return np.zeros((self.exits, 0, len(self.manifest.labels)), np.float32)
        return np.stack([logits for _, logits in self._all_the_way(arrays)])

    def insight(self, batch: Batch) -> Insight:
        """What every exit's head read and said, with nobody leaving.

        Raises:
            DataError: A name, dtype or shape differs from the manifest, or there are no samples.
            BackendError: The device failed.
            UsageError: The cascade was not opened with `tapped=True`.
        """
        if not self._tapped:
            raise UsageError("this cascade keeps its features inside", remedy="Cascade.open(…, tapped=True)")
        arrays, n = self._checker.check(batch)
        if n == 0:
            raise DataError("there are no samples", got="a batch of 0")
        features, logits = zip(*self._all_the_way(arrays), strict=True)
        return Insight(features, np.stack(logits))

    def _all_the_way(
        self, arrays: Sequence[NDArray[Any]]
    ) -> Iterator[tuple[NDArray[np.float32] | None, NDArray[np.float32]]]:
        """Every exit's features, where they come out, and logits, with nobody leaving."""
        tensors: list[Handle] = [self._backend.to_device(array) for array in arrays]
        for (segment, step), entry in zip(self._stages, self._entries, strict=True):
            outputs, logits = segment.run(step.inputs(tensors))
            comes_out = self._tapped and entry.features is not None
            features = self._backend.to_host(outputs[-1]) if comes_out else None
            tensors = step.carry(tensors, outputs)
            del outputs
            yield features, logits

    def _resolve_one(self, arrays: Sequence[NDArray[Any]], index: int) -> Answer:
        """The answer to a single sample, the way that makes the least of everything around the segments."""
        try:
            lane = self._lanes.pop()
        except IndexError:  # all in use by other threads, or none made yet
            lane = self._backend.lane(
                [segment for segment, _ in self._stages],
                self._entries,
                self.manifest.inputs,
                len(self.manifest.labels),
            )
        try:
            lane.start(arrays)
            state = self.policy.start(1, len(self.manifest.labels))
            for k in range(self.exits):
                verdict, state = self.policy.decide_one(k, lane.run(k), state)
                if verdict.leave:
                    break
        finally:
            self._lanes.append(lane)
        degraded = self._reason is not None and not verdict.leave
        reason = self._reason if degraded else None
        return Answer(index, verdict.label, verdict.probability, k, verdict.score, degraded, reason)

    def _resolve(self, arrays: Sequence[NDArray[Any]], n: int) -> Iterator[Resolved]:
        """The samples of one batch in groups, as they leave."""
        if n == 0:
            return
        tensors: list[Handle] = [self._backend.to_device(array) for array in arrays]
        state = self.policy.start(n, len(self.manifest.labels))
        rows: NDArray[np.intp] | None = None
        for k, (segment, step) in enumerate(self._stages):
            outputs, logits = segment.run(step.inputs(tensors))
            decision, state = self.policy.decide(k, logits, state)
            leaving = np.count_nonzero(decision.leave)
            if leaving == len(decision.leave) or k == self.exits - 1:
                yield Resolved(k, rows, decision, None if self._reason is None else ~decision.leave)
                return
            tensors = step.carry(tensors, outputs)
            del outputs
            if leaving:
                gone, stay = split(decision.leave)
                yield Resolved.some(k, rows, decision, gone)
                tensors, state, rows = compact(self._backend, tensors, state, rows, stay)


def _entries(manifest: Manifest, count: int, tapped: bool) -> tuple[SegmentEntry, ...]:
    entries = manifest.segments[:count]
    return tuple(map(tapped_entry, entries)) if tapped else entries


def _check_count(segments: int, manifest: Manifest) -> None:
    if not 1 <= segments <= len(manifest.segments):
        raise UsageError(
            "that is not a number of segments of this bundle",
            got=segments,
            expected=f"1 to {len(manifest.segments)}",
        )


def _settings(target: str | Path | None, threads: int | None) -> SessionSettings:
    if target is None:
        return SessionSettings(threads=1 if threads is None else threads)
    from edgeexit.targets import load_target  # reads TOML, which a start without a target need not

    device = load_target(target)
    return SessionSettings(threads=device.threads if threads is None else threads, spinning=device.spinning)
