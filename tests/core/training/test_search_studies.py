from __future__ import annotations

from pathlib import Path

import pytest

optuna = pytest.importorskip("optuna", reason="heads are searched with Optuna")
pytest.importorskip("torch", reason="the search is part of training")

from edgeexit.errors import DataError, UsageError  # noqa: E402
from edgeexit.training.heads import HeadSpec  # noqa: E402
from edgeexit.training.search import HeadSpace, SearchTrial  # noqa: E402
from edgeexit.training.search.studies import Ledger, open_storage, quiet_optuna  # noqa: E402

SPACE = HeadSpace((6, 8, 8), 4, channels_first=True, first=HeadSpec())


def entry(spec: HeadSpec, worth: float = 0.5, *, finished: bool = True) -> SearchTrial:
    return SearchTrial(spec, 0.75, 100.0, 0.1, 0.6, worth, 2, finished, True)


def proposed(ledger: Ledger, number: int) -> list[str]:
    """The next proposals, each measured at once."""
    found = []
    for _ in range(number):
        trial = ledger.propose()
        spec = SPACE.suggest(trial)
        ledger.enter(trial, ledger.tried.get(str(spec)) or entry(spec, len(str(spec)) / 100))
        found.append(str(spec))
    return found


def test_what_was_written_down_is_read_again_to_the_bit(tmp_path: Path) -> None:
    told = entry(HeadSpec.parse("conv:8,16/32@grid=2"), 0.1 + 0.2)
    with quiet_optuna(), open_storage(tmp_path / "a.sqlite") as storage:
        ledger = Ledger(storage, "exit", {}, 0)
        trial = ledger.propose()
        SPACE.suggest(trial)
        ledger.enter(trial, told)
    with quiet_optuna(), open_storage(tmp_path / "a.sqlite") as storage:
        assert list(Ledger(storage, "exit", {}, 0).tried.values()) == [told]


def test_proposals_do_not_depend_on_when_a_search_was_stopped(tmp_path: Path) -> None:
    with quiet_optuna():
        whole = proposed(Ledger(None, "exit", {}, 3), 14)
        with open_storage(tmp_path / "a.sqlite") as storage:
            first = proposed(Ledger(storage, "exit", {}, 3), 5)
            Ledger(storage, "exit", {}, 3).propose()  # killed before it was measured
            assert first + proposed(Ledger(storage, "exit", {}, 3), 9) == whole
        assert proposed(Ledger(None, "exit", {}, 4), 14) != whole
        assert proposed(Ledger(None, "other", {}, 3), 14) != whole


def test_a_head_at_which_a_search_was_killed_twice_is_not_proposed_a_third_time(tmp_path: Path) -> None:
    found = []
    with quiet_optuna(), open_storage(tmp_path / "a.sqlite") as storage:
        for _ in range(3):
            found.append(str(SPACE.suggest(Ledger(storage, "exit", {}, 3).propose())))
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize("finished", [True, False])
def test_a_head_that_was_measured_just_before_a_kill_counts(tmp_path: Path, finished: bool) -> None:
    told = entry(SPACE.first, finished=finished)
    with quiet_optuna(), open_storage(tmp_path / "a.sqlite") as storage:
        ledger = Ledger(storage, "exit", {}, 0)
        ledger.start_with(SPACE.first_choices)
        trial = ledger.propose()
        SPACE.suggest(trial)
        trial.set_user_attr("head", {**told._asdict(), "spec": str(told.spec)})
        assert list(Ledger(storage, "exit", {}, 0).tried.values()) == [told]


def test_the_first_head_is_proposed_first_even_after_a_kill_while_it_was_tried() -> None:
    with quiet_optuna():
        ledger = Ledger(None, "exit", {}, 0)
        for _ in range(2):
            ledger.start_with(SPACE.first_choices)
            assert SPACE.suggest(ledger.propose()) == SPACE.first


def test_a_head_that_is_proposed_again_is_listed_once() -> None:
    with quiet_optuna():
        ledger = Ledger(None, "exit", {}, 0)
        for _ in range(2):
            trial = ledger.propose()
            SPACE.suggest(trial)
            ledger.enter(trial, entry(SPACE.first))
        assert len(ledger.tried) == 1
        assert ledger.proposals == 2


def test_a_search_does_not_get_stuck_at_heads_that_it_knows() -> None:
    with quiet_optuna():
        ledger = Ledger(None, "exit", {}, 0)
        proposed(ledger, 60)
        assert len(ledger.tried) > 30


def test_half_of_the_heads_that_save_less_than_others_did_by_then_are_given_up() -> None:
    with quiet_optuna():
        ledger = Ledger(None, "exit", {}, 0)
        for number in range(5):
            trial = ledger.propose()
            spec = SPACE.suggest(trial)
            assert not ledger.gives_up(trial, 1, 0.1 * number)
            ledger.enter(trial, entry(spec, 0.1 * number))
        assert ledger.gives_up(ledger.propose(), 1, 0.15)
        assert not ledger.gives_up(ledger.propose(), 1, 0.25)


def test_in_the_first_third_of_its_epochs_no_head_is_given_up() -> None:
    with quiet_optuna():
        ledger = Ledger(None, "exit", {}, 0, epochs=6)
        for _ in range(5):
            trial = ledger.propose()
            assert not any(ledger.gives_up(trial, epoch, 0.5) for epoch in range(1, 6))
            ledger.enter(trial, entry(SPACE.suggest(trial)))
        trial = ledger.propose()
        assert [ledger.gives_up(trial, epoch, 0.1) for epoch in (1, 2, 3)] == [False, True, True]


def test_a_study_that_is_not_ours_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.sqlite"
    with quiet_optuna(), open_storage(path) as storage:
        study = optuna.create_study(storage=storage, study_name="exit")
        study.tell(study.ask(), 1.0)
        with pytest.raises(UsageError, match="begun with something else"):
            Ledger(storage, "exit", {"classes": 4}, 0)


def test_a_folder_is_no_storage(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot hold a search"), open_storage(tmp_path):
        pass
