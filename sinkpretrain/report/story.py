"""The figures of the page in the order of the argument, each with what to look for; then those left out, and why."""

import base64
from collections.abc import Sequence
from html import escape

from sinkpretrain import registry
from sinkpretrain.errors import DataError
from sinkpretrain.figures.base import Figure, follow_dark, render
from sinkpretrain.figures.base.arms import Axis, MissingRecord
from sinkpretrain.figures.base.style import AXIS_LABELS
from sinkpretrain.report.tables import imported
from sinkpretrain.runs import Run

# Headings with the names of their figures; a figure that is not named here follows under the last heading.
STORY: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("Variance and the output projection", ("positional_variance", "output_alignment")),
    ("Super neurons", ("super_neurons", "gate_similarity", "down_projection")),
    ("Dominating channels and the norm", ("dominance_ratio", "norm_direction")),
    ("The first key and the attention to it", ("key_alignment", "representation_norm", "first_token_attention")),
    (
        "Where attention goes, and sinks on later tokens",
        ("attention_map", "attention_map_layers", "score_distribution", "sink_positions", "sink_tokens"),
    ),
    ("Interventions", ("isolate_position", "amplify_variance", "super_neuron_interventions")),
    ("Calibrating sinks (ACT)", ("act_heads", "act_maps", "act_gains")),
    ("Emergence in training", ("sink_rate", "first_token_emergence", "emergence")),
    ("Rank, and balance of heads", ("effective_rank", "head_balance")),
    ("Loss", ("validation_loss", "train_loss")),
)
# Figures that are shown against each of these units of training, not against tokens alone.
SEVERAL_AXES: dict[str, tuple[Axis, ...]] = {"validation_loss": ("tokens", "step", "seconds")}


def figures(runs: Sequence[Run]) -> str:
    """Every figure the records allow, with its question and what to look for; then what was left out, and why."""
    parts: list[str] = []
    left_out: dict[str, DataError] = {}
    count = 0
    untrained = all(map(imported, runs))  # and never will have a record of training
    for heading, names in _sections():
        drawn = []
        for name, x in [(each, x) for each in names for x in SEVERAL_AXES.get(each, ("tokens",))]:
            figure: Figure = registry.load("figures", name)()
            try:
                svg, reading = render(figure.draw(runs, x), "svg").decode(), figure.reading(runs)
            except DataError as error:
                if not (figure.over_training and untrained):
                    left_out[name] = error
                continue
            count += 1
            caption = f"<strong>{escape(figure.question)}</strong> {escape(reading)}"
            if x != "tokens":
                caption = f"The same against {escape(AXIS_LABELS[x])}."
            drawn.append(_figure(f"Figure {count}. {caption}", svg, f"{name} by {x}"))
        if drawn:
            parts += [f"<h3>{escape(heading)}</h3>\n", *drawn]
    return "".join(parts) + not_drawn(left_out)


def _sections() -> list[tuple[str, tuple[str, ...]]]:
    """The story, with figures that it does not name added to its last part."""
    told = {name for _, names in STORY for name in names}
    (*before, (heading, names)) = STORY
    return [*before, (heading, names + tuple(name for name in registry.names("figures") if name not in told))]


def _figure(caption: str, svg: str, alternative: str) -> str:
    """A figure whose image is part of the page."""
    image = base64.b64encode(follow_dark(svg).encode()).decode()
    return (
        f'<figure><div class="wide"><img alt="{escape(alternative)}" src="data:image/svg+xml;base64,{image}"></div>\n'
        f"<figcaption>{caption}</figcaption></figure>\n"
    )


def not_drawn(left_out: dict[str, DataError]) -> str:
    """The figures left out, those together that the same would make possible."""
    if not left_out:
        return ""
    reasons: dict[str, list[str]] = {}
    for name, error in left_out.items():
        reason = f"no record; {error.remedy}" if isinstance(error, MissingRecord) else str(error)
        reasons.setdefault(reason, []).append(name)
    listed = "".join(f"<li>{escape(', '.join(names))}: {escape(reason)}</li>" for reason, names in reasons.items())
    return f"<p>Not drawn:</p><ul>{listed}</ul>\n"
