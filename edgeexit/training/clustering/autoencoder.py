"""Pretraining of a clustering network: as the encoder of an autoencoder that mends distorted samples.

DEC stands and falls with it: clusters that the codes do not keep apart are never found later. DEC stacks
denoising autoencoders, layer by layer, then fine-tunes (Xie et al. 2016, section 3.1). Here encoder and
decoder are trained end to end with Adam, and pictures may be shifted and turned a little in every epoch
(Guo, Zhu, Liu and Yin 2018, DEC with data augmentation): the same digit elsewhere is to be the same code's
neighbour, which matters more for the clusters than any schedule.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgeexit.console import progress
from edgeexit.errors import ModelError
from edgeexit.training.clustering.distortion import batches
from edgeexit.training.clustering.network import DeepClustering, start_weights
from edgeexit.training.clustering.settings import PretrainSettings
from edgeexit.training.clustering.steps import casting, check_samples, keeping, rise_and_fall

__all__ = ["pretrain"]


def pretrain(
    network: DeepClustering, samples: Tensor, settings: PretrainSettings | None = None, *, quiet: bool = False
) -> list[float]:
    """Train the hidden layers and the last code to say what a sample looked like. No label is asked for.

    Sets the network's `scale` so that a sample's mean square is 1 on average, as DEC scales its data.

    Args:
        network: Trained in place, on the device that it is on.
        samples: (n, …) float32; (n, C, H, W) where there is a distortion.
        settings: The defaults if None.
        quiet: Show no progress.

    Returns:
        The mean square error of each epoch, of scaled samples: 1 is what a constant 0 gets.

    Raises:
        DataError: The samples are too few or do not fit the network.
        ModelError: The loss is not finite; the network keeps the weights of the last epoch that went well.
    """
    settings = PretrainSettings() if settings is None else settings
    check_samples(network, samples, settings.distortion)
    network.scale.fill_(float(samples.square().mean().clamp_min(1e-12).rsqrt()))
    generator = torch.Generator().manual_seed(settings.seed)
    decoder = _mirror(network, generator).to(network.scale.device)
    parameters = [*network.layers.parameters(), *network.codes[-1].parameters(), *decoder.parameters()]
    optimiser = torch.optim.Adam(parameters, lr=settings.rate, fused=True)
    steps = settings.epochs * math.ceil(len(samples) / settings.batch)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: rise_and_fall(step / steps))
    losses: list[float] = []
    network.train()
    with progress("pretraining the autoencoder", steps, quiet=quiet) as advance, keeping(network) as keep:
        for epoch in range(settings.epochs):
            keep()
            total = 0.0
            for _, shown in batches(samples, settings.batch, settings.distortion, generator, network.scale.device):
                wanted = shown.flatten(1) * network.scale
                with casting(network, settings.precision):
                    given = decoder(network.last_code(_noised(shown, settings.noise, generator)))
                loss = functional.mse_loss(given.float(), wanted)
                optimiser.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
                schedule.step()
                total += float(loss.detach()) * len(shown)
                advance(1)
            losses.append(total / len(samples))
            if not math.isfinite(losses[-1]):
                raise ModelError(
                    f"the autoencoder's loss is not finite in epoch {epoch + 1}",
                    got=losses[-1],
                    remedy=f"a rate below {settings.rate:g}; the network has the weights from before that epoch",
                )
    return losses


def _mirror(network: DeepClustering, generator: torch.Generator) -> nn.Sequential:
    """The encoder's layers the other way round, with no ReLU at the end."""
    layers = [layer for layer in (*network.layers, network.codes[-1]) if isinstance(layer, nn.Linear)]
    decoder: list[nn.Module] = []
    for layer in reversed(layers):
        decoder += [nn.Linear(layer.out_features, layer.in_features), nn.ReLU()]
    start_weights(decoder, generator)
    return nn.Sequential(*decoder[:-1])


def _noised(samples: Tensor, share: float, generator: torch.Generator) -> Tensor:
    if share == 0:
        return samples
    return samples * (torch.rand(samples.shape, generator=generator) >= share).to(samples.device)
