"""Deep embedded clustering with a clustering layer for each exit (E2CM, sections III-C and IV-D)."""

from edgeexit.training.clustering.autoencoder import pretrain
from edgeexit.training.clustering.clusters import Clustering, cluster
from edgeexit.training.clustering.network import DeepClustering
from edgeexit.training.clustering.scores import clustering_accuracy, normalised_mutual_information
from edgeexit.training.clustering.settings import ClusterSettings, PretrainSettings

__all__ = [
    "ClusterSettings",
    "Clustering",
    "DeepClustering",
    "PretrainSettings",
    "cluster",
    "clustering_accuracy",
    "normalised_mutual_information",
    "pretrain",
]
