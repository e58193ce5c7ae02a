"""What tiers say to each other: names, messages, limits, and the Open Inference Protocol that carries them."""
