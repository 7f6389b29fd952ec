"""CUDA graphs: forward and backward of one micro-batch, captured once and replayed over the windows of ``update``."""
