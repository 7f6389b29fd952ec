"""`gradledger audit`: exit status, streams, formats, and everything that can go wrong with a script."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

TRAIN = """
import sys, torch
print("on standard output", *sys.argv[1:])
torch.manual_seed(0)
model = torch.nn.Linear(3, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
def train(num_updates=4):
    for _ in range(num_updates):
        model(torch.randn(4, 3)).mean().backward()
        optimizer.step()
"""
CLEAN = TRAIN.replace("optimizer.step()", "optimizer.step(); optimizer.zero_grad()")

SCRIPTS = {
    "stale": (TRAIN + "train()\n", [], ["--lr", "0.1", "-v"]),
    "clean": (CLEAN + "train()\nsys.exit()\n", [], []),
    "parseable": (TRAIN + "train()\n", ["--format", "json"], ["x"]),
    "sarif_file": (TRAIN + "train()\n", ["--format", "sarif", "--output", "report.sarif"], []),
    "never_trains": ("print('hello')\n", [], []),
    "exits_with_status": (TRAIN + "train()\nsys.exit(4)\n", [], []),
    "exits_with_text": (CLEAN + "train()\nsys.exit('no data')\n", [], []),
    "crashes": (TRAIN + "train()\nraise RuntimeError('out of luck')\n", ["--format", "json"], []),
    "interrupts_itself": (TRAIN + "train()\nraise KeyboardInterrupt\n", [], []),
    "stops": (TRAIN + "train(10_000_000)\n", ["--stop-after", "3"], []),
    "as_python_does": (
        "import os, sys\nassert __name__ == '__main__' and os.path.isabs(__file__) and __file__.endswith('.py')\n"
        "assert sys.path[0] == os.path.dirname(__file__) and sys.modules['__main__'].__file__ == __file__\n"
        "import helper_beside_it\nassert __spec__ is None\n",
        [], [],
    ),
    "threads": (
        TRAIN + "import threading\nthread = threading.Thread(target=train)\nthread.start()\n", ["--format", "json"], [],
    ),
    "exits_at_once": (TRAIN + "train()\nimport os\nos._exit(5)\n", ["--format", "json"], []),
    "exits_at_once_cleanly": (CLEAN + "train()\nimport os\nos._exit(0)\n", [], []),
    "is_terminated": (TRAIN + "train()\nimport os, signal\nos.kill(os.getpid(), signal.SIGTERM)\n", [], []),
    "leaves_no_surroundings": (
        TRAIN + "import os, tempfile\nfolder = tempfile.mkdtemp()\nos.chdir(folder)\nos.rmdir(folder)\n"
        "sys.path.clear()\nsys.argv.clear()\nsys.stdout = sys.stderr = open(os.devnull, 'w')\ntrain()\n",
        ["--output", "kept.txt"], [],
    ),
    "closes_its_output": (
        TRAIN + "import atexit, os\natexit.register(os.write, 1, b'said at the end')\ntrain()\n"
        "sys.stdout.close()\nos.close(1)\n",
        ["--format", "json"], [],
    ),
    "deletes_itself": (TRAIN + "import os\nos.remove(__file__)\ntrain()\n", ["--format", "json"], []),
    "removes_the_output": (
        TRAIN + "import shutil\ntrain()\nshutil.rmtree('gone')\n", ["--output", "gone/report.txt"], [],
    ),
    "forks": (
        TRAIN + "import os\ntrain()\nchild = os.fork()\n"
        "if child:\n    assert os.waitpid(child, 0)[1] == 0\nelse:\n    train(1)\n",
        [], [],
    ),
    "loses_a_child": (
        TRAIN + "import multiprocessing, os, signal\n"
        "def end():\n    train()\n    os.kill(os.getpid(), signal.SIGKILL)\n"
        "child = multiprocessing.get_context('fork').Process(target=end)\n"
        "child.start()\nchild.join()\nassert child.exitcode == -9\ntrain()\n",
        ["--format", "json"], [],
    ),
    "has_loader_workers": (
        TRAIN + "for x in torch.utils.data.DataLoader(torch.randn(8, 3), batch_size=4, num_workers=2):\n"
        "    model(x).mean().backward()\n    optimizer.step()\n",
        [], [],
    ),
    "processes": (
        TRAIN + "if __name__ == '__main__':\n    import multiprocessing\n"
        "    for way in ('spawn', 'fork'):\n"
        "        child = multiprocessing.get_context(way).Process(target=train)\n"
        "        child.start()\n        child.join()\n        assert child.exitcode == 0\n",
        ["--format", "json"], [],
    ),
}  # fmt: skip


FORKED_COMMANDS = Path(__file__).parent / "forked_commands.py"


def environment():
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2] / "src")}


def start(folder, *arguments):
    return subprocess.Popen(
        [sys.executable, "-m", "gradledger", *arguments],
        cwd=folder, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        # A suite that was started in the background inherits an ignored Ctrl-C, which its children must not.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Status, standard output and standard error of every script, each in a fork of a process that has loaded torch."""
    folder = tmp_path_factory.mktemp("scripts")
    (folder / "helper_beside_it.py").write_text("")
    (folder / "gone").mkdir()
    orders = []
    for name, (source, options, arguments) in SCRIPTS.items():
        (folder / f"{name}.py").write_text(source)
        command = ["audit", *options, f"{name}.py", *arguments]
        orders.append({"arguments": command, "stdout": f"{name}.out", "stderr": f"{name}.err"})
    done = subprocess.run(
        [sys.executable, str(FORKED_COMMANDS)], input="".join(json.dumps(order) + "\n" for order in orders),
        cwd=folder, env=environment(), capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    statuses = list(map(int, done.stdout.split()))
    assert len(statuses) == len(SCRIPTS), done.stderr
    results = {
        name: (status, (folder / f"{name}.out").read_text(), (folder / f"{name}.err").read_text())
        for name, status in zip(SCRIPTS, statuses, strict=True)
    }
    return {**results, "folder": folder}


STATUS = {
    "stale": 1, "clean": 0, "parseable": 1, "sarif_file": 1, "never_trains": 0,
    "exits_with_status": 3, "exits_with_text": 3, "crashes": 3, "interrupts_itself": 3, "stops": 1,
    "as_python_does": 0, "threads": 1, "processes": 1,
    "exits_at_once": 3, "exits_at_once_cleanly": 0, "is_terminated": 3, "leaves_no_surroundings": 1,
    "closes_its_output": 1, "deletes_itself": 1, "removes_the_output": 2, "forks": 1, "loses_a_child": 1,
    "has_loader_workers": 1,
}  # fmt: skip


@pytest.mark.parametrize("name", SCRIPTS)
def test_exit_status(runs, name):
    status, out, err = runs[name]
    assert status == STATUS[name], out + err
    assert ("Traceback" in err) == (name == "crashes")
    assert "gradledger/auditor" not in err


def test_text_goes_after_the_scripts_own_output(runs):
    _, out, _ = runs["stale"]
    assert out.startswith("on standard output --lr 0.1 -v\nAudited stale.py: 4 backward calls, 4 updates.\n")
    assert "stale.py:10: error GL101 stale-gradient (3 times, first after 1 update)" in out


def test_standard_output_stays_parseable(runs):
    _, out, err = runs["parseable"]
    report = json.loads(out)
    assert [(f["rule"], f["location"], f["count"]) for f in report["findings"]] == [
        ("stale-gradient", {"file": "parseable.py", "line": 10}, 3)
    ]
    assert "on standard output x" in err


def test_a_report_in_a_file(runs):
    assert runs["sarif_file"][1] == ""
    report = json.loads((runs["folder"] / "report.sarif").read_text())
    assert report["runs"][0]["results"][0]["ruleId"] == "GL101"


def test_findings_so_far_are_reported(runs):
    assert json.loads(runs["crashes"][1])["summary"]["error"] == 1
    assert "RuntimeError: out of luck" in runs["crashes"][2]
    assert "The script failed with RuntimeError; findings so far:" in runs["crashes"][2]
    for name, words in (
        ("exits_with_status", "The script ended itself with status 4; findings so far:"),
        ("interrupts_itself", "The script was interrupted; findings so far:"),
        ("stops", "Stopped after 3 updates, as asked."),
    ):
        assert words in runs[name][1]
        assert "stale-gradient" in runs[name][1]
    assert "no data" in runs["exits_with_text"][2]


@pytest.mark.parametrize("name", ["exits_at_once", "closes_its_output", "deletes_itself", "loses_a_child"])
def test_a_script_that_ends_or_spoils_its_process_is_reported(runs, name):
    (finding,) = json.loads(runs[name][1])["findings"]
    assert (finding["rule"], finding["location"]["file"], finding["count"]) == ("stale-gradient", f"{name}.py", 3)


def test_what_a_script_did_to_its_process_is_put_back(runs):
    assert (runs["folder"] / "kept.txt").read_text().startswith("leaves_no_surroundings.py:10: error GL101")
    assert "said at the end" in runs["closes_its_output"][2]


def test_sudden_ends_are_told(runs):
    assert "The script ended its process at once with status 5; findings so far:" in runs["exits_at_once"][2]
    assert "findings so far" not in runs["exits_at_once_cleanly"][1]
    assert "No findings." in runs["exits_at_once_cleanly"][1]
    assert (
        "The script was terminated; findings so far:\nAudited is_terminated.py: 4 backward" in runs["is_terminated"][1]
    )
    assert "stale-gradient" in runs["is_terminated"][1]


def test_findings_that_cannot_be_written_are_shown(runs):
    _, out, err = runs["removes_the_output"]
    assert re.search(r"gradledger: cannot write \S*/gone/report.txt: No such file .*; the findings go to standard", err)
    assert "stale-gradient" in out


def test_a_forked_child_reports_nothing(runs):
    assert runs["forks"][1].count("Audited forks.py: 4 backward calls, 4 updates.") == 1
    assert "(3 times" in runs["forks"][1]


def test_loader_workers_are_no_training(runs):
    assert "Audited has_loader_workers.py: 2 backward calls, 2 updates." in runs["has_loader_workers"][1]


def test_a_script_that_never_trains_is_told_so(runs):
    assert "never_trains.py made no backward pass while it was audited" in runs["never_trains"][1]


def test_threads_and_processes_are_audited(runs):
    for name in ("threads", "processes"):
        findings = json.loads(runs[name][1])["findings"]
        assert [(f["rule"], f["location"]["line"], f["count"]) for f in findings] == [("stale-gradient", 10, 3)]
    assert "8 backward calls, 8 updates" in runs["processes"][2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["audit", "missing.py"], "gradledger: cannot read missing.py: No such file or directory"),
        (["audit", "."], "gradledger: . is a folder: name the script in it"),
        (["audit", "syntax.py"], "gradledger: syntax.py, line 2: '(' was never closed"),
        (["audit", "binary.py"], "binary.py"),
        (["audit", "--select", "GL9", "clean.py"], "gradledger: no rule 'GL9': `gradledger rules` lists the slugs"),
        (["audit", "--output", "no/such/folder/f", "clean.py"], "cannot write no/such/folder/f: No such file"),
        (["rules", "GL999"], "gradledger: no rule 'GL999'"),
    ],
)
def test_mistakes_are_one_line_and_status_2(runs, arguments, message):
    folder = runs["folder"]
    (folder / "syntax.py").write_text("x = 1\ny = (\n")
    (folder / "binary.py").write_bytes(b"\xff\xfe\x00x = 1")
    (folder / "clean.py").write_text("x = 1\n")
    process = start(folder, *arguments)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert message in err
    assert "Traceback" not in err


def test_ctrl_c_ends_with_the_findings_so_far(runs):
    folder = runs["folder"]
    (folder / "endless.py").write_text(TRAIN + "train(2)\nopen('ready', 'w').close()\nwhile True:\n    train(1)\n")
    process = start(folder, "audit", "endless.py")
    deadline = time.monotonic() + 60
    while not (folder / "ready").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        os.sched_yield()
    process.send_signal(signal.SIGINT)
    try:
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 3
    assert "The script was interrupted; findings so far:" in out
    assert "stale-gradient" in out
    assert "Traceback" not in err
