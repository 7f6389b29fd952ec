"""The examples in docstrings run."""

import doctest
import importlib
import pkgutil

import pytest

import gradledger

NAMES = sorted(
    module.name
    for module in pkgutil.walk_packages(gradledger.__path__, "gradledger.")
    if not module.name.endswith("__main__")
)


@pytest.mark.parametrize("name", NAMES)
def test_docstring_examples(name):
    results = doctest.testmod(importlib.import_module(name))
    assert results.failed == 0
