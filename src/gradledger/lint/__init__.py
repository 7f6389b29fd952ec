"""Lint: predicts from source text the ledger that a training loop would keep, and lets the rules judge it.

Nothing is run and torch is never imported. A small abstract machine interprets the file, unrolls its training loop over
a few micro-batches and epochs, tries each consistent truth of flags that the source leaves open, and writes down what
would happen to the gradients.
"""

from gradledger.lint.predict import predict as predict
from gradledger.lint.run import Report as Report
from gradledger.lint.run import lint_paths as lint_paths
from gradledger.lint.run import lint_text as lint_text
