"""The forms that a report can be written in."""

from __future__ import annotations

from collections.abc import Callable

from gradledger.report.as_json import to_json
from gradledger.report.html import to_html
from gradledger.report.markdown import to_markdown
from gradledger.report.page import Page

FORMATS: dict[str, Callable[[Page], str]] = {"html": to_html, "markdown": to_markdown, "json": to_json}


def render(page: Page, format_name: str) -> str:
    """Write a page in one of :data:`FORMATS`."""
    return FORMATS[format_name](page)
