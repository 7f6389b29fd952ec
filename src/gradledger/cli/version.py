"""``gradledger version``."""

import typer

import gradledger


def version() -> None:
    """Print the version."""
    typer.echo(gradledger.__version__)
