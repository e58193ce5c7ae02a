"""The loop behind every mode: steps, rates, checkpoints, metrics, devices and randomness."""
