"""Reductions over ranks: DistributedDataParallel, FSDP, ``all_reduce``."""

from __future__ import annotations

import functools
from typing import Any

import torch

from gradledger.auditor.recording.recorder import Recorder


def watch_ddp_pre_forward(recorder: Recorder, original: Any) -> Any:
    """Whether a backward reduces is settled by the forward: ``no_sync`` around the backward alone does nothing."""

    @functools.wraps(original)
    def _pre_forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        if torch.is_grad_enabled():
            recorder.reductions.will_sync(self, bool(self.require_backward_grad_sync))
        return original(self, *args, **kwargs)

    return _pre_forward


def watch_fsdp_post_backward(recorder: Recorder, original: Any) -> Any:
    """FSDP keeps unreduced gradients elsewhere than in ``.grad``."""

    @functools.wraps(original)
    def post_backward(self: Any, *args: Any, **kwargs: Any) -> Any:
        parameters = [
            each.sharded_param
            for each in self.fsdp_params
            if each.unsharded_accumulated_grad is not None or each._unsharded_param.grad is not None
        ]
        group = getattr(self, "_reduce_scatter_process_group", None)
        recorder.reductions.shard_group_done(parameters, bool(self.reduce_grads), group)
        return original(self, *args, **kwargs)

    return post_backward


def watch_all_reduce(recorder: Recorder, original: Any) -> Any:
    """``all_reduce`` of a gradient by hand."""

    @functools.wraps(original)
    def all_reduce(tensor: Any, *args: Any, **kwargs: Any) -> Any:
        recorder.reductions.reduced(tensor)
        return original(tensor, *args, **kwargs)

    return all_reduce
