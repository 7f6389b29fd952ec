"""Runs ``python -m gradledger`` many times, in forks of one process that has loaded what a training needs already.

Reads one JSON object a line, with ``arguments`` and the files ``stdout`` and ``stderr``; answers with the exit status.
"""

import atexit
import json
import os
import runpy
import signal
import sys

import torch

import gradledger
from gradledger.findings import render


def load():
    """Train once: torch imports much only when an optimizer steps."""
    model = torch.nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters())
    with gradledger.audit() as auditor:
        for _ in range(2):
            model(torch.ones(1, 1)).mean().backward()
            optimizer.step()
    for name in ("text", "json"):
        render(auditor.findings, name)


def run(arguments, stdout, stderr):
    """Become the command."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number, path in ((0, os.devnull), (1, stdout), (2, stderr)):
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, number)
        os.close(file)
    sys.argv = ["gradledger", *arguments]
    status = 0
    try:
        runpy.run_module("gradledger", run_name="__main__", alter_sys=True)
    except SystemExit as request:
        status = request.code
    sys.stdout.flush()
    sys.stderr.flush()
    atexit._run_exitfuncs()
    os._exit(status)  # taking all of torch apart takes longer than the whole command


load()
for line in sys.stdin:
    child = os.fork()
    if not child:
        run(**json.loads(line))
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
