"""Keeps the ledger of a running program: ``recorder.py`` puts the parts together."""
