"""Adapters that make the windows of other trainers exact, and audit them: one module a trainer.

``gradledger.integrations.accelerate``, ``.lightning`` (the Trainer), ``.fabric`` and ``.transformers`` each have
``ExactWindows``, for the trainer's own idea of a window, and the audit as a callback or a block. A trainer is imported
with its own module only.
"""
