"""Updates that balance by construction: the accumulator and its windows."""

from gradledger.engine.accumulator import Accumulator as Accumulator
from gradledger.engine.closing import NonFiniteError as NonFiniteError
from gradledger.engine.counters import class_weights as class_weights
from gradledger.engine.counters import elements as elements
from gradledger.engine.counters import tokens as tokens
from gradledger.engine.horizon import num_updates as num_updates
from gradledger.engine.parallel.ranks import RankError as RankError
from gradledger.engine.window import Window as Window
