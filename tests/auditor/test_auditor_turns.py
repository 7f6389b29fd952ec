"""The garbage collector and other threads may come at any line: the books stay whole."""

import gc
import os
import sys
import threading
from contextlib import contextmanager

import pytest
import torch
from torch import nn

import gradledger


def small():
    model = nn.Linear(3, 1)
    return model, torch.optim.SGD(model.parameters(), lr=0.1)


def train(model, optimizer, num_updates):
    for _ in range(num_updates):
        model(torch.ones(2, 3)).mean().backward()
        for p in model.parameters():
            p.grad.data.div_(2)
            p.grad /= 2
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()


def leave_garbage():
    """An account whose optimizer only the garbage collector will end, with a gradient in it."""
    model, optimizer = small()
    model.optimizer, optimizer.model = optimizer, model
    model(torch.ones(2, 3)).mean().backward()
    optimizer.step()


RECORDING = os.sep.join(["gradledger", "auditor", "recording", ""])


@contextmanager
def collecting_at(number):
    """Run the garbage collector at the line of this number among those that the recorder goes through."""
    num_lines = 0

    def look(frame, event, argument):
        nonlocal num_lines
        if RECORDING not in frame.f_code.co_filename:
            return None
        if event == "line":
            num_lines += 1
            if num_lines == number:
                gc.collect()
        return look

    before = sys.gettrace()
    sys.settrace(look)
    try:
        yield lambda: num_lines
    finally:
        sys.settrace(before)


@pytest.fixture
def only_collected_by_hand():
    train(*small(), 1)  # torch loads what it needs
    gc.collect()
    gc.freeze()  # what lives already is not gone through again: collecting is quick
    gc.disable()
    yield
    gc.enable()
    gc.unfreeze()


def test_an_optimizer_may_be_collected_at_any_line(only_collected_by_hand):
    with gradledger.audit(select=["clip-inside-window"]) as auditor:
        model, optimizer = small()
        with collecting_at(0) as num_lines:
            train(model, optimizer, 1)
        places = range(1, num_lines(), 31)
        for number in places:
            leave_garbage()
            with collecting_at(number):
                train(model, optimizer, 1)
    assert len(places) > 25
    assert auditor.num_updates == 1 + 2 * len(places)
    letters = [entry.letter for entry in auditor.ledger if entry.account == auditor.ledger.accounts[0]]
    assert "".join(filter(str.isalpha, letters)) == "BACSZ" * (1 + len(places))


def test_threads_that_train_at_the_same_time():
    errors = []

    def work():
        try:
            for _ in range(4):
                train(*small(), 5)
        except BaseException as error:
            errors.append(error)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with gradledger.audit() as auditor:
            threads = [threading.Thread(target=work) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert errors == []
    assert auditor.num_updates == 4 * 4 * 5
    assert auditor.findings == []
