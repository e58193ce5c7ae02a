"""`edgeexit bench`: rivals of other packages, and the contenders that are timed when asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeexit.bundle import Bundle
from edgeexit.errors import ModelError, UsageError
from edgeexit_runtime import Cascade, SessionSettings
from edgeexit_runtime.bench import MIN_ROUNDS, PAUSE_S, STREAM_BATCHES, Contenders, bench_batch, nobody_leaves
from edgeexit_runtime.rivals import KNOWN_RIVALS, choose_rivals, open_rivals
from edgeexit_runtime.whole import as_it_comes, merged_whole
from runtime.cascades import COMMANDS, EXITS, F32, batch_of, fake_cascade, rows_run, write_tiny

Cli = Callable[..., Any]

QUICK = ("--seconds", 0, "--rivals", "none", "--no-memory", "--json")


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return Bundle.open(write_tiny(tmp_path / "tiny"))


class Told:
    """A rival that notes what it is given."""

    def __init__(self, name: str = "told", largest_batch: int | None = None) -> None:
        self.name = name
        self.largest_batch = largest_batch
        self.calls: list[tuple[int, tuple[int, ...]]] = []

    def __call__(self, batch: Mapping[str, Any], exits: Any) -> None:
        self.calls.append((len(next(iter(batch.values()))), tuple(exits.tolist())))


class Ready:
    """An entry point that gives a factory, or fails as one does."""

    def __init__(self, made: object) -> None:
        self._made = made

    def load(self) -> Callable[..., Any]:
        def factory(bundle: Bundle, threads: int) -> Any:
            if isinstance(self._made, Exception):
                raise self._made
            return self._made

        return factory


def x(*leaves_at: int) -> dict[str, Any]:
    return {"x": batch_of(*leaves_at)}


def timed(cascade: Cascade, pool: dict[str, Any], batch: int, threads: int = 1, **more: Any) -> Any:
    pauses: list[float] = []
    contenders = Contenders(cascade=cascade, chain=lambda batch: None, whole=None, ideal=None, **more)  # type: ignore[arg-type]
    row = bench_batch(contenders, pool, batch=batch, threads=threads, seconds=0, pause=pauses.append)
    return row, pauses


def test_names_of_rivals_are_chosen_by_a_word_or_a_list() -> None:
    installed = {"eager": None, "mine": None}
    assert choose_rivals("all", installed) == (*KNOWN_RIVALS, "mine")
    assert choose_rivals("quick", installed) == tuple(n for n in (*KNOWN_RIVALS, "mine") if n != "compiled")
    assert choose_rivals("none", installed) == ()
    assert choose_rivals("if, mine", installed) == ("if", "mine")


@pytest.mark.parametrize("words", ["", "eager,", "Eager", "eager;if"])
def test_a_name_that_no_rival_has_is_a_usage_error(words: str) -> None:
    with pytest.raises(UsageError, match="no such rival"):
        choose_rivals(words, {})


def test_a_rival_that_cannot_be_had_is_missing_with_its_reason(bundle: Bundle) -> None:
    installed: Any = {
        "here": Ready(Told()),
        "refused": Ready(ModelError("no torch equivalent of LSTM")),
        "failed": Ready(ModelError("torch.compile failed", got="no compiler")),
        "eager": Ready(ModuleNotFoundError("No module named 'torch'", name="torch")),
    }
    rivals = open_rivals(["here", "refused", "failed", "eager", "if"], bundle, 1, installed)
    assert list(rivals.ready) == ["here"]
    assert rivals.missing == {
        "refused": "no torch equivalent of LSTM",
        "failed": "torch.compile failed: no compiler",
        "eager": "torch is not installed",
        "if": "pip install 'edgeexit-exporters[torch]'",
    }


def test_a_rival_is_told_where_the_cascade_lets_each_sample_leave() -> None:
    rival = Told()
    row, _ = timed(fake_cascade(EXITS), x(0, 1, 2, 0), 2, rivals={"told": rival})
    assert set(rival.calls) == {(2, (0, 1)), (2, (2, 0))}
    assert len(rival.calls) == 2 * (MIN_ROUNDS + 1)
    assert (list(row.rivals_ms), list(row.rivals_over_cascade), row.missing) == (["told"], ["told"], {})


def test_a_batch_that_a_rival_does_not_take_leaves_it_out_with_the_reason() -> None:
    rival = Told(largest_batch=1)
    row, _ = timed(fake_cascade(EXITS), x(0, 1, 2, 0), 2, rivals={"told": rival})
    assert (rival.calls, row.rivals_ms, row.missing) == ([], {}, {"told": "takes at most 1 samples"})


def test_every_rival_asked_for_has_its_keys_in_the_document() -> None:
    row, _ = timed(fake_cascade(EXITS), x(0, 1), 1, rivals={"if-local": Told("if-local")})
    document = row.document(["eager", "if-local"])
    assert document["if_local_ms"] > 0
    assert document["if_local_over_cascade"] > 0
    assert (document["eager_ms"], document["eager_over_cascade"]) == (None, None)


def test_threads_that_go_on_spinning_are_waited_for_where_they_disturb() -> None:
    cascade, pool = fake_cascade(EXITS), x(0, 1)
    assert timed(cascade, pool, 1, threads=1, rivals={"told": Told()})[1] == []
    assert set(timed(cascade, pool, 1, threads=2, rivals={"told": Told()})[1]) == {PAUSE_S}


def test_with_thresholds_that_no_score_reaches_every_check_is_run_and_nobody_leaves() -> None:
    cascade = nobody_leaves(fake_cascade(EXITS))
    assert cascade.run(batch_of(0, 1, 2, 0)).exit.tolist() == [EXITS - 1] * 4
    assert rows_run(cascade) == [[4]] * EXITS


def test_a_stream_is_long_enough_to_pool_and_counted_by_batch() -> None:
    lengths: list[int] = []
    row, _ = timed(fake_cascade(EXITS), x(0, 1, 2, 0), 2, stream=lambda batches: lengths.append(len(batches)))
    assert set(lengths) == {STREAM_BATCHES}
    assert row.stream_ms is not None


def test_the_model_as_it_comes_answers_as_the_whole_model(bundle: Bundle) -> None:
    whole = merged_whole(bundle, SessionSettings())
    assert whole is not None
    batch = {"x": np.random.default_rng(0).standard_normal((5, 4)).astype(F32)}
    np.testing.assert_allclose(as_it_comes(whole, 1)(batch)[0], whole(batch)[0], rtol=1e-6)  # type: ignore[index]


def test_the_extra_contenders_have_figures_when_they_are_asked_for(cli: Cli, tmp_path: Path) -> None:
    path = write_tiny(tmp_path / "tiny")
    row = cli("bench", path, *QUICK, "--batch", 2, "--nobody-leaves", "--stream", 5, commands=COMMANDS).document()[
        "rows"
    ][0]
    for key in ("default_ms", "full_length_ms", "full_length_over_full", "stream_ms", "stream_over_full"):
        assert row[key] > 0
    plain = cli("bench", path, *QUICK, "--batch", 2, commands=COMMANDS).document()["rows"][0]
    assert (plain["full_length_ms"], plain["stream_ms"]) == (None, None)


def test_there_is_a_row_for_every_number_of_threads(cli: Cli, tmp_path: Path) -> None:
    path = write_tiny(tmp_path / "tiny")
    rows = cli("bench", path, *QUICK, "--batch", "1,2", "--threads", "1,2", commands=COMMANDS).document()["rows"]
    assert [(row["threads"], row["batch"]) for row in rows] == [(1, 1), (1, 2), (2, 1), (2, 2)]


def test_a_rival_that_is_not_installed_is_null_with_the_reason(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgeexit_runtime.commands.bench.installed_rivals", dict)
    words = ("--seconds", 0, "--no-memory", "--json", "--rivals", "eager", "--batch", 1)
    document = cli("bench", write_tiny(tmp_path / "tiny"), *words, commands=COMMANDS).document()
    assert document["rivals_missing"] == {"eager": "pip install 'edgeexit-exporters[torch]'"}
    assert (document["rows"][0]["eager_ms"], document["rows"][0]["eager_over_cascade"]) == (None, None)


def test_a_rival_that_nobody_knows_ends_with_exit_code_2(cli: Cli, tmp_path: Path) -> None:
    assert cli("bench", write_tiny(tmp_path / "tiny"), "--rivals", "slow", commands=COMMANDS).code == 2
