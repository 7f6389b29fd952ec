"""Tensors that ranks hold parts of: each rank writes and reads its own, through ``torch.distributed.checkpoint``.

They lie in safetensors files, so that nothing is pickled, and any number of ranks can read what any other has written.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from gradledger.train.checkpoint.encoding import is_in_parts
from gradledger.train.checkpoint.layout import MODEL, PARTS, TENSORS

Placing = Callable[[str, torch.Size], Tensor | None]
"""A tensor that is held in parts as the stored one of that name and shape is to be; None: each rank has it whole."""


def whole_everywhere(_name: str, _shape: torch.Size) -> Tensor | None:
    """No tensor is held in parts."""
    return None


def save_parts(tensors: Mapping[str, Tensor], directory: Path) -> None:
    """Write this rank's parts; all ranks come here.

    Raises:
        OSError: On all ranks, where one cannot write.
    """
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
    from torch.distributed.checkpoint.state_dict_saver import save

    held = {name: tensor for name, tensor in tensors.items() if is_in_parts(tensor) and tensor.to_local().numel()}
    try:
        save(held, storage_writer=HuggingFaceStorageWriter(str(directory), save_distributed=True))
    except CheckpointException as failure:  # no Exception, and told to all ranks
        for rank, (error, _) in sorted(failure.failures.items()):
            if isinstance(error, OSError):
                raise OSError(error.errno, f"{error.strerror} (rank {rank})") from None
        raise RuntimeError(f"the checkpoint cannot be written: {failure}") from failure


class StoredTensors:
    """A checkpoint's tensors by their names in its state.

    Those that are to be held in parts have their values after :meth:`fill`.

    Args:
        path: The checkpoint.
        placing: How a tensor is to be held.
        file: Where those of this part of the state are.
        prefix: What the names begin with that are stored without it.
    """

    def __init__(self, path: Path, placing: Placing, file: str = TENSORS, prefix: str = "") -> None:
        self._file, self._placing, self._prefix = path / file, placing, prefix
        self._parts = path / PARTS
        self._targets: dict[str, Tensor] = {}
        self._known: dict[str, Tensor] = {}
        self._stored = _stored_in_parts(self._parts) if self._parts.is_dir() else {}

    def __getitem__(self, name: str) -> Tensor:
        """The tensor of that name: one object for each name."""
        if name not in self._known:
            self._known[name] = self._target(name) if name in self._stored else self._from_whole(name)
        return self._known[name]

    def fill(self) -> None:
        """Read this rank's parts of what is stored in parts."""
        if not self._targets:
            return
        from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
        from torch.distributed.checkpoint.state_dict_loader import load

        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)  # nobody needs to meet
            load(self._targets, storage_reader=HuggingFaceStorageReader(str(self._parts)), no_dist=True)

    def _target(self, name: str) -> Tensor:
        shape, dtype = self._stored[name]
        like = self._placing(name, shape)
        target = torch.empty(shape, dtype=dtype) if like is None else torch.empty_like(like, dtype=dtype)
        self._targets[name] = target
        return target

    def _from_whole(self, name: str) -> Tensor:
        with safe_open(self._file, framework="pt") as file:
            # A copy: in the file tensors lie at any byte, and a product's last bit can depend on where its factors lie.
            tensor: Tensor = file.get_tensor(name.removeprefix(self._prefix)).clone()
        like = self._placing(name, tensor.shape)
        if not is_in_parts(like):
            return tensor
        from torch.distributed.tensor import distribute_tensor

        own = tensor.to(like.device)
        return distribute_tensor(own, like.device_mesh, like.placements, src_data_rank=None)  # each rank cuts its own


def weights_in(path: Path, placing: Placing) -> StoredTensors:
    """The tensors of a checkpoint's model."""
    return StoredTensors(path, placing, MODEL, "model.")


def _stored_in_parts(directory: Path) -> dict[str, tuple[torch.Size, torch.dtype]]:
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader

    stored = HuggingFaceStorageReader(str(directory)).read_metadata().state_dict_metadata
    return {name: (each.size, each.properties.dtype) for name, each in stored.items()}  # type: ignore[union-attr]
