"""What happened to gradients: entries, windows, the balance algebra, and their text and JSON-lines forms.

Imports no torch: the engine keeps a ledger, the auditor takes one, the linter predicts one, and the rules judge all
three.
"""

from gradledger.ledger.balance import Balance as Balance
from gradledger.ledger.balance import balance_of as balance_of
from gradledger.ledger.balance import coefficients_of as coefficients_of
from gradledger.ledger.book import EntryBlock as EntryBlock
from gradledger.ledger.book import Ledger as Ledger
from gradledger.ledger.entries import DEFAULT_ACCOUNT as DEFAULT_ACCOUNT
from gradledger.ledger.entries import KINDS as KINDS
from gradledger.ledger.entries import Adjust as Adjust
from gradledger.ledger.entries import Average as Average
from gradledger.ledger.entries import Backward as Backward
from gradledger.ledger.entries import Clip as Clip
from gradledger.ledger.entries import Entry as Entry
from gradledger.ledger.entries import EpochEnd as EpochEnd
from gradledger.ledger.entries import EpochStart as EpochStart
from gradledger.ledger.entries import Evaluate as Evaluate
from gradledger.ledger.entries import Location as Location
from gradledger.ledger.entries import Metric as Metric
from gradledger.ledger.entries import Reduction as Reduction
from gradledger.ledger.entries import ScalerUpdate as ScalerUpdate
from gradledger.ledger.entries import Schedule as Schedule
from gradledger.ledger.entries import Step as Step
from gradledger.ledger.entries import Sync as Sync
from gradledger.ledger.entries import Unscale as Unscale
from gradledger.ledger.entries import Zero as Zero
from gradledger.ledger.jsonl import LedgerFormatError as LedgerFormatError
from gradledger.ledger.jsonl import entry_from_json as entry_from_json
from gradledger.ledger.jsonl import entry_to_json as entry_to_json
from gradledger.ledger.jsonl import read_ledger as read_ledger
from gradledger.ledger.jsonl import write_header as write_header
from gradledger.ledger.jsonl import write_ledger as write_ledger
from gradledger.ledger.text import from_text as from_text
from gradledger.ledger.text import to_text as to_text
from gradledger.ledger.windows import Window as Window
from gradledger.ledger.windows import windows_of as windows_of
