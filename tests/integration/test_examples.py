"""The example networks of `benchmarks/`, tiny: trained a few steps, exported, cut, and run on the device side."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="the examples are torch networks")
pytest.importorskip("onnxscript", reason="torch needs it to write ONNX")

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from edgeexit.bundle import Bundle
from edgeexit.cli import main
from edgeexit.manifest import Manifest, TensorSpec
from edgeexit.policies import Policy
from edgeexit.replay import judge, replay
from edgeexit.training import Feed, MultiExit, TrainSettings, train
from edgeexit_runtime import Cascade

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
CLASSES, SIDE, ROWS = 3, 16, 256
TOLERANCE = 1e-5
NEAR = 1e-4
STEPS = TrainSettings(
    mode="joint", epochs=2, batch=32, rate=0.01, backbone_rate=1.0, precision="fp32", device="cpu", threads=1
)

Arrays = dict[str, np.ndarray[Any, Any]]


def msdnet() -> nn.Module:
    """Three scales, an exit behind each of three layers."""
    from msdnet import MSDNet

    return MSDNet(CLASSES, channels=(4, 6, 8), growth=(2, 4, 4), bottleneck=(1, 1, 1), blocks=(1, 1, 1), head=(6, 8))


def dlrm() -> nn.Module:
    """Exits behind the numbers, the small tables and the large ones."""
    from dlrm import DLRM, EXITS, World, clicks

    rows, _ = clicks(2, 0, World())
    example = {name: torch.from_numpy(rows[name]) for name in ("dense", "small", "large")}
    return MultiExit.attach(DLRM(bottom=(8,), top=(16, 8)), at=EXITS[:3], example=example)


def pictures(seed: int) -> Arrays:
    """Stripes of three widths under noise, float32 (256, 3, 16, 16)."""
    random = np.random.default_rng(seed)
    labels = np.arange(ROWS) % CLASSES
    stripes = np.sin(np.arange(SIDE) * np.pi / 2.0 ** labels[:, None])[:, None, None, :]
    noise = random.normal(size=(ROWS, 3, SIDE, SIDE)) * random.uniform(0.2, 2, (ROWS, 1, 1, 1))
    return {"x": (stripes + noise).astype(np.float32), "y": labels}


def rows_of_clicks(seed: int) -> Arrays:
    from dlrm import World, clicks

    return dict(clicks(8 * ROWS, seed, World())[0])


BUILDERS: Mapping[str, tuple[Callable[[], nn.Module], Callable[[int], Arrays], tuple[str, ...]]] = {
    "msdnet": (msdnet, pictures, ()),
    "dlrm": (dlrm, rows_of_clicks, ("--exits", "bottom,small,large")),
}
"""The network, its samples, and flags of its export."""


def trained(name: str) -> nn.Module:
    """With the weights that lie in the current folder."""
    module = BUILDERS[name][0]()
    module.load_state_dict(load_file(f"{name}.safetensors"))
    return module.eval()


def trained_msdnet() -> nn.Module:
    return trained("msdnet")


def trained_dlrm() -> nn.Module:
    return trained("dlrm")


class Example:
    """A network, its bundle, and samples that it has not seen."""

    def __init__(self, name: str, folder: Path) -> None:
        build, data, flags = BUILDERS[name]
        torch.manual_seed(0)
        network = build()
        before = {key: value.clone() for key, value in network.state_dict().items()}
        fitting, held, self.unseen = (data(seed) for seed in (1, 2, 3))
        feeds = [
            Feed.from_arrays({k: v for k, v in arrays.items() if k != "y"}, arrays["y"]) for arrays in (fitting, held)
        ]
        self.outcome = train(network, *feeds, STEPS, quiet=True)
        self.changed = [key for key, value in network.state_dict().items() if not torch.equal(value, before[key])]
        self.network = network.eval()
        save_file(network.state_dict(), folder / f"{name}.safetensors")
        for split, arrays in (("train", fitting), ("calibration", held)):
            np.savez(folder / f"{split}.npz", **arrays)
        self.bundle = folder / name
        words = ["export", f"{__name__}:trained_{name}", "--data", "train.npz", "--calibration", "calibration.npz"]
        words += ["--max-drop", "0.05", "--policy", "max-probability", "--threads", "1", "--quiet", *flags]
        assert main([*words, "-o", str(self.bundle)]) == 0
        self.cascade = Cascade.open(self.bundle)
        self.manifest = Bundle.open(self.bundle).manifest
        inputs = [spec.name for spec in self.manifest.inputs]
        self.batch = {n: self.unseen["x" if "x" in self.unseen else n] for n in inputs}

    def torch_logits(self) -> np.ndarray[Any, Any]:
        """(E, N, C) of the torch network."""
        with torch.no_grad():
            logits = self.network(*(torch.from_numpy(array) for array in self.batch.values()))
        return np.stack([values.numpy() for values in logits])


@pytest.fixture(scope="module")
def benchmarks() -> Iterator[None]:
    """Lets the folder's modules be imported; torch takes one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module", params=BUILDERS)
def example(request: pytest.FixtureRequest, benchmarks: None, tmp_path_factory: pytest.TempPathFactory) -> Example:
    folder = tmp_path_factory.mktemp(request.param)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return Example(request.param, folder)


def test_all_of_it_was_trained(example: Example) -> None:
    learnt = [name for name, _ in example.network.named_parameters()]
    assert set(learnt) <= set(example.changed)


def test_the_last_exit_is_better_than_chance(example: Example) -> None:
    labels = example.unseen["y"]
    right = example.torch_logits()[-1].argmax(axis=1) == labels
    assert right.mean() > np.bincount(labels).max() / len(labels) + 0.05


def test_the_chain_of_segments_says_what_the_torch_network_says_at_every_exit(example: Example) -> None:
    wanted = example.torch_logits()
    found = example.cascade.logits(example.batch)
    assert found.shape == wanted.shape
    for here, there in zip(found, wanted, strict=True):
        np.testing.assert_allclose(here, there, rtol=0, atol=TOLERANCE * np.abs(there).max())


def test_each_sample_leaves_where_the_torch_network_s_logits_send_it(example: Example) -> None:
    logits = example.torch_logits()
    policy = half_leave(Bundle.open(example.bundle).policy(), logits)
    wanted = replay(policy, logits)
    answers = example.cascade.with_policy(policy).run(example.batch)
    thresholds = np.asarray(policy.thresholds)[:-1, None]
    clear = (np.abs(judge(policy, logits).score[:-1] - thresholds) > NEAR).all(axis=0)
    assert clear.mean() > 0.9
    assert set(wanted.exit[clear]) == set(range(len(logits)))
    np.testing.assert_array_equal(answers.exit[clear], wanted.exit[clear])
    np.testing.assert_array_equal(answers.label[clear], wanted.label[clear])


def test_a_sample_s_answer_is_its_own_whatever_is_in_its_batch(example: Example) -> None:
    policy = half_leave(Bundle.open(example.bundle).policy(), example.torch_logits())
    cascade = example.cascade.with_policy(policy)
    together = cascade.run(example.batch)
    for i in range(8):
        alone = cascade.run({name: array[i : i + 1] for name, array in example.batch.items()})
        assert (alone.exit[0], alone.label[0]) == (together.exit[i], together.label[i])
        assert alone.probability[0] == pytest.approx(together.probability[i], abs=TOLERANCE)


@pytest.mark.parametrize("example", ["msdnet"], indirect=True)
def test_all_three_scales_cross_each_cut_of_the_msdnet_the_finer_the_fewer_layers_done(example: Example) -> None:
    fine, middle, coarse = (4, 16, 16), (6, 8, 8), (8, 4, 4)
    behind_layer_1, behind_layer_2, behind_all = (
        [spec.shape for spec in crossing(example.manifest, k)] for k in range(3)
    )
    assert sorted(behind_layer_1) == sorted([fine, middle, grown(coarse, 4)])
    assert sorted(behind_layer_2) == sorted([fine, grown(middle, 4), grown(coarse, 8)])
    assert behind_all == []


@pytest.mark.parametrize("example", ["msdnet"], indirect=True)
def test_a_later_segment_of_the_msdnet_takes_maps_of_all_scales_and_no_picture(example: Example) -> None:
    picture = {spec.name for spec in example.manifest.inputs}
    first, *later = ({spec.name: spec.shape[-1] for spec in s.inputs} for s in example.manifest.segments)
    assert set(first) == picture
    for taken in later:
        assert not picture & set(taken)
        assert set(taken.values()) == {16, 8, 4}


@pytest.mark.parametrize("example", ["dlrm"], indirect=True)
def test_only_the_segment_behind_the_second_exit_of_the_dlrm_looks_up_large_tables(example: Example) -> None:
    takes = [{spec.name for spec in segment.inputs} for segment in example.manifest.segments]
    assert [("dense" in names, "small" in names, "large" in names) for names in takes] == [
        (True, False, False),
        (False, True, False),
        (False, False, True),
        (False, False, False),
    ]


@pytest.mark.parametrize("example", ["dlrm"], indirect=True)
def test_the_large_tables_lie_in_one_segment_s_file_so_that_earlier_ones_can_go_without(example: Example) -> None:
    from dlrm import LARGE, WIDTH

    table_bytes = 4 * sum(LARGE) * WIDTH
    assert [segment.file.size_bytes > table_bytes for segment in example.manifest.segments] == [
        False,
        False,
        True,
        False,
    ]


def test_the_two_steps_of_the_dlrm_say_what_all_products_at_once_say(benchmarks: None) -> None:
    from dlrm import DLRM, World, clicks

    network = DLRM(bottom=(8,), top=(16, 8)).eval()
    rows = {name: torch.from_numpy(array) for name, array in clicks(8, 0, World())[0].items()}
    with torch.no_grad():
        found = network(rows["dense"], rows["small"], rows["large"])
        numbers = network.bottom(rows["dense"])
        tables = [part.table(rows[name] + part.offsets) for name, part in network.named_children() if name in rows]
        vectors = torch.cat([numbers.unsqueeze(1), *tables], dim=1)
        below = torch.tril_indices(vectors.shape[1], vectors.shape[1], -1)
        products = (vectors @ vectors.transpose(1, 2))[:, below[0], below[1]]
        wanted = network.top(torch.cat([numbers, products], dim=1))
    torch.testing.assert_close(found, wanted)


def test_a_network_s_finest_maps_are_made_only_where_a_later_layer_looks_at_them(benchmarks: None) -> None:
    network = msdnet()
    network(torch.zeros(2, 3, SIDE, SIDE))[-1].sum().backward()
    idle = [name for name, weight in network.named_parameters() if weight.grad is None and "exits" not in name]
    assert idle == []


def half_leave(policy: Policy, logits: np.ndarray[Any, Any]) -> Policy:
    """The policy with thresholds that let half of the samples go at each exit, if all came there."""
    return policy.with_thresholds((*np.median(judge(policy, logits).score[:-1], axis=1).tolist(), float("inf")))


def crossing(manifest: Manifest, cut: int) -> list[TensorSpec]:
    """The tensors that are there behind a segment, and are used later."""
    later = {spec.name for segment in manifest.segments[cut + 1 :] for spec in segment.inputs}
    known = [*manifest.inputs, *(spec for segment in manifest.segments[: cut + 1] for spec in segment.outputs)]
    return [spec for spec in known if spec.name in later]


def grown(shape: tuple[int, int, int], by: int) -> tuple[int, int, int]:
    """The shape of a map with more channels."""
    return (shape[0] + by, *shape[1:])
