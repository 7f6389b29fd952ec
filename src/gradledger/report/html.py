"""The report as one HTML file that needs nothing else: styles, scripts and data are inside, no request leaves it."""

from __future__ import annotations

import base64
import hashlib
import json
from functools import cache
from importlib.resources import files
from typing import Any

from gradledger.printing import printable
from gradledger.report.page import Page
from gradledger.report.wording import duration, percent

REFRESH_SECONDS = 5
MAX_MATRIX_CLASSES = 30


def to_html(page: Page) -> str:
    """Write a report as HTML. Whatever comes from the user is escaped, and scripts in it would not be let run."""
    import jinja2
    from markupsafe import Markup

    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_asset),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        finalize=lambda value: printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value,
    )
    environment.filters.update(duration=duration, percent=percent, tight=_tight)
    plotly = _plotly() if page.charts else ""
    scripts = [_asset("page.js"), _asset("ledger.js")]
    return environment.get_template("page.html.j2").render(
        page=page,
        style=Markup(_asset("page.css")),
        scripts=[Markup(script) for script in scripts],
        theme_script=Markup(_asset("theme.js")),
        script_hashes=" ".join(_hash(script) for script in (_asset("theme.js"), plotly, *scripts)),
        plotly=Markup(plotly),
        data=Markup(_data(page)),
        max_matrix_classes=MAX_MATRIX_CLASSES,
    )


def _data(page: Page) -> str:
    """What the scripts draw; ``<`` is written so that no text in it can end the element that holds it."""
    data: dict[str, Any] = {
        "runs": [run.name for run in page.runs],
        "groups": list(page.comparison.groups) if page.comparison else [],
        "charts": [chart.to_json() for chart in page.charts],
        "tracks": [{"run": index, **track.to_json()} for index, run in enumerate(page.runs) for track in run.tracks],
        "refreshSeconds": REFRESH_SECONDS if page.is_live else 0,
    }
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c")


def _tight(text: str) -> str:
    """Numbers keep their percent sign and their interval on the line."""
    return text.replace(" %", "\u00a0%").replace(" ± ", "\u00a0±\u00a0")


@cache
def _asset(name: str) -> str:
    return (files("gradledger.report") / "assets" / name).read_text(encoding="utf-8")


@cache
def _plotly() -> str:
    from plotly.offline import get_plotlyjs

    return str(get_plotlyjs())


@cache
def _hash(script: str) -> str:
    digest = hashlib.sha256(script.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
