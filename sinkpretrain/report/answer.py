"""The first part of the page: the question, the verdict in a sentence, and what to be careful about."""

from html import escape
from typing import Any

from sinkpretrain.figures.base.arms import config_of
from sinkpretrain.report.scope import Scope
from sinkpretrain.report.tables import imported

QUESTION = "Where do attention sinks come from, and what changes when they are designed away?"


def title(scope: Scope) -> str:
    """What the page is called: the experiment, or the names of the runs' experiments and of models from elsewhere."""
    if scope.experiment is not None:
        return escape(str(scope.experiment["name"]))
    names = [config_of(run).variant if imported(run) else config_of(run).name for run in scope.runs]
    return escape(", ".join(dict.fromkeys(names)))


def question(scope: Scope) -> str:
    """The experiment's own question, or the project's."""
    return escape((scope.experiment or {}).get("question") or QUESTION)


def verdict(scope: Scope) -> str:
    """The sentence of the comparison with its warnings below, or why there is none."""
    about: dict[str, Any] = {"sentence": scope.refusal, "warnings": []}
    if scope.comparison:
        about = scope.comparison["about"]
    sentence = f'<p class="verdict">{escape(about["sentence"])}</p>\n'
    warnings = list(about["warnings"])
    if scope.waiting and not scope.comparison:  # which names them itself
        names = ", ".join(str(entry["folder"]) for entry in scope.waiting)
        warnings.append(f"Not begun: {names}")
    if not warnings:
        return sentence
    return f'{sentence}<ul class="warnings">{"".join(f"<li>{escape(text)}</li>" for text in warnings)}</ul>\n'
