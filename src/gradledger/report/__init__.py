"""Draw a run: one HTML file, Markdown, JSON, a few lines in the terminal, TensorBoard files."""

from gradledger.report.writing import write_report as write_report
