"""`edgeexit bench`: what is compared, on which samples, and what the figures mean."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeexit.bundle import Bundle
from edgeexit_runtime import Cascade, SessionSettings
from edgeexit_runtime.bench import MIN_ROUNDS, Contenders, bench_batch, mixed_pool
from edgeexit_runtime.contenders import bare_chain, ideal_chain
from edgeexit_runtime.whole import merged_whole, whole_from_file
from runtime.cascades import COMMANDS, EXITS, F32, forward, tiny_parts, write_pair, write_tiny

Cli = Callable[..., Any]

SETTINGS = SessionSettings()
QUICK = ("--seconds", 0, "--rivals", "none", "--no-memory")
ROW_KEYS = [
    "batch",
    "threads",
    "full_ms",
    "chain_ms",
    "cascade_ms",
    "ideal_ms",
    "chain_over_full",
    "cascade_over_full",
    "realised_over_ideal",
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_tiny(tmp_path / "tiny.eexit")


@pytest.fixture
def bundle(path: Path) -> Bundle:
    return Bundle.open(path)


def x(n: int) -> dict[str, Any]:
    return {"x": np.random.default_rng(9).standard_normal((n, 4)).astype(F32)}


def bench(cli: Cli, path: Path, *more: object) -> Any:
    return cli("bench", path, *QUICK, "--json", *more, commands=COMMANDS).document()


def test_there_is_a_row_with_the_promised_keys_for_every_batch_size(cli: Cli, path: Path) -> None:
    rows = bench(cli, path, "--batch", "1,4,200")["rows"]
    assert [row["batch"] for row in rows] == [1, 4, 200]
    for row in rows:
        assert [key for key in row if key in ROW_KEYS] == ROW_KEYS
        assert all(row[key] > 0 for key in ROW_KEYS)


def test_the_machine_is_described(cli: Cli, path: Path) -> None:
    machine = bench(cli, path, "--batch", "1")["machine"]
    assert machine["cores"] >= 1
    assert {"cpu", "architecture", "system", "python", "packages"} <= machine.keys()


def test_without_data_the_exits_have_the_shares_of_the_calibration_split(cli: Cli, path: Path) -> None:
    document = bench(cli, path, "--batch", "8")
    assert (document["samples_from"], document["rows"][0]["exit_shares"]) == ("golden samples", [1, 0, 0])


def test_with_data_the_exits_have_its_own_shares(cli: Cli, path: Path, tmp_path: Path) -> None:
    labels = forward(x(128)["x"])[-1].argmax(axis=1)
    np.savez(tmp_path / "data.npz", x=x(128)["x"], y=labels)
    document = bench(cli, path, "--batch", "8", "--data", tmp_path / "data.npz")
    shares = np.bincount(Cascade.open(path).run(x(128)).exit, minlength=EXITS) / 128
    assert (document["samples_from"], document["rows"][0]["exit_shares"]) == ("data", pytest.approx(shares))


def test_where_onnx_is_missing_its_figures_are_null(cli: Cli, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    document = bench(cli, path, "--batch", "2")
    row = document["rows"][0]
    assert (document["chain_includes_heads"], document["full_from"]) == (True, None)
    nulls = ("full_ms", "ideal_ms", "chain_over_full", "cascade_over_full", "realised_over_ideal")
    assert [row[key] for key in nulls] == [None] * len(nulls)
    assert row["chain_ms"] > 0


def test_a_file_can_stand_for_the_whole_model(
    cli: Cli, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, contents = tiny_parts()
    (tmp_path / "whole.onnx").write_bytes(contents["segments/02.onnx"])
    monkeypatch.setitem(sys.modules, "onnx", None)
    document = bench(cli, path, "--batch", "2", "--whole", tmp_path / "whole.onnx")
    assert document["full_from"] == "file"
    assert document["rows"][0]["chain_over_full"] > 0


def test_a_file_that_is_no_model_ends_with_exit_code_4(cli: Cli, path: Path, tmp_path: Path) -> None:
    (tmp_path / "whole.onnx").write_bytes(b"nonsense")
    outcome = cli("bench", path, *QUICK, "--whole", tmp_path / "whole.onnx", commands=COMMANDS)
    assert (outcome.code, "whole.onnx" in outcome.stderr) == (4, True)


@pytest.mark.parametrize("sizes", ["0", "1,,2", "1;2", "a", ""])
def test_sizes_that_are_no_batch_sizes_are_a_usage_error(cli: Cli, path: Path, sizes: str) -> None:
    assert cli("bench", path, "--batch", sizes, commands=COMMANDS).code == 2


def test_a_table_is_printed_for_people(cli: Cli, path: Path) -> None:
    assert "ideal/cascade" in cli("bench", path, "--batch", "2", *QUICK, commands=COMMANDS).stdout


def test_a_file_whose_inputs_are_the_bundles_gets_its_samples(bundle: Bundle, tmp_path: Path) -> None:
    _, contents = tiny_parts()
    (tmp_path / "first.onnx").write_bytes(contents["segments/02.onnx"])
    whole = whole_from_file(tmp_path / "first.onnx", bundle, SETTINGS)
    assert whole(x(5))[0].shape == (5, 3)  # h1 (n, 8) is no input of the bundle: noise of the same length


def test_the_merged_model_answers_as_the_last_exit(bundle: Bundle) -> None:
    whole = merged_whole(bundle, SETTINGS)
    assert whole is not None
    np.testing.assert_allclose(whole(x(9))[0], forward(x(9)["x"])[-1], rtol=1e-5, atol=1e-5)


class Clock:
    """A clock that a contender moves by what it costs."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_ideal_times_each_segment_on_those_who_get_there(bundle: Bundle) -> None:
    ideal = ideal_chain(bundle, SETTINGS)
    assert ideal is not None
    ran: list[int] = []
    for link in ideal.links:
        bound = link.graph.bound

        def counted(arrays: Any, bound: Any = bound) -> Any:
            graph = bound(arrays)
            return lambda: ran.append(len(next(iter(arrays.values())))) or graph()

        link.graph.bound = counted  # type: ignore[method-assign]
    ideal.survivors_s(x(4), np.array([0, 2, 1, 0]), lambda: 0.0)
    assert ran == [4, 2, 1]


def test_ideal_stops_where_nobody_is_left(bundle: Bundle) -> None:
    ideal = ideal_chain(bundle, SETTINGS)
    assert ideal is not None
    ticks = iter(range(100))
    assert ideal.survivors_s(x(4), np.zeros(4, np.int64), lambda: next(ticks)) == 1


def test_a_pool_has_the_shares_that_were_asked_for() -> None:
    samples = {"x": np.arange(10)}
    exits = np.array([0, 0, 0, 0, 1, 1, 1, 1, 2, 2])
    pool, taken = mixed_pool(samples, exits, (0.25, 0.25, 0.5), 40)
    assert np.bincount(taken).tolist() == [10, 10, 20]
    np.testing.assert_array_equal(exits[pool["x"]], taken)


def test_a_pool_uses_every_sample_of_an_exit_before_it_repeats_one() -> None:
    pool, _ = mixed_pool({"x": np.arange(6)}, np.zeros(6, np.int64), (1.0,), 6)
    assert sorted(pool["x"]) == list(range(6))


def test_shares_of_exits_that_nobody_takes_go_to_the_others() -> None:
    _, taken = mixed_pool({"x": np.arange(4)}, np.array([0, 0, 2, 2]), (0.4, 0.2, 0.4), 10)
    assert np.bincount(taken).tolist() == [5, 0, 5]


def test_a_pool_is_full_whatever_the_rounding() -> None:
    _, taken = mixed_pool({"x": np.arange(3)}, np.array([0, 1, 2]), (1 / 3, 1 / 3, 1 / 3), 128)
    assert sorted(np.bincount(taken)) == [42, 43, 43]


def test_a_round_takes_every_contender_and_the_first_is_not_counted(bundle: Bundle) -> None:
    clock = Clock()
    costs = {"cascade": 2.0, "chain": 3.0, "whole": 4.0}
    calls: list[str] = []

    class Costing:
        def __init__(self, name: str) -> None:
            self.name = name

        def __call__(self, batch: Any) -> Any:
            calls.append(self.name)
            clock.now_s += costs[self.name] * (10 if calls.count(self.name) <= 2 else 1)

        run = __call__

        def settled(self, n: int) -> bool:
            return True

    contenders = Contenders(
        cascade=Costing("cascade"),  # type: ignore[arg-type]
        chain=Costing("chain"),  # type: ignore[arg-type]
        whole=Costing("whole"),  # type: ignore[arg-type]
        ideal=None,
    )
    row = bench_batch(contenders, x(8), batch=4, threads=1, seconds=0, clock=clock)
    assert (row.cascade_ms, row.chain_ms, row.full_ms, row.ideal_ms) == (2000, 3000, 4000, None)
    assert (row.chain_over_full, row.cascade_over_full, row.rounds) == (0.75, 0.5, MIN_ROUNDS)
    assert {name: calls.count(name) for name in costs} == dict.fromkeys(costs, 2 * (MIN_ROUNDS + 1))


def test_the_bare_chain_of_one_model_runs_every_segment_without_its_head(bundle: Bundle) -> None:
    links = bare_chain(bundle, SETTINGS).links
    assert [(link.index, link.with_head) for link in links] == [(0, False), (1, False), (2, True)]


def test_the_bare_chain_leaves_the_small_model_of_a_cascade_out(tmp_path: Path) -> None:
    links = bare_chain(Bundle.open(write_pair(tmp_path / "pair")), SETTINGS).links
    assert [link.index for link in links] == [1]


def test_the_small_model_of_a_cascade_is_no_check_but_part_of_the_ideal(tmp_path: Path) -> None:
    ideal = ideal_chain(Bundle.open(write_pair(tmp_path / "pair")), SETTINGS)
    assert ideal is not None
    assert [(link.index, link.with_head) for link in ideal.links] == [(0, True), (1, True)]


@pytest.mark.parametrize("n", [1, 5])
def test_a_cascade_of_models_can_be_timed(tmp_path: Path, n: int) -> None:
    ideal = ideal_chain(Bundle.open(write_pair(tmp_path / "pair")), SETTINGS)
    assert ideal is not None
    assert ideal.survivors_s(x(n), np.ones(n, np.int64), time.perf_counter) > 0


def test_the_merged_model_answers_single_samples_alike(bundle: Bundle) -> None:
    whole = merged_whole(bundle, SETTINGS)
    assert whole is not None
    for i in range(3):
        one = {"x": x(9)["x"][i : i + 1]}
        np.testing.assert_allclose(whole(one)[0], forward(one["x"])[-1], rtol=1e-5, atol=1e-5)
