"""What auditor and linter report: the finding, which ones are wanted, how they are written. Imports no torch."""

from gradledger.findings.finding import EXIT_CLEAN as EXIT_CLEAN
from gradledger.findings.finding import EXIT_FINDINGS as EXIT_FINDINGS
from gradledger.findings.finding import SEVERITIES as SEVERITIES
from gradledger.findings.finding import Finding as Finding
from gradledger.findings.finding import Severity as Severity
from gradledger.findings.finding import exit_status as exit_status
from gradledger.findings.finding import in_source_order as in_source_order
from gradledger.findings.finding import merge as merge
from gradledger.findings.finding import only_on as only_on
from gradledger.findings.finding import worst_first as worst_first
from gradledger.findings.formats import FORMATS as FORMATS
from gradledger.findings.formats import FormatName as FormatName
from gradledger.findings.formats import render as render
from gradledger.findings.ignore import ignored_slugs as ignored_slugs
from gradledger.findings.ignore import without_ignored as without_ignored
from gradledger.findings.select import Selection as Selection
from gradledger.findings.select import selection as selection
