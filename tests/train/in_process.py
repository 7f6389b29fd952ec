"""Runs the command line in this process, which spares each call the import of torch."""

import contextlib
import io
import os
import sys
from types import SimpleNamespace

import pytest

from gradledger.cli import main


def run_command(directory, command, *arguments):
    """Status, standard output and standard error of a command, run in a directory."""
    out, err = io.StringIO(), io.StringIO()
    before, argv = os.getcwd(), sys.argv
    os.chdir(directory)
    sys.argv = ["gradledger", command, *arguments]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as caught:
            main()
    finally:
        os.chdir(before)
        sys.argv = argv
    return SimpleNamespace(status=caught.value.code or 0, out=out.getvalue(), err=err.getvalue())
