"""A short campaign of bad input, and whether a campaign sees what it looks for."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]

_JUDGED = """
import sys, tempfile
from pathlib import Path
from fuzz.case import Case
from fuzz.executing import execute
from fuzz.judging import judge, snapshot

folder = Path(tempfile.mkdtemp(dir=sys.argv[1]))
work = folder / "work"
for place in (work, folder / "home"):
    place.mkdir()

def main():
{body}

before = snapshot(work)
ended = execute(Case(writes=("report.html",)), main, folder, 2.0)
print(list(judge(Case(writes=("report.html",)), ended, before, snapshot(work), work).problems))
"""


def test_no_reader_stumbles_over_bad_input():
    campaign = subprocess.run(
        [sys.executable, "-m", "fuzz", "--cases", "150"], cwd=TESTS, capture_output=True, text=True, timeout=600
    )
    assert campaign.returncode == 0, campaign.stdout[-5000:] + campaign.stderr[-2000:]
    counts = [int(cell) for cell in re.findall(r"\d+", campaign.stdout.split("\nall ")[1].split("\n")[0])]
    assert counts[0] >= 140
    assert counts[1] > 20, "a campaign that everything is refused in tries little"
    assert counts[3:] == [0, 0, 0, 0, 0]


@pytest.mark.parametrize(
    ("body", "problems"),
    [
        ("print('fine')", []),
        ("raise KeyError('x')", ["tracebacks"]),
        ("import os; os.abort()", ["tracebacks"]),
        ("bytearray(4 << 30)", ["tracebacks"]),
        ("while True: pass", ["hangs"]),
        ("import os; os.mkfifo('fifo'); open('fifo')", ["hangs", "writes outside"]),
        ("sys.exit(7)", ["unclear"]),
        ("sys.exit(2)", ["unclear"]),
        ("print('x' * 9000, file=sys.stderr); sys.exit(2)", ["unclear"]),
        ("open('new', 'w')", ["writes outside"]),
        ("open(Path.cwd().parent / 'new', 'w')", ["writes outside"]),
        ("(Path.cwd().parent / 'folder').mkdir()", ["writes outside"]),
        ("print('\\x1b[31m')", ["unescaped"]),
        ("print('\\x9b', file=sys.stderr)", ["unescaped"]),
        ("open('report.html', 'w').write('<p><fuzz-mark></p>')", ["unescaped"]),
        ("open('report.html', 'w').write('&lt;fuzz-mark&gt;')", []),
        ("sys.stdout = open('/dev/full', 'w'); print('x')", ["tracebacks"]),
    ],
)
def test_a_campaign_sees_what_it_looks_for(tmp_path, body, problems):
    script = _JUDGED.replace("{body}", f"    {body}")
    probe = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], cwd=TESTS, capture_output=True, text=True, timeout=120
    )
    assert probe.stdout.strip() == repr(problems), probe.stderr
