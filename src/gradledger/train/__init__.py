"""The reference training run behind ``gradledger train`` and ``gradledger compare``."""

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
