"""Planning: memory and time per micro-batch size, the size to choose, and what more ranks would give."""

from gradledger.planner.communication import Link as Link
from gradledger.planner.planning import plan as plan
from gradledger.planner.result import Plan as Plan
from gradledger.planner.result import PlanRow as PlanRow
