"""Sources for `edgeexit train` and `edgeexit export`: networks with weights from the files that the environment names.

    RESNET56=resnet56.safetensors edgeexit train backbones:resnet56 …

from this folder, or with it in PYTHONPATH. The keys of the weights are conv1, bn1, layer1.0.conv1, …, linear.
"""

from __future__ import annotations

import os

import networks

__all__ = ["resnet56"]


def resnet56() -> networks.Network:
    """ResNet-56 for CIFAR-10, with the weights in the file $RESNET56."""
    return networks.load_resnet56(networks.resnet56(), os.environ["RESNET56"])
