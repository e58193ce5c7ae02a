"""One Optuna study an exit, in one SQLite file that survives whatever happens to the search."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeexit.errors import DataError, MissingPartError, UsageError
from edgeexit.training.heads import HeadSpec
from edgeexit.training.loop.randomness import derived_seed
from edgeexit.training.search.results import SearchTrial

if TYPE_CHECKING:
    from optuna.storages import RDBStorage
    from optuna.trial import FrozenTrial, Trial

__all__ = ["Ledger", "open_storage", "quiet_optuna"]

_BEGUN_WITH = "edgeexit"
_HEAD = "head"
_RANDOM_TRIALS = 8
_UNPRUNED_TRIALS = 4
_SEEDS = 2**32
_KILLS = 2


@contextmanager
def quiet_optuna() -> Iterator[None]:
    """Within this, Optuna says nothing of its own.

    Raises:
        MissingPartError: It is not installed.
    """
    try:
        import optuna
    except ModuleNotFoundError as error:
        if error.name != "optuna":
            raise
        raise MissingPartError.package("searching heads", "edgeexit[train]") from error
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(before)


@contextmanager
def open_storage(path: Path | None) -> Iterator[RDBStorage | None]:
    """The SQLite file, made where there is none; None keeps the studies in memory.

    Raises:
        DataError: It is there and is something else, or cannot be written, now or later.
    """
    if path is None:
        yield None
        return
    from optuna.exceptions import StorageInternalError
    from optuna.storages import RDBStorage
    from sqlalchemy.engine import URL
    from sqlalchemy.exc import DatabaseError

    try:
        storage = RDBStorage(URL.create("sqlite", database=str(path)).render_as_string())
    except (DatabaseError, StorageInternalError, RuntimeError) as error:  # RuntimeError: of another Optuna
        raise DataError(
            f"{path} cannot hold a search",
            got=str(error).splitlines()[0],
            expected="a file that an earlier search has written, or none in a folder that can be written to",
            remedy="name another file",
        ) from error
    try:
        yield storage
    except (DatabaseError, StorageInternalError) as error:
        raise DataError(
            f"the search can no longer be written to {path}",
            got=str(error.__cause__ or error).splitlines()[0],
            remedy="make room, see that nobody else writes there, and begin again: what is written down is kept",
        ) from error
    finally:
        storage.remove_session()
        storage.engine.dispose()


class Ledger:
    """The study of one exit in the words of a search. Only one process may search in a storage at a time.

    What was being tried when a search was killed is struck out, unless it had been measured.

    Args:
        storage: Where the study is kept; None for memory.
        name: Of the exit.
        begun_with: All that the worth of a trial depends on, JSON values; a study goes on with the same alone.
        seed: Of the proposals.
        epochs: Of a trial; in the first third of them none is given up.

    Raises:
        UsageError: The storage holds a study of this name that was begun with something else.
    """

    def __init__(
        self, storage: RDBStorage | None, name: str, begun_with: Mapping[str, object], seed: int, *, epochs: int = 1
    ) -> None:
        import optuna

        self._name, self._seed = name, seed
        pruner = optuna.pruners.MedianPruner(_UNPRUNED_TRIALS, n_warmup_steps=math.ceil(epochs / 3))
        self._study = optuna.create_study(
            storage=storage, study_name=name, direction="maximize", pruner=pruner, load_if_exists=True
        )
        wanted = json.loads(json.dumps(begun_with))
        found = self._study.user_attrs.get(_BEGUN_WITH)
        if found is None and not self._study.get_trials(deepcopy=False):
            self._study.set_user_attr(_BEGUN_WITH, wanted)
        elif found != wanted:
            raise _other(name, found, wanted)
        for trial in self._study.get_trials(states=(optuna.trial.TrialState.RUNNING,)):
            self._close(trial.number, trial)

    @property
    def proposals(self) -> int:
        """How many heads were proposed and are done with."""
        return sum(_HEAD in trial.user_attrs for trial in self._study.get_trials(deepcopy=False))

    @property
    def tried(self) -> dict[str, SearchTrial]:
        """The heads tried, each once, in their order, by their text."""
        found: dict[str, SearchTrial] = {}
        for trial in self._study.get_trials(deepcopy=False):
            if trial.state.is_finished() and _HEAD in trial.user_attrs:
                entry = _entry(trial.user_attrs[_HEAD])
                found.setdefault(str(entry.spec), entry)
        return found

    def start_with(self, parameters: Mapping[str, int | str]) -> None:
        """Let the first proposal be this one."""
        from optuna.trial import TrialState

        if not self._study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
            self._study.enqueue_trial(dict(parameters))

    def propose(self) -> Trial:
        """The next proposal. It follows from the seed, the name, and the trials before.

        After a head that is known already, the next one is drawn at random. What was being tried when a search
        was killed is proposed again, but not a third time: it may be too large for this machine.
        """
        from optuna.samplers import RandomSampler, TPESampler
        from optuna.trial import TrialState

        trials = self._study.get_trials(deepcopy=False)
        done = [number for number, trial in enumerate(trials) if _HEAD in trial.user_attrs]
        killed = sum(trial.state == TrialState.FAIL for trial in trials[done[-1] + 1 if done else 0 :])
        again = killed if killed >= _KILLS else 0
        seed = derived_seed(self._seed, self._name, len(done), again) % _SEEDS
        if done and trials[done[-1]].state == TrialState.FAIL:
            self._study.sampler = RandomSampler(seed=seed)
        else:
            self._study.sampler = TPESampler(seed=seed, n_startup_trials=_RANDOM_TRIALS, multivariate=True, group=True)
        return self._study.ask()

    def gives_up(self, trial: Trial, epoch: int, worth: float) -> bool:
        """Whether the head is worth less after so many epochs than half of those trained to the end were."""
        trial.report(worth, epoch)
        return trial.should_prune()

    def enter(self, trial: Trial, entry: SearchTrial) -> None:
        """Write down what came of a proposal; a head that was tried before counts for nothing."""
        trial.set_user_attr(_HEAD, {**entry._asdict(), "spec": str(entry.spec)})
        frozen = self._study.get_trials(deepcopy=False)[trial.number]
        self._close(trial.number, frozen)

    def _close(self, number: int, trial: FrozenTrial) -> None:
        from optuna.trial import TrialState

        entry = _entry(trial.user_attrs[_HEAD]) if _HEAD in trial.user_attrs else None
        if entry is None or str(entry.spec) in self.tried:
            self._study.tell(number, state=TrialState.FAIL)
        elif entry.finished:
            self._study.tell(number, entry.worth)
        else:
            self._study.tell(number, state=TrialState.PRUNED)


def _entry(stored: Mapping[str, Any]) -> SearchTrial:
    return SearchTrial(**{**stored, "spec": HeadSpec.parse(stored["spec"])})


def _other(name: str, found: object, wanted: Mapping[str, object]) -> UsageError:
    known = found if isinstance(found, dict) else {}
    keys = [key for key in {**known, **wanted} if known.get(key) != wanted.get(key)]
    return UsageError(
        f"the search of exit {name!r} was begun with something else",
        got=", ".join(f"{key} {wanted.get(key)}" for key in keys),
        expected=", ".join(f"{key} {known.get(key)}" for key in keys) if known else "a study of EdgeExit",
        remedy="go on with the same settings and data, or name another storage",
    )
