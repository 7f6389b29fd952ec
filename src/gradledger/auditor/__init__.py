"""Takes a ledger from any running training loop and puts it before the rules."""

from gradledger.auditor.session import Auditor as Auditor
from gradledger.auditor.session import audit as audit
