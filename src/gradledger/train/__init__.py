"""The reference training run behind ``gradledger train`` and ``gradledger compare``."""
