"""Proof on the user's own model: the whole batch against its micro-batches, and the cause where they differ."""

from gradledger.verifier.model import verify as verify
from gradledger.verifier.result import Cause as Cause
from gradledger.verifier.result import ParameterError as ParameterError
from gradledger.verifier.result import Verification as Verification
from gradledger.verifier.step import verify_step as verify_step
