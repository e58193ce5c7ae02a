"""Clusters found without labels go the whole road: trained, exported, verified, tuned and run on the device side."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs torch")
pytest.importorskip("onnxscript", reason="exporting a torch model needs onnxscript")
save_file = pytest.importorskip("safetensors.torch", reason="training stores weights in safetensors").save_file

from edgeexit.bundle import Bundle  # noqa: E402 after the skips
from edgeexit.cli import main  # noqa: E402
from edgeexit.replay import judge, replay  # noqa: E402
from edgeexit.training.clustering.autoencoder import pretrain  # noqa: E402
from edgeexit.training.clustering.clusters import cluster  # noqa: E402
from edgeexit.training.clustering.network import DeepClustering  # noqa: E402
from edgeexit.training.clustering.scores import clustering_accuracy  # noqa: E402
from edgeexit.training.clustering.settings import ClusterSettings, PretrainSettings  # noqa: E402
from edgeexit_runtime import Cascade  # noqa: E402
from edgeexit_runtime.verification import verify  # noqa: E402

SIZES = {"features": 12, "clusters": 3, "widths": (24, 24, 96), "code": 3}
MODULE = """
from safetensors.torch import load_file
from edgeexit.training.clustering.network import DeepClustering

def network():
    built = DeepClustering(features=12, clusters=3, widths=(24, 24, 96), code=3)
    built.load_state_dict(load_file({path!r}))
    return built.eval()
"""


def groups(n: int, seed: int):
    """Vectors (n, 12) around three points, some of them between two, and which point is nearest."""
    centres = np.random.default_rng(0).normal(0, 1, (3, 12))
    random = np.random.default_rng(seed)
    labels = random.integers(0, 3, n)
    samples = centres[labels] + random.uniform(0.3, 2.0, (n, 1)) * random.normal(size=(n, 12))
    return samples.astype(np.float32), labels


@pytest.fixture(scope="module")
def road(tmp_path_factory: pytest.TempPathFactory):
    """The trained network, and the bundle that the command line made of it."""
    folder = tmp_path_factory.mktemp("clustering")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    network = DeepClustering(**SIZES)
    samples = torch.from_numpy(groups(600, 1)[0])
    pretrain(network, samples, PretrainSettings(epochs=10, batch=32, rate=3e-3), quiet=True)
    cluster(network, samples, ClusterSettings(epochs=2, exit_epochs=5, batch=32, rate=1e-3, restarts=4), quiet=True)
    torch.set_num_threads(threads)
    save_file(network.state_dict(), folder / "weights.safetensors")
    (folder / "clustered_groups.py").write_text(MODULE.format(path=str(folder / "weights.safetensors")))
    for name, seed in (("train", 1), ("calibration", 2)):
        x, y = groups(600, seed)
        np.savez(folder / f"{name}.npz", x=x, y=y)
    data = ["--data", str(folder / "train.npz"), "--calibration", str(folder / "calibration.npz"), "--labels", "model"]
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        command = ["export", "clustered_groups:network", *data, "--max-drop", "0.05", "--policy", "max-probability"]
        assert main([*command, "--quiet", "--threads", "1", "-o", str(folder / "bundle")]) == 0
    return network, folder


def test_the_bundle_answers_as_the_network_does(road):
    network, folder = road
    cascade = Cascade.open(folder / "bundle")
    assert verify(Bundle.open(folder / "bundle"), cascade).samples > 0
    samples = groups(500, 3)[0]
    with torch.no_grad():
        expected = [logits.numpy() for logits in network(torch.from_numpy(samples))]
    for given, wanted in zip(cascade.logits(samples), expected, strict=True):
        np.testing.assert_allclose(given, wanted, rtol=1e-4, atol=1e-4)
    score = judge(cascade.policy, expected).score[:-1]
    stay = np.quantile(score, (0.1, 0.02), axis=1).diagonal()  # about so many go past each exit
    policy = cascade.policy.with_thresholds((*map(float, stay), float("inf")))
    exits = cascade.with_policy(policy).run(samples).exit
    clear = (np.abs(score - stay[:, None]) > 1e-5).all(axis=0)
    np.testing.assert_array_equal(exits[clear], replay(policy, expected).exit[clear])
    assert clear.mean() > 0.9
    assert set(exits.tolist()) == {0, 1, 2}


def test_the_cascade_names_the_clusters_of_the_whole_model_at_less_cost(road):
    _, folder = road
    cascade = Cascade.open(folder / "bundle")
    samples, labels = groups(500, 3)
    whole, given = cascade.logits(samples)[-1].argmax(axis=1), cascade.run(samples)
    assert clustering_accuracy(whole, labels) > 0.8
    assert (given.label == whole).mean() > 0.9
    assert np.array([entry.cost for entry in cascade.manifest.exits])[given.exit].mean() < 0.9


def test_thresholds_are_tuned_for_a_budget_without_labels(road, capsys):
    _, folder = road
    data = ["--data", str(folder / "calibration.npz"), "--labels", "model"]
    assert main(["tune", str(folder / "bundle"), *data, "--budget", "0.7", "-o", str(folder / "tuned"), "--json"]) == 0
    tuned = json.loads(capsys.readouterr().out)
    assert tuned["mean_cost"] <= 0.7
    assert Path(folder / "tuned" / "manifest.json").exists()
