"""Checkpoints of a run: what they hold, how they reach the disk whole, how a damaged one is told from a good one.

A checkpoint is a directory ``checkpoints/000007-update-000161`` with

- ``model.safetensors``: the model's own ``state_dict``, readable by everything that reads safetensors;
- ``state.safetensors`` and ``state.json``: every other tensor, and everything else;
- ``manifest.json``: the format's version, and the size and SHA-256 of each of these files.

Nothing in it is pickled, so reading one runs no code that it brings along.
"""
