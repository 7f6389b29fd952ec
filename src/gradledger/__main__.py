"""``python -m gradledger`` is the command line."""

from gradledger.cli import main

main()
