"""Mending files."""
