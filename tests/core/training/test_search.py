from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from itertools import count
from pathlib import Path

import msgspec
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="heads are trained with torch")
optuna = pytest.importorskip("optuna", reason="heads are searched with Optuna")

from core.training.search_material import CLASSES, PLACES, TRAINING, WHOLE, recording, settings  # noqa: E402
from edgeexit.errors import DataError, MissingPartError, UsageError  # noqa: E402
from edgeexit.training.heads import HeadSpec  # noqa: E402
from edgeexit.training.search import Recording, SearchResult, SearchSettings, SearchTrial, pareto, search_heads  # noqa: E402
from edgeexit.training.search.measuring import Measuring  # noqa: E402


def search(plan: SearchSettings, feed: Recording | None = None, **options: object) -> list[SearchResult]:
    seen = recording(seed=1) if feed is None else feed
    given = {"places": PLACES, "whole_macs": WHOLE, "classes": CLASSES, "training": TRAINING, "quiet": True}
    given |= {"held": recording(200, seed=2), **options}
    return search_heads(seen, settings=plan, **given)


class Counting(Recording):
    """Counts the epochs that were trained on."""

    def __init__(self, like: Recording, counted: list[int]) -> None:
        super().__init__(like.values, like.teacher, like.labels, like.mask, batch=like.batch, seed=like.seed)
        self.counted = counted

    def only(self, exit_: int) -> Counting:
        return Counting(super().only(exit_), self.counted)

    def epoch(self, number: int, start: int = 0) -> Iterator[object]:
        self.counted.append(number)
        return super().epoch(number, start)


def test_the_first_head_tried_is_that_of_no_search_and_the_best_is_never_worse() -> None:
    for result in search(settings()):
        first = result.trials[0]
        assert first.finished
        assert first.spec.kind == "linear"
        assert result.worth == max(trial.worth for trial in result.trials if trial.finished) >= first.worth > 0


def test_as_many_different_heads_are_tried_as_asked_for() -> None:
    for result in search(settings(trials=5)):
        assert len({str(trial.spec) for trial in result.trials}) == len(result.trials) == 5


def test_a_head_that_the_user_names_is_the_first_one_tried() -> None:
    [result] = search(
        settings(trials=1, first=HeadSpec(kind="linear", hidden=(7,))),
        places=PLACES[1:],
        feed=only_late(1),
        held=only_late(2),
    )
    assert result.spec.hidden == (7,)


def only_late(seed: int) -> Recording:
    return recording(200, seed=seed).only(1)


def test_a_search_that_goes_on_finds_what_one_search_would_have_and_trains_nothing_twice(tmp_path: Path) -> None:
    whole = search(settings(trials=6))
    search(settings(trials=3), folder=tmp_path)
    epochs: list[int] = []
    search(settings(trials=3), Counting(recording(seed=1), epochs), folder=tmp_path)
    assert epochs == []
    assert search(settings(trials=6), folder=tmp_path) == whole


KILLED = """
import os, signal, sys
from pathlib import Path
import torch
from core.training.search_material import CLASSES, PLACES, TRAINING, WHOLE, recording, settings
from core.training.test_search import Counting
from edgeexit.training.search import search_heads

class Killing(list):
    def append(self, epoch):
        super().append(epoch)
        if len(self) == 6:
            os.kill(os.getpid(), signal.SIGKILL)

torch.set_num_threads(1)
feed = Counting(recording(seed=1), Killing())
search_heads(
    feed, recording(200, seed=2), PLACES, WHOLE, CLASSES, settings(), training=TRAINING, folder=Path(sys.argv[1])
)
"""


def test_a_search_killed_while_it_trains_goes_on_as_if_nothing_had_been(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])}
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], env=environment, timeout=120, check=False)
    assert done.returncode == -signal.SIGKILL
    epochs: list[int] = []
    assert search(settings(), Counting(recording(seed=1), epochs), folder=tmp_path) == search(settings())
    again: list[int] = []
    search(settings(), Counting(recording(seed=1), again))
    assert 0 < len(epochs) < len(again)


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a search."""
    folder = tmp_path_factory.mktemp("search")
    search(settings(trials=1), folder=folder)
    return folder


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"plan": settings(epochs=3)}, "training epochs 3"),
        ({"plan": settings(max_drop=0.2)}, "largest drop 0.2"),
        ({"plan": settings(first=HeadSpec(hidden=(9,)))}, "first head linear/9"),
        ({"training": msgspec.structs.replace(TRAINING, rate=0.5)}, "training rate 0.5"),
        ({"classes": 5}, "classes 5"),
        ({"whole_macs": 3e6}, "MACs of the whole model 3000000"),
        ({"held": recording(200, seed=3)}, "held-out answers"),
    ],
)
def test_a_storage_begun_with_something_else_is_refused_by_name(
    begun: Path, changed: dict[str, object], named: str
) -> None:
    with pytest.raises(UsageError, match="begun with something else") as refused:
        search(**{"plan": settings(trials=1), **changed}, folder=begun)
    assert named in str(refused.value.got)


def test_a_file_that_is_no_storage_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "search.sqlite").write_bytes(b"a diary" * 1000)
    with pytest.raises(DataError, match="cannot hold a search"):
        search(settings(), folder=tmp_path)
    assert (tmp_path / "search.sqlite").read_bytes() == b"a diary" * 1000


def test_a_storage_with_a_strange_name_is_that_file(tmp_path: Path) -> None:
    path = tmp_path / "50% of #1?x=ü.sqlite"
    search(settings(trials=1, storage=str(path)))
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere"):
        search(settings(storage=str(tmp_path / "nowhere" / "search.sqlite")))


def test_a_storage_that_is_spoiled_while_the_search_goes_on_is_named(tmp_path: Path) -> None:
    ticks = count()

    def spoiling() -> float:
        if next(ticks) == 4:
            with closing(sqlite3.connect(tmp_path / "search.sqlite")) as other:
                other.execute("drop table trial_values")
        return 0.0

    with pytest.raises(DataError, match=r"can no longer be written to .*search\.sqlite"):
        search(settings(timeout_s=1.0), folder=tmp_path, clock=spoiling)


def test_without_optuna_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(MissingPartError, match=r"edgeexit\[train\]"):
        search(settings())


def test_with_no_time_each_exit_still_tries_its_first_head() -> None:
    ticks = count(0.0, 100.0)
    results = search(settings(timeout_s=1.0), clock=lambda: next(ticks))
    assert [len(result.trials) for result in results] == [1, 1]


def test_optuna_keeps_silent_and_is_left_as_it_was(capfd: pytest.CaptureFixture[str]) -> None:
    before = optuna.logging.get_verbosity()
    search(settings(trials=2), quiet=False)
    shown = capfd.readouterr()
    assert "searching heads: 4/4" in shown.err
    assert "rial" not in shown.err + shown.out
    assert optuna.logging.get_verbosity() == before


def test_where_nothing_can_be_learned_the_first_head_stays_and_is_said_to_save_nothing() -> None:
    blank = {seed: recording(200, seed=seed, skill=0.0) for seed in (1, 2)}
    for result in search(settings(trials=3, max_drop=0.0), blank[1], held=blank[2]):
        assert result.saving < 0
        assert not result.converged
        assert result.spec == result.trials[0].spec


def test_a_head_that_costs_more_than_is_behind_the_exit_is_not_trained() -> None:
    tiny = [place._replace(macs_before=0.999 * 4000) for place in PLACES]
    for result in search(settings(), whole_macs=4000.0, places=tiny):
        assert [trial.epochs for trial in result.trials[1:] if trial.macs > result.trials[0].macs] == [0] * sum(
            trial.macs > result.trials[0].macs for trial in result.trials[1:]
        )


def measuring() -> Measuring:
    seen, unseen = recording(seed=1).only(1), recording(200, seed=2).only(1)
    training = msgspec.structs.replace(TRAINING, epochs=3)
    return Measuring(PLACES[1], seen, unseen, WHOLE, CLASSES, 0.1, training)


def test_a_head_is_given_up_after_the_epoch_at_which_that_is_asked_for() -> None:
    asked: list[int] = []

    def second(epoch: int, worth: float) -> bool:
        asked.append(epoch)
        return epoch == 2

    trial = measuring().trial(HeadSpec(kind="linear"), None, second)
    assert asked == [1, 2]
    assert (trial.epochs, trial.finished) == (2, False)
    assert trial.accuracy > 0


def test_looking_at_a_head_between_epochs_does_not_change_what_it_learns() -> None:
    looked = measuring().trial(HeadSpec(kind="linear", dropout=0.3), None, lambda epoch, worth: False)
    [alone] = search(
        settings(trials=1, epochs=3, first=HeadSpec(kind="linear", dropout=0.3)),
        recording(seed=1).only(1), held=recording(200, seed=2).only(1), places=PLACES[1:],
    )  # fmt: skip
    assert looked == alone.trials[0]


def test_unless_it_is_told_otherwise_heads_are_trained_as_long_as_training_does() -> None:
    training = msgspec.structs.replace(TRAINING, epochs=3)
    for result in search(settings(trials=1, epochs=0), training=training):
        assert result.trials[0].epochs == 3


def test_two_exits_of_one_name_are_refused() -> None:
    with pytest.raises(UsageError, match="one name"):
        search(settings(), places=[PLACES[0], PLACES[0]])


@pytest.mark.parametrize("wrong", [{"trials": 0}, {"epochs": -1}, {"max_drop": float("nan")}, {"timeout_s": -1.0}])
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        SearchSettings(**wrong)


def entry(accuracy: float, macs: float, *, finished: bool = True) -> SearchTrial:
    return SearchTrial(HeadSpec(), accuracy, macs, 0.0, 0.0, 0.0, 1, finished, True)


def test_the_front_rises_and_leaves_nothing_out_that_is_both_better_and_cheaper() -> None:
    random = np.random.default_rng(0)
    trials = [entry(float(a), float(m)) for a, m in random.integers(0, 8, (60, 2))]
    front = pareto([*trials, entry(9.0, 0.0, finished=False)])
    assert [trial.macs for trial in front] == sorted({trial.macs for trial in front})
    assert [trial.accuracy for trial in front] == sorted({trial.accuracy for trial in front})
    for trial in trials:
        assert any(best.macs <= trial.macs and best.accuracy >= trial.accuracy for best in front)
