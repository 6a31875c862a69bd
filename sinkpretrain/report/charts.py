"""The charts of the page: their place, how to read them, and the scripts that draw the curves there."""

import base64
import gzip
import json
from html import escape
from pathlib import Path
from typing import Any

from sinkpretrain.report.scope import Scope
from sinkpretrain.report.story import figure


def section(drawn: dict[str, Any], scope: Scope) -> str:
    """The charts' place in the page, with how to read them; where scripts do not run, the validation loss as it is."""
    several = any(arm["means"] for arm in drawn["arms"])
    seeds = (
        "Bold: the mean of a variant's seeds, at the steps that all of them have; thin: one seed; band: from the "
        "lowest seed to the highest, not an interval for the mean. "
        if several
        else "One line a run. "
    )
    if any(run["diverged"] for arm in drawn["arms"] for run in arm["runs"]):
        seeds += "Runs that diverged are shown, and are left out of the vertical range. "
    if any(arm["hidden"] for arm in drawn["arms"]):
        seeds += "Learning rates that were not chosen are switched off at first. "
    use = (
        "Point at a line for its values. The names below a chart switch lines off and on. Drag to enlarge, "
        "double-click to return."
    )
    static = "validation_loss"
    fallback = figure(static, scope.compared, "") if static in shown(drawn) else ""
    return (
        f'<div id="curves" class="curves"></div>\n<p class="note">{escape(seeds)}'
        f'<span class="on-screen">{escape(use)}</span></p>\n'
        f"<noscript><p>Switching and hovering need scripts, which do not run here.</p>\n{fallback}</noscript>\n"
    )


def scripts(drawn: dict[str, Any]) -> str:
    """The library, the data and the script of the charts, to stand at the end of the page."""
    from plotly.offline import get_plotlyjs  # type: ignore[import-untyped]

    data = json.dumps(drawn, allow_nan=False, separators=(",", ":")).replace("<", r"\u003c")
    own = Path(__file__).with_name("curves.js").read_text(encoding="utf-8")
    library = base64.b64encode(gzip.compress(get_plotlyjs().encode(), mtime=0)).decode()  # 2 MB instead of 5
    return (
        f'<script id="plotly" type="application/gzip">{library}</script>\n'
        f'<script id="curves-data" type="application/json">{data}</script>\n<script>\n{own}</script>\n'
    )


def shown(drawn: dict[str, Any] | None) -> set[str]:
    """Names of the static figures that the charts stand for."""
    charts = drawn["charts"] if drawn else ()
    return {quantity["figure"] for chart in charts for quantity in chart["quantities"]} - {""}
