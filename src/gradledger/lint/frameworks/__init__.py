"""Libraries that own a part of the training loop."""
