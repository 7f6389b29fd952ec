"""Runs a script as ``__main__`` under an audit, as ``python SCRIPT ARGS`` would run it."""

from __future__ import annotations

import io
import os
import sys
import threading
import tokenize
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from types import CodeType, ModuleType, TracebackType
from typing import TYPE_CHECKING, Literal

from gradledger.errors import UserError
from gradledger.reading import read_file

if TYPE_CHECKING:
    from gradledger.auditor.session import Auditor

_MOST_BYTES = 1 << 24

Outcome = Literal["finished", "stopped", "interrupted", "failed"]


@dataclass(frozen=True, slots=True)
class ScriptRun:
    """How a script ended.

    Args:
        outcome: ``finished`` by itself, ``stopped`` after the updates asked for, ``interrupted`` from the keyboard, or
            ``failed`` (an exception, ``sys.exit`` with a status).
        detail: What is to be said about it; empty where there is nothing.
    """

    outcome: Outcome
    detail: str = ""


def load_script(path: str) -> CodeType:
    """Compile a script.

    Raises:
        UserError: It cannot be read or is not Python.
    """
    if os.path.isdir(path):
        raise UserError(f"{path} is a folder: name the script in it")
    try:
        raw = io.BytesIO(read_file(path, most_bytes=_MOST_BYTES))
        encoding, _ = tokenize.detect_encoding(raw.readline)
        raw.seek(0)
        source = io.TextIOWrapper(raw, encoding).read()
        return compile(source, os.path.abspath(path), "exec", dont_inherit=True)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except SyntaxError as error:
        raise UserError(f"{path}, line {error.lineno or 1}: {error.msg}") from None
    except UserError:
        raise
    except (RecursionError, MemoryError):
        raise UserError(f"{path} nests too deeply") from None
    except ValueError as error:  # null bytes, a wrong encoding
        raise UserError(f"{path} is not a Python script: {error}") from None


def run_script(path: str, code: CodeType, arguments: Sequence[str], auditor: Auditor) -> ScriptRun:
    """Run a script as ``__main__`` under an auditor that has not begun.

    Args:
        path: The script.
        code: What :func:`load_script` made of it.
        arguments: Its own arguments.
        auditor: What looks on.
    """
    main = ModuleType("__main__")
    main.__dict__.update(__file__=os.path.abspath(path), __builtins__=__builtins__, __spec__=None, __cached__=None)
    sys.modules["__main__"] = main
    sys.argv = [path, *arguments]
    sys.path[0] = os.path.dirname(os.path.abspath(path))
    try:
        with auditor:
            exec(code, main.__dict__)
            _join_threads()
    except SystemExit as request:
        return _after_exit(request)
    except KeyboardInterrupt:
        return ScriptRun("interrupted", "The script was interrupted; findings so far:")
    except BaseException as error:
        traceback.print_exception(type(error), error, _own_part(error.__traceback__))
        return ScriptRun("failed", f"The script failed with {type(error).__name__}; findings so far:")
    if auditor.stopped:
        return ScriptRun("stopped", f"Stopped after {auditor.num_updates} updates, as asked.")
    return ScriptRun("finished")


def sudden_end(auditor: Auditor, means: str, number: int) -> ScriptRun:
    """How a script ended that unwound no stack; the audit ends with it.

    Args:
        auditor: What looked on.
        means: ``os._exit`` or ``SIGTERM``.
        number: The status, or the signal.
    """
    is_done = means == "os._exit" and number == 0
    auditor.__exit__(None, None if is_done else SystemExit(1), None)
    if is_done:
        return ScriptRun("finished")
    if means == "SIGTERM":
        return ScriptRun("interrupted", "The script was terminated; findings so far:")
    return ScriptRun("failed", f"The script ended its process at once with status {number}; findings so far:")


def _after_exit(request: SystemExit) -> ScriptRun:
    if request.code in (None, 0):
        return ScriptRun("finished")
    if not isinstance(request.code, int):
        print(request.code, file=sys.stderr)  # noqa: T201  # what Python itself does with sys.exit("text")
    status = int(request.code) if isinstance(request.code, int) else 1
    return ScriptRun("failed", f"The script ended itself with status {status}; findings so far:")


def _own_part(trace: TracebackType | None) -> TracebackType | None:
    """The traceback from the script's first line on."""
    package = os.path.dirname(os.path.abspath(__file__))
    while trace is not None and trace.tb_frame.f_code.co_filename.startswith(package):
        trace = trace.tb_next
    return trace


def _join_threads() -> None:
    """Wait for the script's threads as Python does before it ends."""
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join()
