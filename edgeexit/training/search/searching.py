"""The search: for each exit heads are proposed, tried, and written down, until there are enough or time is up."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import msgspec

from edgeexit.console import Advance, progress, say
from edgeexit.errors import UsageError
from edgeexit.training.frozen import ActivationFeed
from edgeexit.training.loop.hosting import choose_device, heads_in_bf16
from edgeexit.training.search.measuring import Measuring
from edgeexit.training.search.recording import Recording, record
from edgeexit.training.search.results import SearchPlace, SearchResult, SearchSettings
from edgeexit.training.search.space import HeadSpace
from edgeexit.training.search.studies import Ledger, open_storage, quiet_optuna
from edgeexit.training.settings import FREE_SETTINGS, TrainSettings

__all__ = ["search_heads"]

STORAGE = "search.sqlite"
_HELD_PART = 0.25
_PROPOSALS = 3
"""For each head that should be tried: the space may be smaller than that, or the sampler stuck."""


def search_heads(
    feed: ActivationFeed,
    held: ActivationFeed,
    places: Sequence[SearchPlace],
    whole_macs: float,
    classes: int,
    settings: SearchSettings,
    *,
    training: TrainSettings,
    folder: Path | None = None,
    quiet: bool = False,
    clock: Callable[[], float] = time.monotonic,
) -> list[SearchResult]:
    """For each exit the head that is worth most: accurate and cheap; see `edgeexit.training.search.objective`.

    Heads that the storage knows are not trained again, and count as tried. What is found follows from the seeds and
    the data, whether or not the search was stopped (but for a head at which it was stopped twice, which is left
    out); with `timeout_s` from the machine as well.

    Args:
        feed: Activations to train on, one value an exit in the order of `places`.
        held: Activations to measure on: other samples, and none by which the finished cascade is judged.
        places: Where the heads read.
        whole_macs: MACs of the whole model, for one sample.
        classes: C.
        settings: How long to search, and what is tolerated.
        training: How heads are trained, in a frozen mode; but none stops early here.
        folder: Of the run: `search.sqlite` in it is the storage, if the settings name none.
        quiet: Show no progress.
        clock: Seconds, for `timeout_s`.

    Returns:
        One result a place, in their order.

    Raises:
        MissingPartError: Optuna is not installed.
        UsageError: The storage's search was begun with something else; a name is there twice; there is room for too
            few activations.
        DataError: The storage cannot be used; the activations change their shapes, or there are none.
    """
    names = [place.name for place in places]
    if len(set(names)) < len(names):
        raise UsageError("two exits of a search have one name", got=", ".join(names))
    path = Path(settings.storage) if settings.storage else folder / STORAGE if folder else None
    with quiet_optuna(), open_storage(path) as storage:
        seen, unseen = _recorded(feed, held, settings, training.seed, quiet=quiet)
        training = msgspec.structs.replace(training, epochs=settings.epochs or training.epochs, patience=0)
        searches = []
        for k, place in enumerate(places):
            measuring = Measuring(place, seen.only(k), unseen.only(k), whole_macs, classes, settings.max_drop, training)
            space = HeadSpace(place.shape, classes, channels_first=place.channels_first, first=settings.first)
            ledger = Ledger(storage, place.name, _begun_with(measuring, space), settings.seed, epochs=training.epochs)
            searches.append((ledger, space, measuring))
        with progress("searching heads", len(searches) * settings.trials, quiet=quiet) as advance:
            end = clock() + settings.timeout_s if settings.timeout_s else math.inf
            for left, search in zip(range(len(searches), 0, -1), searches, strict=True):
                until = clock() + (end - clock()) / left
                _search(*search, settings.trials, partial(_late, clock, until), advance)
        return [_result(place.name, ledger) for place, (ledger, _, _) in zip(places, searches, strict=True)]


def _search(
    ledger: Ledger, space: HeadSpace, measuring: Measuring, trials: int, late: Callable[[], bool], advance: Advance
) -> None:
    """Try heads at one exit until there are `trials` of them, or it is late; the first one in any case."""
    tried = ledger.tried
    if not tried:
        ledger.start_with(space.first_choices)
    advance(min(len(tried), trials))
    while len(tried) < trials and ledger.proposals < _PROPOSALS * trials and not (tried and late()):
        trial = ledger.propose()
        spec = space.suggest(trial)
        entry = tried.get(str(spec))
        if entry is None:
            best = max((known.worth for known in tried.values() if known.finished), default=None)
            entry = measuring.trial(spec, best, partial(ledger.gives_up, trial))
            advance(1)
        ledger.enter(trial, entry)
        tried = ledger.tried
    advance(max(0, trials - len(tried)))


def _late(clock: Callable[[], float], until: float) -> bool:
    return clock() >= until


def _result(name: str, ledger: Ledger) -> SearchResult:
    """The head that is worth most of those trained to the end; of equals the cheaper, then the earlier.

    Where none learned anything, nothing is known about which is best: the first one.
    """
    trials = tuple(ledger.tried.values())
    best = max((trial for trial in trials if trial.finished), key=lambda trial: (trial.worth, -trial.macs))
    if not best.converged:
        best = trials[0]
    return SearchResult(name, best.spec, best.accuracy, best.macs, best.saving, best.worth, best.converged, trials)


def _recorded(
    feed: ActivationFeed, held: ActivationFeed, settings: SearchSettings, seed: int, *, quiet: bool
) -> tuple[Recording, Recording]:
    """Both feeds recorded, the one to train on in a new order each epoch."""
    folder = Path(settings.record_folder) if settings.record_folder else None
    room = settings.record_bytes
    unseen = held if isinstance(held, Recording) else None
    if unseen is None:
        unseen = record(held, int(room * _HELD_PART), folder=folder, quiet=quiet, what="recording held-out activations")
        room -= unseen.size_bytes
    seen = feed if isinstance(feed, Recording) else record(feed, room, seed=seed, folder=folder, quiet=quiet)
    if not quiet:
        say(f"searching heads on {seen.note}, and measuring them on {unseen.note}")
    return seen, unseen


def _begun_with(measuring: Measuring, space: HeadSpace) -> dict[str, object]:
    """What the worth of a head depends on: a storage is only for searches in which all of it is the same."""
    place, unseen = measuring.place, measuring.unseen
    known = unseen.teacher.argmax(axis=1) if unseen.labels is None else unseen.labels
    training = {
        f"training {name}": value
        for name, value in msgspec.to_builtins(measuring.training).items()
        if name not in (*FREE_SETTINGS, "device")
    }
    halved = heads_in_bf16(measuring.training, choose_device(measuring.training.device))
    return {
        "version": 1,
        "shape": list(place.shape),
        "channels first": place.channels_first,
        "MACs before": place.macs_before,
        "MACs of the whole model": measuring.whole,
        "classes": measuring.classes,
        "largest drop": measuring.max_drop,
        "first head": str(space.first),
        "samples": [measuring.seen.samples, unseen.samples],
        "labels": unseen.labels is not None,
        "held-out answers": hashlib.sha256(known.astype("<i8").tobytes()).hexdigest()[:16],
        **({"precision of the heads": "bf16"} if halved else {}),
        **training,
    }
