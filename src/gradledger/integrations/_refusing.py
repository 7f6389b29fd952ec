"""What no adapter can make exact: ranks without data of their own, and trainers that accumulate inside a library."""

from __future__ import annotations

from typing import Any

from gradledger.errors import UserError


def check_accelerator(accelerator: Any) -> None:
    """Refuse ways in which Accelerate runs, by itself or for the Hugging Face Trainer.

    Raises:
        UserError: Ranks do not each have data of their own and average their gradients, or a library accumulates.
    """
    kind, parallelism = accelerator.distributed_type.value, accelerator.parallelism_config
    if kind in ("DEEPSPEED", "MEGATRON_LM"):
        raise UserError(f"{kind} scales and accumulates gradients by itself, so windows cannot be made exact here")
    if parallelism is not None and (parallelism.tp_enabled or parallelism.cp_enabled or parallelism.sp_enabled):
        raise UserError(
            "tensor, context and sequence parallelism put one sample on several ranks, whose weights would count "
            "twice: only data parallelism (DDP, FSDP) is supported"
        )


def check_strategy(strategy: Any, world_size: int) -> None:
    """Refuse strategies of Lightning and Fabric.

    Raises:
        UserError: Ranks do not each have data of their own and average their gradients, or a library accumulates.
    """
    name = type(strategy).__name__
    sharing = getattr(strategy, "distributed_sampler_kwargs", None) or {}
    if "DeepSpeed" in name or sharing.get("num_replicas", world_size) != world_size:
        raise UserError(
            f"{name} is not supported: windows can be made exact where ranks each have data of their own and average "
            "their gradients (DDP, FSDP), and where no library accumulates by itself"
        )
