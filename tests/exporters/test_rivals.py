"""The rivals answer as the cascade does, and leave where it leaves."""

from __future__ import annotations

from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from edgeexit.bundle import Bundle
from edgeexit.errors import ModelError
from edgeexit_exporters.rivals.nested import EXIT_INPUT, nested, nested_graph, nested_local
from runtime.cascades import EXITS, tiny_policy, write_pair, write_tiny

GOLDEN = 16


@pytest.fixture(params=["arrays", "pictures"])
def bundle(request: pytest.FixtureRequest, tmp_path: Path) -> Bundle:
    return Bundle.open(write_tiny(tmp_path / "tiny", pictures=request.param == "pictures"))


def golden(bundle: Bundle, rows: slice = slice(None)) -> dict[str, Any]:
    return {spec.name: bundle.check[f"input.{spec.name}"][rows] for spec in bundle.manifest.inputs}


def answers_at(bundle: Bundle, exits: np.ndarray) -> np.ndarray:
    """The labels of the golden samples if they leave at these exits."""
    return np.array([bundle.check[f"logits.{k}"][i].argmax() for i, k in enumerate(exits)])


def told(seed: int = 0) -> np.ndarray:
    """Exits that no policy would choose."""
    return np.random.default_rng(seed).integers(0, EXITS, GOLDEN)


def test_all_rivals_are_registered() -> None:
    assert {entry.name for entry in entry_points(group="edgeexit.rivals")} == {"eager", "compiled", "if", "if-local"}


@pytest.mark.parametrize("make", [nested, nested_local])
def test_the_graph_with_if_answers_as_the_exit_that_it_is_told(bundle: Bundle, make: Any) -> None:
    rival = make(bundle, 1)
    exits = told()
    labels = [rival(golden(bundle, slice(i, i + 1)), exits[i : i + 1])[0] for i in range(GOLDEN)]
    np.testing.assert_array_equal(labels, answers_at(bundle, exits))


def weights_inside(graph: onnx.GraphProto) -> int:
    inner = [attribute.g for node in graph.node for attribute in node.attribute if attribute.HasField("g")]
    return sum(len(part.initializer) + weights_inside(part) for part in inner)


def test_weights_lie_in_the_outermost_graph_or_in_their_branch(bundle: Bundle) -> None:
    outer, local = nested_graph(bundle).graph, nested_graph(bundle, local=True).graph
    assert weights_inside(outer) == 0
    assert weights_inside(local) > 0
    assert len(outer.initializer) == len(local.initializer) + weights_inside(local)


def test_the_graph_with_if_is_valid_and_takes_the_exit(bundle: Bundle) -> None:
    model = nested_graph(bundle)
    onnx.checker.check_model(model)
    assert [value.name for value in model.graph.input] == [*golden(bundle), EXIT_INPUT]


def test_a_cascade_of_models_becomes_one_graph_too(tmp_path: Path) -> None:
    pair = Bundle.open(write_pair(tmp_path / "pair"))
    rival = nested(pair, 1)
    for k in (0, 1):
        label = rival({"x": pair.check["input.x"][:1]}, np.array([k]))[0]
        assert label == pair.check[f"logits.{k}"][0].argmax()


class TestPyTorch:
    """In PyTorch."""

    @pytest.fixture(autouse=True)
    def _torch(self) -> None:
        pytest.importorskip("torch")

    def test_a_batch_is_answered_by_the_exits_that_it_is_told(self, bundle: Bundle) -> None:
        from edgeexit_exporters.rivals.pytorch import eager

        exits = told()
        np.testing.assert_array_equal(eager(bundle, 1)(golden(bundle), exits), answers_at(bundle, exits))

    def test_single_samples_are_answered_alike(self, bundle: Bundle) -> None:
        from edgeexit_exporters.rivals.pytorch import eager

        rival, exits = eager(bundle, 1), told(1)
        labels = [rival(golden(bundle, slice(i, i + 1)), exits[i : i + 1])[0] for i in range(GOLDEN)]
        np.testing.assert_array_equal(labels, answers_at(bundle, exits))

    def test_segments_behind_the_last_exit_taken_are_not_run(self, bundle: Bundle) -> None:
        from edgeexit_exporters.rivals.pytorch import Stage, TorchRival, stages

        ran: list[tuple[int, int]] = []

        def counted(k: int, stage: Stage) -> Stage:
            def run(*inputs: Any) -> Any:
                ran.append((k, len(inputs[0])))
                return stage.run(*inputs)

            return Stage(run, stage.inputs, stage.outputs, stage.needed)

        rival = TorchRival("counted", [counted(k, stage) for k, stage in enumerate(stages(bundle))])
        rival(golden(bundle), np.array([0] * 10 + [1] * 6))
        rival(golden(bundle, slice(1)), np.array([1]))
        assert ran == [(0, GOLDEN), (1, 6), (0, 1), (1, 1)]

    def test_the_number_of_threads_is_torch_s(self, bundle: Bundle) -> None:
        import torch

        from edgeexit_exporters.rivals.pytorch import eager

        before = torch.get_num_threads()
        try:
            eager(bundle, 2)
            assert torch.get_num_threads() == 2
        finally:
            torch.set_num_threads(before)

    def test_logits_that_differ_from_the_golden_ones_are_a_reason(self, bundle: Bundle) -> None:
        from edgeexit_exporters.rivals.pytorch import eager

        bundle.__dict__["check"] = {**bundle.check, "logits.1": bundle.check["logits.1"] + 1}
        with pytest.raises(ModelError, match=r"01\.onnx has other logits in torch"):
            eager(bundle, 1)

    def test_a_compiler_that_fails_is_a_reason(self, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
        import torch

        from edgeexit_exporters.rivals.pytorch import compiled

        def compile_(module: Any) -> Any:
            def run(*inputs: Any) -> Any:
                raise RuntimeError("\nInvalidCxxCompiler: No working C++ compiler found\nmore")

            return run

        monkeypatch.setattr(torch, "compile", compile_)
        with pytest.raises(ModelError, match=r"torch.compile failed\n.*No working C\+\+ compiler found$"):
            compiled(bundle, 1)

    def test_what_is_compiled_answers_alike(self, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
        import torch

        from edgeexit_exporters.rivals.pytorch import compiled

        monkeypatch.setattr(torch, "compile", lambda module: module)
        exits = told()
        np.testing.assert_array_equal(compiled(bundle, 1)(golden(bundle), exits), answers_at(bundle, exits))


def test_the_policy_of_the_tiny_bundle_takes_the_most_probable_class() -> None:
    assert tiny_policy().name == "max-probability"
