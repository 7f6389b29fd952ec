"""The reference training run behind ``gradledger train`` and ``gradledger compare``.

Names are imported when they are first touched: a mistake in a configuration is told before torch is loaded.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gradledger.train.config import Choice as Choice
    from gradledger.train.config import TrainConfig as TrainConfig
    from gradledger.train.config import load_config as load_config
    from gradledger.train.data import Data as Data
    from gradledger.train.files import RunFiles as RunFiles
    from gradledger.train.records import Observer as Observer
    from gradledger.train.run import Run as Run
    from gradledger.train.run_directory import RunDirectory as RunDirectory
    from gradledger.train.setup import load_data as load_data
    from gradledger.train.setup import prepare as prepare

_HOMES = {
    "Choice": "config",
    "TrainConfig": "config",
    "load_config": "config",
    "Data": "data",
    "RunFiles": "files",
    "Observer": "records",
    "Run": "run",
    "RunDirectory": "run_directory",
    "load_data": "setup",
    "prepare": "setup",
}

__all__ = [*_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'gradledger.train' has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
