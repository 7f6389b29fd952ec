"""What FSDP2 of torch before 2.13 lacks, made from its own parts (2.10 to 2.12)."""

from __future__ import annotations

from typing import Any


def parameter_groups_of(state: Any) -> list[Any]:
    """A sharded module's groups of parameters; before torch 2.13 it has one at most."""
    groups = getattr(state, "_fsdp_param_groups", None)
    if groups is None:
        groups = [] if state._fsdp_param_group is None else [state._fsdp_param_group]
    return list(groups)


def reset_iter_state(module: Any) -> None:
    """Let an outermost sharded module begin anew, wherever a forward or backward was given up.

    torch 2.13 has it as ``FSDPModule.reset_iter_state``.
    """
    if hasattr(module, "reset_iter_state"):
        module.reset_iter_state()
        return
    from torch.distributed.fsdp._fully_shard._fsdp_common import TrainingState

    state = module._get_fsdp_state()
    if state._device.type != "cpu":  # nothing is under way any longer
        state._device_handle.synchronize()
    communication, context = state._comm_ctx, state._state_ctx
    communication.all_gather_state = communication.reduce_scatter_state = None
    communication.post_forward_order.clear()
    for each in context.all_states:
        each._modules_to_run_forward.clear()
        each._training_state = TrainingState.IDLE
        for group in parameter_groups_of(each):
            _reset(group)
            group._training_state = TrainingState.IDLE
    context.iter_forward_root = None
    context.post_backward_final_callback_queued = False


def _reset(group: Any) -> None:
    gathered = group._all_gather_result
    if gathered is not None and hasattr(gathered.all_gather_work, "wait"):
        gathered.all_gather_work.wait()
    for name in ("_all_gather_result", "_post_reduce_event", "_all_reduce_state", "_reshard_after_forward_event"):
        setattr(group, name, None)
    group._partial_reduce_output = None
    group._post_forward_indices.clear()
    group._to_sharded()
