"""What the user or the system does wrong ends in one clear line, and nothing that is shown can steer a terminal."""

import io
import os
import re
import subprocess
import sys
import threading

import pytest

from gradledger.blaming import explained, is_foreign
from gradledger.errors import UserError
from gradledger.printing import make_console, printable, shortened, shown
from gradledger.reading import name_of, read_file
from train.in_process import run_command

ESCAPE = "\x1b[31m"
LOOP = """\
import torch
model = torch.nn.Linear(2, 2)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for step, x in enumerate(torch.randn(9, 4, 2)):
    model(x).mean().backward()
    if step % 4 == 3:
        optimizer.step()
        optimizer.zero_grad()
"""
TARGET = "import torch\nfrom torch import nn\n\ndef make():\n    return nn.Linear(3, 2), {loss}, (torch.randn(6, 3),)\n"


def _start(*arguments, directory, **options):
    command = [sys.executable, "-m", "gradledger", *arguments]
    return subprocess.run(command, cwd=directory, stderr=subprocess.PIPE, timeout=120, **options)


def test_what_is_printable():
    assert printable("a\tb\nc é 🔥") == "a\tb\nc é 🔥"
    assert printable("\x1b\x9b\x7f\0\r\udcff\u202e") == r"\x1b\x9b\x7f\x00\r\udcff\u202e"


def test_a_console_shows_text_and_keeps_its_own_colours():
    stream = io.StringIO()
    console = make_console(file=stream, force_terminal=True, color_system="standard", highlight=False)
    console.print(f"[red]{ESCAPE}]0;title\x07[/red]")
    assert stream.getvalue() == "\x1b[31m\\x1b[31m]0;title\x1b[0m\n"


def test_values_are_shown_short():
    assert len(shown([["x" * 10_000] * 100] * 100)) < 5000
    assert shown(10**5000) == "a value of type int that is too large to be shown"
    assert shown({"b": 1, "a": [2]}) == "{'b': 1, 'a': [2]}"
    assert len(shortened("x" * 100_000)) < 2010


def test_a_pipe_without_a_writer_is_empty_and_one_with_a_writer_is_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert read_file(tmp_path / "pipe", most_bytes=10) == b""
    writer = threading.Thread(target=lambda: (tmp_path / "pipe").write_bytes(b"late"), name="ThreadPoolExecutor-pipe")
    descriptor = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)  # so that the writer may begin
    writer.start()
    while not (read := read_file(tmp_path / "pipe", most_bytes=10)):
        pass
    writer.join()
    os.close(descriptor)
    assert read == b"late"


def test_endless_files_and_folders_are_refused(tmp_path):
    with pytest.raises(UserError, match="/dev/zero has more than the 1,000 bytes"):
        read_file("/dev/zero", most_bytes=1000)
    with pytest.raises(IsADirectoryError):
        read_file(tmp_path, most_bytes=1000)


def test_a_link_to_itself_has_a_name(tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    assert name_of(tmp_path / "loop") == "loop"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("lint", f"--{ESCAPE}"), r"No such option: --\x1b[31m"),
        ((ESCAPE,), r"No such command '\x1b[31m'"),
        (("rules", ESCAPE), r"\x1b[31m"),
        (("lint", f"{ESCAPE}.py"), r"\x1b[31m.py"),
        (("train", f"{ESCAPE}.yaml"), r"\x1b[31m.yaml cannot be read: No such file or directory"),
        (("report", "missing", "--format", ESCAPE), r"\x1b[31m"),
        (("lint", "--output", "no/folder", "."), "no/folder: No such file or directory"),
        (("train", "/dev/zero"), "/dev/zero has more than the 262,144 bytes that are read of such a file"),
        (("audit", "/dev/zero"), "/dev/zero has more than the 16,777,216 bytes"),
        (("train", "--set", "epochs=" + "9" * 5000), "is not YAML: Exceeds the limit"),
    ],
)
def test_mistakes_end_in_a_line_without_control_characters(tmp_path, arguments, message):
    called = run_command(tmp_path, *arguments)
    assert called.status == 2
    assert message in called.err
    assert ESCAPE not in called.err + called.out
    assert len(called.err) < 3000


@pytest.mark.parametrize("loss", ["lambda m, b: 1 / 0", "lambda m, b: exit(7)"])
@pytest.mark.parametrize("command", ["verify", "plan"])
def test_own_code_that_fails_is_named_with_its_line(tmp_path, command, loss):
    (tmp_path / "own.py").write_text(TARGET.format(loss=loss))
    called = run_command(tmp_path, command, "own.py:make")
    assert called.status == 2
    assert re.search("fails: ZeroDivisionError|fails with (ZeroDivisionError|SystemExit).*own.py, line 5", called.err)


def test_only_errors_of_other_code_are_foreign():
    with pytest.raises(ZeroDivisionError) as caught:
        1 / 0  # noqa: B018
    assert is_foreign(caught.value)
    assert explained(caught.value).startswith("ZeroDivisionError: division by zero (")
    with pytest.raises(UserError) as caught:
        read_file("/dev/zero", most_bytes=1)
    assert not is_foreign(caught.value)


def test_a_full_disk_behind_standard_output_is_told(tmp_path):
    with open("/dev/full", "w") as full:
        ended = _start("rules", directory=tmp_path, stdout=full)
    assert ended.returncode == 2
    assert ended.stderr == b"gradledger: standard output cannot be written: No space left on device\n"


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_standard_streams_may_be_closed(tmp_path, closed):
    command = f'"$1" -m gradledger rules nothing {closed}; echo "status $?" > told'
    subprocess.run(["sh", "-c", command, "sh", sys.executable], cwd=tmp_path, timeout=120, check=True)
    assert (tmp_path / "told").read_text() == "status 2\n"


def test_characters_that_the_output_cannot_hold_are_replaced(tmp_path):
    (tmp_path / "train.py").write_text(LOOP)
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    ended = _start("lint", "train.py", directory=tmp_path, stdout=subprocess.PIPE, env=environment)
    assert ended.returncode == 1, ended.stderr
    assert b"4.00 ? the mean" in ended.stdout


def test_a_traceback_is_shown_to_those_who_ask_for_it(tmp_path, monkeypatch):
    assert "Traceback" not in run_command(tmp_path, "train", "missing.yaml").err
    monkeypatch.setenv("GRADLEDGER_TRACEBACK", "1")
    assert "Traceback" in run_command(tmp_path, "train", "missing.yaml").err


def test_audit_says_that_it_executes_the_script(tmp_path):
    assert "This executes the script" in " ".join(run_command(tmp_path, "audit", "--help").out.split())
