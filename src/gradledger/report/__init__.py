"""Draw a run: one HTML file, Markdown, JSON, a few lines in the terminal, TensorBoard files."""

from gradledger.report.formats import FORMATS as FORMATS
from gradledger.report.formats import render as render
from gradledger.report.page import Page as Page
from gradledger.report.page import page_of as page_of
from gradledger.report.runs import Run as Run
from gradledger.report.runs import read_run as read_run
from gradledger.report.runs import read_runs as read_runs
from gradledger.report.tensorboard import write_tensorboard as write_tensorboard
from gradledger.report.terminal import print_summary as print_summary
from gradledger.report.writing import write_atomically as write_atomically
from gradledger.report.writing import write_report as write_report
