"""What tiers say to each other: messages, limits, and the Open Inference Protocol that carries them."""
