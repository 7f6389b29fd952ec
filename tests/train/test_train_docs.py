"""The documentation of the configuration is true, and its examples run."""

import re
from pathlib import Path

import pytest
import yaml

from gradledger.train import Run, TrainConfig, load_config, prepare
from gradledger.train.choices import data_registry, loss_registry, model_registry, scheduler_registry

TEXT = (Path(__file__).parents[2] / "docs" / "train.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", TEXT, flags=re.DOTALL)
CONFIGURATIONS = [block for kind, block in BLOCKS if kind == "yaml"]


def test_every_key_is_documented_with_its_default():
    documented = yaml.safe_load(CONFIGURATIONS[0])
    defaults = TrainConfig().model_dump()
    for key in ("data", "model", "loss", "optimizer", "scheduler", "parallel"):
        documented[key] = {"name": documented[key]}
    assert documented == defaults


@pytest.mark.parametrize("registry", [data_registry, model_registry, loss_registry, scheduler_registry])
def test_every_built_in_is_documented(registry):
    (line,) = [line for line in CONFIGURATIONS[0].splitlines() if line.startswith(f"{registry.key}:")]
    assert set(re.findall(r"[\w-]+", line.partition("#")[2])) >= registry.built_ins.keys()


@pytest.mark.parametrize("configuration", CONFIGURATIONS[1:])
def test_every_configuration_trains(configuration, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "my-notes.txt").write_text("A note on accumulation. " * 60)
    (source,) = [block for kind, block in BLOCKS if kind == "python"]
    (tmp_path / "mine.py").write_text(source)
    (tmp_path / "config.yaml").write_text(configuration)
    config = load_config(tmp_path / "config.yaml", ["epochs=1", "device=cpu"])
    assert Run(prepare(config)).train().exit == "finished"
