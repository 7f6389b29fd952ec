"""``gradledger version``."""

import gradledger
from gradledger.cli._console import write


def version() -> None:
    """Print the version."""
    write(f"{gradledger.__version__}\n")
