"""The cascade: segments in a row, left by each sample as soon as the policy is sure of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgeexit.bundle import Bundle
from edgeexit.errors import DataError, UsageError
from edgeexit.manifest import Manifest, SegmentEntry
from edgeexit.policies import Policy
from edgeexit_runtime.answers import Answer, Answers, Insight
from edgeexit_runtime.backends import Backend, Handle, Segment, load_backend
from edgeexit_runtime.batches import Batch, BatchChecker
from edgeexit_runtime.costmodel import CostModel, WholeBatches
from edgeexit_runtime.lean import check_still_idle, idle_exits, without_heads
from edgeexit_runtime.opening import check_count, cost_model, segment_entries, settings_for
from edgeexit_runtime.resolver import Resolver
from edgeexit_runtime.tap import tapped_graph
from edgeexit_runtime.wiring import Step, wire

if TYPE_CHECKING:
    from edgeexit.profiles import Profile
    from edgeexit_runtime.pooling import Pool

__all__ = ["Cascade"]

_LEAN_BACKENDS = ("onnxruntime",)


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
        costs: Decides how batches are run; as a whole, and always compacted, when None.

        entries: What was opened, where that is not what the manifest says: segments with an empty `logits`
            have no heads.

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
        costs: CostModel | None = None,
        entries: Sequence[SegmentEntry] | None = None,
    ) -> None:
        check_count(len(segments), manifest)
        self.manifest = manifest
        self.policy = policy
        self.exits = len(segments)
        self._backend = backend
        self._tapped = tapped
        self._entries = segment_entries(manifest, self.exits, tapped) if entries is None else tuple(entries)
        self._idle = frozenset(k for k, entry in enumerate(self._entries) if not entry.logits)
        self._checker = BatchChecker(manifest.inputs)
        self._segments = tuple(segments)
        self._costs = WholeBatches() if costs is None else costs
        wire(manifest.inputs, self._entries)  # refuses what does not fit together
        self._resolver = Resolver(
            policy, backend, self._segments, self._entries, manifest.inputs, len(manifest.labels), self._costs
        )
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
        profile: str | Path | Profile | None = None,
        lean: bool = False,
        shared_pool: bool = False,
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
            profile: What `edgeexit profile` measured on this device, or its path: how batches are run is
                decided by it. When None it is learned from the first batches. Answers do not depend on it.
            lean: Leave out the heads of exits at which nobody leaves, where the policy does without them.
                The cascade then has no `logits`, and takes no policy that needs those exits.
            shared_pool: With several threads: one pool for all segments, which are quicker then. It becomes the
                process's, and ONNX Runtime refuses sessions with threads of their own beside it, so leave it
                where other code of the process uses ONNX Runtime.

        Raises:
            BundleError: The bundle is incomplete, altered or malformed.
            BackendError: The backend is missing or cannot run it.
            DeviceError: The profile is damaged or of another bundle; the target file cannot be used.
            UsageError: No such target or backend, or a number is out of range.
        """
        opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
        settings = settings_for(target, threads, shared_pool)
        engine = load_backend(backend) if isinstance(backend, str) else backend
        manifest, tensors, policy = opened.manifest, opened.exits, opened.policy()
        count = len(manifest.segments) if upto is None else upto
        check_count(count, manifest)
        costs = cost_model(profile, manifest, count)
        graphs = [opened.segment(k) for k in range(count)]
        del opened
        entries = segment_entries(manifest, count, tapped)
        if lean and not tapped and engine.name in _LEAN_BACKENDS:
            graphs, entries = without_heads(graphs, entries, idle_exits(policy, manifest, count))
        graphs.reverse()  # and let go of each as soon as it is open: its bytes are needed once
        segments = [
            engine.open(tapped_graph(graphs.pop(), entry) if tapped else graphs.pop(), entry, tensors, settings)
            for entry in entries
        ]
        return cls(manifest, policy, engine, segments, tapped=tapped, costs=costs, entries=entries)

    def with_policy(self, policy: Policy) -> Cascade:
        """The same segments under another policy, or other thresholds. Nothing is opened again.

        Raises:
            UsageError: The cascade is lean, and the policy needs an exit that was left out.
        """
        check_still_idle(self._idle, policy, self.manifest, self.exits)
        return self._with(policy, self._segments)

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
            for segment, entry in zip(self._segments, self._entries, strict=True)
        ]
        return self._with(self.policy, segments)

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
            return Answers.of_one(self._answer(arrays, 0))
        answers = Answers.blank(n)
        if n:
            self._resolver.fill(arrays, n, answers, degrades=self._reason is not None)
        if self._reason is not None and answers.degraded.any():
            return replace(answers, reason=self._reason)
        return answers

    def stream(
        self,
        batches: Iterable[Batch],
        *,
        wait_ms: float | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> Iterator[Answer]:
        """Answer batches one after another, each sample as soon as it is resolved.

        Samples that leave at an early exit come before samples of the same batch that need more;
        `Answer.index` says which is which.

        Args:
            batches: As for `run`.
            wait_ms: How long what is left of a batch may wait for what is left of later ones, where a
                sample costs less among many. It is looked at whenever a batch comes, and nobody is held any
                longer once all batches are there. Nobody waits when None.
            clock: Seconds.

        Raises:
            DataError: A name, dtype or shape differs from the manifest.
            BackendError: The device failed.
            UsageError: `wait_ms` is below 0.
        """
        if wait_ms is not None and not wait_ms >= 0:
            raise UsageError("the time to wait is below 0", got=f"{wait_ms} ms", expected="milliseconds, 0 or more")
        pool = None if wait_ms is None else self._pool(wait_ms / 1e3, clock)
        start = 0
        for batch in batches:
            arrays, n = self._checker.check(batch)
            if n == 1 and pool is None:
                yield self._answer(arrays, start)
            elif n and pool is not None and (pool or self._costs.pools(n)):
                pool.add(arrays, start)
                for resolved in pool.work():
                    yield from resolved.answers(0, self._reason)
            elif n:
                for resolved in self._resolver.batch(arrays, n):
                    yield from resolved.answers(start, self._reason)
            start += n
        if pool is not None:
            for resolved in pool.finish():
                yield from resolved.answers(0, self._reason)

    def warm_up(self) -> None:
        """Run every segment once on zeros, so that the first sample takes no longer than the rest.

        Raises:
            BackendError: The device failed.
        """
        self._resolver.warm_up()

    def settled(self, n: int) -> bool:
        """Whether it is decided how batches of n samples are run. The first few are run in several ways, to learn."""
        return n == 1 or not self._costs.learning(n)

    def logits(self, batch: Batch) -> NDArray[np.float32]:
        """Every exit's logits, (K, n, classes), with nobody leaving.

        Raises:
            UsageError: The cascade is lean, and has no head at some exit.
            DataError: A name, dtype or shape differs from the manifest.
            BackendError: The device failed.
        """
        if self._idle:
            raise UsageError("this cascade has no head at some exits", remedy="Cascade.open(…, lean=False)")
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
        for (segment, step), entry in zip(self._stages(), self._entries, strict=True):
            outputs, logits = segment.run(step.inputs(tensors))
            comes_out = self._tapped and entry.features is not None
            features = self._backend.to_host(outputs[-1]) if comes_out else None
            tensors = step.carry(tensors, outputs)
            del outputs
            yield features, logits

    def _with(self, policy: Policy, segments: Sequence[Segment]) -> Cascade:
        return Cascade(
            self.manifest,
            policy,
            self._backend,
            segments,
            tapped=self._tapped,
            costs=self._costs,
            entries=self._entries,
        )

    def _stages(self) -> list[tuple[Segment, Step]]:
        return list(zip(self._segments, wire(self.manifest.inputs, self._entries), strict=True))

    def _pool(self, wait_s: float, clock: Callable[[], float]) -> Pool:
        from edgeexit_runtime.pooling import Pool  # a single sample needs none

        classes = len(self.manifest.labels)
        asked = [bool(entry.logits) for entry in self._entries]
        return Pool(self._stages(), asked, self._backend, self.policy, classes, self._costs, wait_s, clock)

    def _answer(self, arrays: Sequence[NDArray[Any]], index: int) -> Answer:
        """The answer to a single sample."""
        k, verdict = self._resolver.one(arrays)
        degraded = self._reason is not None and not verdict.leave
        reason = self._reason if degraded else None
        return Answer(index, verdict.label, verdict.probability, k, verdict.score, degraded, reason)
