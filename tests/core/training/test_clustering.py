"""Deep embedded clustering: soft assignments, pretraining, clusters that all exits share, and what is refused."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="training needs torch")

from edgeexit.errors import DataError, ModelError, UsageError  # noqa: E402 after the skip
from edgeexit.training.clustering.autoencoder import pretrain  # noqa: E402
from edgeexit.training.clustering.clusters import cluster, sharpened  # noqa: E402
from edgeexit.training.clustering.distortion import Distortion  # noqa: E402
from edgeexit.training.clustering.kmeans import kmeans  # noqa: E402
from edgeexit.training.clustering.network import ClusteringLayer, DeepClustering  # noqa: E402
from edgeexit.training.clustering.scores import (  # noqa: E402
    clustering_accuracy,
    match,
    normalised_mutual_information,
)
from edgeexit.training.clustering.settings import ClusterSettings, PretrainSettings  # noqa: E402

CLUSTERS = 4
QUICK = PretrainSettings(epochs=12, batch=32, rate=3e-3)
QUICK_CLUSTERS = ClusterSettings(epochs=8, exit_epochs=8, batch=32, rate=1e-3, exit_rate=3e-3, restarts=4)


def blobs(n: int = 400, seed: int = 0):
    """Pictures (n, 1, 6, 6) with noise, bright in one of the four quarters, and which."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(CLUSTERS, (n,), generator=generator)
    pixels = 0.3 * torch.rand(n, 1, 6, 6, generator=generator)
    for row, label in enumerate(labels.tolist()):
        top, left = 3 * (label // 2), 3 * (label % 2)
        pixels[row, 0, top : top + 3, left : left + 3] += 0.6
    return pixels, labels.numpy()


def small(seed: int = 0, **changes: object) -> DeepClustering:
    return DeepClustering(
        **{"features": 36, "clusters": CLUSTERS, "widths": (16, 16, 24), "code": 4, "seed": seed} | changes
    )


def state(network: DeepClustering) -> dict[str, object]:
    return {name: value.clone() for name, value in network.state_dict().items()}


def same(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="module")
def clustered():
    samples, labels = blobs()
    network = small()
    losses = pretrain(network, samples, QUICK, quiet=True)
    return network, losses, cluster(network, samples, QUICK_CLUSTERS, quiet=True), samples, labels


# Soft assignments


@given(st.integers(0, 1000), st.sampled_from([0.5, 1.0, 3.0]))
def test_the_softmax_of_a_clustering_layer_is_students_t_soft_assignment(seed, freedom):
    generator = torch.Generator().manual_seed(seed)
    layer = ClusteringLayer(3, 2, freedom)
    layer.centres.data = torch.randn(3, 2, generator=generator)
    codes = 3 * torch.randn(5, 2, generator=generator)
    squares = torch.cdist(codes.double(), layer.centres.double()) ** 2
    kernel = (1 + squares / freedom) ** (-(freedom + 1) / 2)
    expected = kernel / kernel.sum(1, keepdim=True)
    assert torch.allclose(layer(codes).softmax(1).double(), expected, atol=1e-5)


def test_the_target_distribution_is_decs_and_sharper():
    q = torch.tensor([[0.6, 0.4], [0.9, 0.1]], dtype=torch.float64)
    weights = q**2 / torch.tensor([1.5, 0.5])
    assert torch.allclose(sharpened(q), weights / weights.sum(1, keepdim=True))
    even = torch.tensor([[0.8, 0.2], [0.2, 0.8]], dtype=torch.float64)
    assert torch.allclose(sharpened(even).max(1).values, torch.tensor(0.64 / 0.68, dtype=torch.float64))


def test_a_cluster_that_nobody_is_near_makes_no_nan_in_the_target():
    assert bool(torch.isfinite(sharpened(torch.tensor([[1.0, 0.0], [1.0, 0.0]]))).all())


# Scores


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=40))
def test_clustering_accuracy_is_the_best_over_all_namings(pairs):
    assignments, labels = (np.array(column) for column in zip(*pairs, strict=True))
    best = max(float((np.array(naming)[assignments] == labels).mean()) for naming in permutations(range(4)))
    assert clustering_accuracy(assignments, labels) == pytest.approx(best)


@given(st.integers(0, 10_000), st.integers(1, 6))
def test_matching_finds_the_largest_sum(seed, size):
    table = np.random.default_rng(seed).integers(-9, 10, (size, size))
    naming = match(table)
    assert sorted(naming) == list(range(size))
    best = max(sum(table[row, column] for row, column in enumerate(order)) for order in permutations(range(size)))
    assert table[np.arange(size), naming].sum() == best


def test_mutual_information_is_one_for_other_names_and_zero_for_no_relation():
    labels = np.array([0, 0, 1, 1, 2, 2])
    assert normalised_mutual_information((labels + 1) % 3, labels) == pytest.approx(1)
    assert normalised_mutual_information(np.array([0, 1] * 3), labels) == pytest.approx(0, abs=1e-12)
    assert normalised_mutual_information(np.zeros(3, dtype=int), np.zeros(3, dtype=int)) == 1


@pytest.mark.parametrize(("assignments", "labels"), [([], []), ([0, 1], [0]), ([-1, 0], [0, 1]), ([0.5, 1.0], [0, 1])])
def test_scores_of_what_is_no_assignment_are_refused(assignments, labels):
    with pytest.raises(DataError):
        clustering_accuracy(np.array(assignments), np.array(labels))


# The network


def test_each_exit_gives_logits_for_the_same_clusters_alone_and_in_a_batch():
    network, samples = small().eval(), blobs(5)[0]
    for layer in network.assign:
        torch.nn.init.normal_(layer.centres)
    together = network(samples)
    assert [tuple(logits.shape) for logits in together] == [(5, CLUSTERS)] * 3
    for row in range(5):
        for alone, among in zip(network(samples[row : row + 1]), together, strict=True):
            assert torch.allclose(alone[0], among[row], atol=1e-6)


def test_exits_are_named_after_their_layers():
    assert small(exits=(2,)).exit_names == ("layer 2", "whole model")


@pytest.mark.parametrize(
    "changes",
    [
        {"clusters": 1},
        {"exits": (3,)},
        {"exits": (2, 1)},
        {"exits": (0,)},
        {"widths": ()},
        {"code": 0},
        {"freedom": 0.0},
    ],
)
def test_a_network_that_cannot_be_is_refused(changes):
    with pytest.raises(UsageError):
        small(**changes)


# Distortion


def test_no_distortion_leaves_samples_as_they_are():
    samples = blobs(3)[0]
    assert Distortion()(samples, torch.Generator()) is samples


def test_every_picture_is_distorted_by_a_draw_of_its_own_that_follows_from_the_seed():
    samples = blobs(1)[0].expand(2, -1, -1, -1)
    distortion = Distortion(turn=20, shift=0.2, scale=0.1)
    one, other = (distortion(samples, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(one, other)
    assert not torch.equal(one[0], one[1])
    assert one.shape == samples.shape


def test_a_shift_moves_the_picture_by_at_most_its_share():
    picture = torch.zeros(200, 1, 11, 11)
    picture[:, :, 5, 5] = 1
    moved = Distortion(shift=0.2)(picture, torch.Generator().manual_seed(0))
    where = moved.amax(dim=(0, 1)).nonzero()
    assert where.min() >= 5 - 3
    assert where.max() <= 5 + 3
    assert len(where) > 9


def test_a_distortion_out_of_range_is_refused():
    with pytest.raises(UsageError):
        Distortion(shift=1.5)


# Pretraining and clustering


def test_pretraining_learns_what_samples_look_like(clustered):
    losses = clustered[1]
    assert losses[-1] < 0.5 * losses[0]


def test_clusters_are_found_without_labels(clustered):
    network, _, found, _, _ = clustered
    fresh, labels = blobs(300, seed=1)
    with torch.no_grad():
        answers = [logits.argmax(1).numpy() for logits in network(fresh)]
    assert clustering_accuracy(answers[-1], labels) > 0.95
    assert sum(found.sizes) == 400


def test_every_exit_names_the_clusters_of_the_whole_model(clustered):
    network, _, found, _, _ = clustered
    with torch.no_grad():
        *early, last = (logits.argmax(1) for logits in network(blobs(300, seed=1)[0]))
    assert all(float((answer == last).double().mean()) > 0.95 for answer in early)
    assert min(found.agreement) > 0.95
    assert found.agreement[-1] == 1


def test_teaching_the_exits_changes_nothing_of_the_whole_model(clustered):
    samples = clustered[3]
    networks = []
    for exit_epochs in (1, 3):
        network = small()
        pretrain(network, samples, PretrainSettings(epochs=1, batch=64), quiet=True)
        cluster(network, samples, ClusterSettings(epochs=1, exit_epochs=exit_epochs, batch=64, restarts=2), quiet=True)
        networks.append(network)
    one, other = networks
    assert all(torch.equal(a, b) for a, b in zip(one.trunk(), other.trunk(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(one.early(), other.early(), strict=True))


def test_equal_seeds_give_equal_bits_and_others_do_not(clustered):
    samples = clustered[3]

    def trained(seed: int) -> dict:
        network = small(seed)
        recipe = PretrainSettings(epochs=2, noise=0.2, distortion=Distortion(turn=5, shift=0.1), seed=seed)
        pretrain(network, samples, recipe, quiet=True)
        cluster(network, samples, ClusterSettings(epochs=2, exit_epochs=1, restarts=2, seed=seed), quiet=True)
        return state(network)

    first = trained(0)
    assert same(first, trained(0))
    assert not same(first, trained(1))


def test_a_network_with_one_exit_can_be_clustered(clustered):
    network = small(exits=())
    pretrain(network, clustered[3], QUICK, quiet=True)
    assert cluster(network, clustered[3], QUICK_CLUSTERS, quiet=True).agreement == (1.0,)


def test_half_precision_learns_too(clustered):
    samples, labels = clustered[3:]
    network = small()
    pretrain(network, samples, PretrainSettings(epochs=12, batch=32, rate=3e-3, precision="bf16"), quiet=True)
    found = ClusterSettings(epochs=4, exit_epochs=4, batch=32, restarts=4, precision="bf16")
    cluster(network, samples, found, quiet=True)
    with torch.no_grad():
        assert clustering_accuracy(network(samples)[-1].argmax(1).numpy(), labels) > 0.95


def test_clustering_ends_when_samples_stay_where_they_are(clustered):
    network = small()
    pretrain(network, clustered[3], QUICK, quiet=True)
    settled = ClusterSettings(epochs=50, exit_epochs=1, rate=1e-5, tolerance=0.05, restarts=4)
    assert len(cluster(network, clustered[3], settled, quiet=True).changed) < 50


# What is refused


@pytest.mark.parametrize("job", [pretrain, cluster])
@pytest.mark.parametrize(
    ("samples", "words"),
    [
        (blobs(3)[0], "fewer samples than clusters"),
        (torch.rand(9, 35), "do not fit"),
        (torch.zeros(9, 36, dtype=torch.uint8), "do not fit"),
        (torch.full((9, 36), float("nan")), "not finite"),
        (torch.ones(9, 36), "all samples are the same"),
    ],
)
def test_samples_that_cannot_be_clustered_are_refused(job, samples, words):
    with pytest.raises(DataError, match=words):
        job(small(), samples, quiet=True)


def test_vectors_cannot_be_turned():
    with pytest.raises(DataError, match="only pictures"):
        pretrain(small(), torch.rand(9, 36), PretrainSettings(distortion=Distortion(turn=5)), quiet=True)


def test_a_loss_that_is_not_finite_is_an_error_and_the_weights_from_before_stay(clustered):
    network = small()
    with pytest.raises(ModelError, match="not finite"):
        pretrain(network, clustered[3], PretrainSettings(epochs=5, batch=32, rate=1e30), quiet=True)
    assert all(bool(torch.isfinite(value).all()) for value in network.state_dict().values())


@pytest.mark.parametrize("change", [{"rate": 1e30}, {"exit_rate": 1e30}])
def test_a_clustering_that_breaks_is_an_error_and_the_weights_from_before_stay(clustered, change):
    network = small()
    pretrain(network, clustered[3], PretrainSettings(epochs=2), quiet=True)
    with pytest.raises(ModelError):
        cluster(network, clustered[3], ClusterSettings(batch=32, restarts=2, **change), quiet=True)
    assert all(bool(torch.isfinite(value).all()) for value in network.state_dict().values())


def test_a_cluster_that_loses_all_its_samples_is_named(clustered):
    network = small()
    pretrain(network, clustered[3], PretrainSettings(epochs=2), quiet=True)
    before = state(network)
    with pytest.raises(ModelError, match="died"):
        cluster(network, clustered[3], ClusterSettings(batch=400, rate=30, restarts=2), quiet=True)
    assert torch.equal(before["layers.0.weight"], network.layers[0].weight)


def test_fewer_different_codes_than_clusters_are_refused():
    with pytest.raises(DataError, match="different codes"):
        kmeans(torch.tensor([[0.0], [1.0]]).repeat(10, 1), 3, restarts=1, generator=torch.Generator())


@given(st.integers(0, 1000))
@settings(max_examples=20)
def test_kmeans_finds_groups_that_are_far_apart(seed):
    generator = torch.Generator().manual_seed(seed)
    groups = torch.arange(3).repeat(20)
    points = 100.0 * groups[:, None] + torch.rand(60, 2, generator=generator)
    centres = kmeans(points, 3, restarts=5, generator=generator)
    nearest = torch.cdist(points, centres).argmin(1)
    assert clustering_accuracy(nearest.numpy(), groups.numpy()) == 1


@pytest.mark.parametrize("setting", [PretrainSettings, ClusterSettings])
def test_settings_out_of_range_are_refused(setting):
    with pytest.raises(UsageError):
        setting(epochs=0)
