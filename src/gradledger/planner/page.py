"""A plan as one self-contained HTML page, whose plot can be saved as a PNG."""

from __future__ import annotations

from textwrap import wrap
from typing import Any

from gradledger.engine.memory.limits import readable_bytes
from gradledger.planner.result import Plan

_LINE = 54  # letters, which a phone has room for
_MOST_ON_LINEAR_AXIS = 30
_SPEED, _MEMORY, _CHOICE = "#3b6fb6", "#c8783c", "#2e8b57"


def as_html(plan: Plan) -> str:
    """The page."""
    config = {
        "displaylogo": False,
        "toImageButtonOptions": {"format": "png", "filename": "gradledger-plan", "scale": 2},
    }
    return str(figure(plan).to_html(include_plotlyjs=True, full_html=True, config=config))


def figure(plan: Plan) -> Any:
    """Throughput and peak memory over the micro-batch size, as a plotly figure."""
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    drawn = make_subplots(specs=[[{"secondary_y": True}]])
    timed = [row for row in plan.rows if row.seconds]
    drawn.add_trace(
        go.Scatter(
            x=[row.micro_batch_size for row in timed],
            y=[plan.effective_batch_size / (row.seconds or 1.0) for row in timed],
            name="samples per second",
            mode="lines+markers",
            line={"color": _SPEED},
            marker={"symbol": ["circle" if row.is_measured else "circle-open" for row in timed], "size": 9},
        )
    )
    drawn.add_trace(
        go.Scatter(
            x=[row.micro_batch_size for row in plan.rows],
            y=[row.peak_bytes for row in plan.rows],
            name="peak memory",
            mode="lines+markers",
            line={"color": _MEMORY, "dash": "dot"},
            text=[readable_bytes(row.peak_bytes) for row in plan.rows],
            hovertemplate="%{text}",
        ),
        secondary_y=True,
    )
    sizes = [row.micro_batch_size for row in plan.rows]
    drawn.add_trace(
        go.Scatter(
            x=[sizes[0], sizes[-1]],
            y=[plan.limit_bytes] * 2,
            name=f"memory there is ({readable_bytes(plan.limit_bytes)})",
            mode="lines",
            line={"color": _MEMORY, "width": 1},
        ),
        secondary_y=True,
    )
    if plan.recommended is not None:
        drawn.add_vline(x=plan.recommended.micro_batch_size, line={"color": _CHOICE, "width": 2})
    drawn.update_xaxes(
        title="samples per micro-batch", type="log", tickvals=[row.micro_batch_size for row in plan.rows]
    )
    drawn.update_yaxes(title="samples per second", rangemode="tozero")
    drawn.update_yaxes(title="bytes", **_memory_axis(plan), secondary_y=True, showgrid=False)
    verdict = wrap(plan.verdict[0].upper() + plan.verdict[1:], _LINE)
    drawn.update_layout(
        title={"text": f"Effective batch {plan.effective_batch_size}", "subtitle": {"text": "<br>".join(verdict)}},
        template="plotly_white",
        legend={"orientation": "h"},
        margin={"t": 92 + 16 * len(verdict)},
    )
    return drawn


def _memory_axis(plan: Plan) -> dict[str, Any]:
    """From zero, where that leaves something to be seen; else by powers of ten."""
    drawn = [row.peak_bytes for row in plan.rows] + [plan.limit_bytes]
    if max(drawn) <= _MOST_ON_LINEAR_AXIS * min(drawn):
        return {"rangemode": "tozero", "tickmode": "auto", "tickformat": ".3~s"}
    return {"type": "log", "tickformat": "~s", "dtick": 1}
