"""The abstract machine: how Python runs on values that stand for tensors, optimizers and the unknown."""
