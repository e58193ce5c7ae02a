"""From data to batches: read, prepared, augmented, in an order that follows from the seed."""

from edgeexit.training.feeding.feed import Feed, TrainBatch

__all__ = ["Feed", "TrainBatch"]
