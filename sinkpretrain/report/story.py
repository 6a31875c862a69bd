"""The figures of the page in the order of the argument, each with what to look for; then those left out, and why."""

from collections.abc import Collection, Sequence
from html import escape
from urllib.parse import quote

from sinkpretrain import registry
from sinkpretrain.errors import DataError
from sinkpretrain.figures.base import Figure, follow_dark, render
from sinkpretrain.figures.base.arms import MissingRecord, config_of
from sinkpretrain.report.scope import Scope
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
PLAIN = " !'()*+,-./:;=?@[]_~"  # what stands for itself in an image's address; base64 is a fifth longer

ARGUMENT = """<p>The argument of 2605.06611: mixing values over many tokens lowers their variance, but not the first
token's; super neurons turn that discrepancy into a few dominating channels and a large norm of the first token;
attention then settles on it. 2406.15765 adds that later tokens can be sinks as well. Each figure shows how far these
runs bear it out.</p>
"""


def argument(scope: Scope, told_before: Collection[str] = ()) -> str:
    """What the figures are to show, at which learning rates the variants stand, and the figures."""
    rates = [f"{variant} {rate:g}" for variant, rate in scope.rates.items() if rate is not None]
    at = (
        f"<p>Variants are shown at the learning rate chosen for each: {escape(', '.join(rates))}.</p>\n"
        if rates
        else ""
    )
    return ARGUMENT + at + figures(scope.compared, told_before)


def figures(runs: Sequence[Run], told_before: Collection[str] = ()) -> str:
    """Every figure the records allow, with its question and what to look for; then what was left out, and why.

    Figures that the page has `told_before` are passed over.
    """
    parts: list[str] = []
    left_out: dict[str, DataError] = {}
    count = 0
    untrained = all(map(imported, runs))  # and never will have a record of training
    for heading, names in _sections():
        drawn = []
        for name in names:
            if name in told_before:
                continue
            kind: type[Figure] = registry.load("figures", name)
            try:
                drawn.append(figure(name, runs, f"Figure {count + 1}. "))
            except DataError as error:
                if not (kind.over_training and untrained):
                    left_out[name] = error
            else:
                count += 1
        if drawn:
            parts += [f"<h3>{escape(heading)}</h3>\n", *drawn]
    return "".join(parts) + not_drawn(left_out)


def figure(name: str, runs: Sequence[Run], before: str) -> str:
    """One figure as an image inside the page, with its question and what to look for after the text `before`.

    Raises:
        DataError: no run has the records it is drawn from.
    """
    kind: Figure = registry.load("figures", name)()
    svg, reading = render(kind.draw(runs), "svg").decode(), kind.reading(runs)
    image = quote(follow_dark(svg).replace("\n", " "), safe=PLAIN)
    names = dict.fromkeys(config_of(run).variant for run in runs)
    alternative = f"Chart of {name.replace('_', ' ')} for {', '.join(names)}; the caption says what to look for."
    return (
        f'<figure data-figure="{name}"><div class="wide" tabindex="0"><img alt="{escape(alternative)}" '
        f'src="data:image/svg+xml,{image}"></div>\n'
        f"<figcaption>{escape(before)}<strong>{escape(kind.question)}</strong> {escape(reading)}</figcaption>\n"
        "</figure>\n"
    )


def _sections() -> list[tuple[str, tuple[str, ...]]]:
    """The story, with figures that it does not name added to its last part."""
    told = {name for _, names in STORY for name in names}
    (*before, (heading, names)) = STORY
    return [*before, (heading, names + tuple(name for name in registry.names("figures") if name not in told))]


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
