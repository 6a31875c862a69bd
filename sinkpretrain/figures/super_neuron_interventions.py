"""What is left of the sink without super neurons, or with a dense down-projection, against random neurons."""

from collections.abc import Callable, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from sinkpretrain.figures.base import Figure
from sinkpretrain.figures.base.arms import Arm, Axis, Point, each_arm
from sinkpretrain.figures.base.interventions import (
    Record,
    band,
    curve,
    measured,
    no_intervention,
    places,
    record_of,
    records_of,
    spread_note,
)
from sinkpretrain.figures.base.legend import legend
from sinkpretrain.figures.base.style import GREY, canvas, draw_arm, from_zero, layer_axis, plain, short
from sinkpretrain.records import UNTOUCHED
from sinkpretrain.runs import Run

# Each intervention with its control, as many random neurons, and what it does in words.
PAIRS = (
    ("ablate_super_neurons", "random_neurons", "super neurons ablated"),
    ("densify_down_projection", "random_densified", "down-projection densified"),
)
PANEL_TITLE = 9.0  # points: three panels beside each other hold the perplexities


class SuperNeuronInterventions(Figure):
    """First-token attention by layer, rows divided by their sum: a row an intervention, a column a variant."""

    question = "Does the sink vanish without super neurons and their sparse down-projection, at what cost in loss?"

    def draw_arms(self, arms: Sequence[Arm], x: Axis) -> Canvas:
        """The intervention solid, random neurons dashed, the untouched model dotted; perplexities in the titles."""
        shown = [pair for pair in PAIRS if any(records_of(arm, pair[0]) for arm in arms)]
        if not shown:
            raise no_intervention(arms, *(name for name, _, _ in PAIRS))
        title = "First-token attention under interventions on super neurons"
        rows, columns = len(shown), len(arms)
        figure, panels = canvas(title, rows=rows, columns=columns, height=1.4 + 2.7 * rows, sharex="col", sharey=True)
        for row, (name, control, words) in zip(panels, shown, strict=True):
            where = places([record for arm in arms for record in records_of(arm, name)])
            row[0].set_ylabel(f"{words}{where}:\nfirst-token attention (weight)", fontsize=PANEL_TITLE)
            for axes, arm in zip(row, arms, strict=True):
                _panel(axes, arm, records_of(arm, name), name, control)
        for axes, arm in zip(panels[0], arms, strict=True):
            axes.set_title(f"{plain(arm.name)}\n{axes.get_title(loc='left')}", loc="left", fontsize=PANEL_TITLE)
        for axes in panels[-1]:
            layer_axis(axes)
        from_zero(*panels.flat)
        legend(figure, arms, dashed="as many random neurons", dotted="untouched", others=spread_note(figure))
        return figure

    def read_arms(self, arms: Sequence[Arm]) -> str:
        """The mean over layers under each condition."""
        texts: list[str] = []
        for name, control, words in PAIRS:
            if any(records_of(arm, name) for arm in arms):
                where = places([record for arm in arms for record in records_of(arm, name)])
                conditions = {f"{words}{where}": name, "random neurons": control, "untouched": UNTOUCHED}
                texts += [
                    f"{text} {each_arm(arms, _mean(name, of, 'first_by_layer'))}, perplexity "
                    f"{each_arm(arms, _mean(name, of, 'perplexity'), '.4g')}"
                    for text, of in conditions.items()
                ]
        if not texts:
            raise no_intervention(arms, *(name for name, _, _ in PAIRS))
        return (
            "Super neurons carry the sink where the solid line falls and the dashed one stays at the dotted; a sink "
            "that goes with all the model knew says little. First-token attention, mean over layers: "
            f"{'; '.join(texts)}."
        )


def _panel(axes: Axes, arm: Arm, records: Sequence[Record], name: str, control: str) -> None:
    """One variant under one intervention and its control."""
    if untouched := measured(records, UNTOUCHED, "first_by_layer"):
        _, layers, attention = curve(untouched)
        axes.plot(layers, attention, color=GREY, linestyle=":", linewidth=1.6, label="_reference", zorder=4)
    for condition in (control, name):
        if value := measured(records, condition, "first_by_layer"):
            band(axes, arm, value)
            draw_arm(axes, arm, [curve(value)], dashed=condition == control)
    found = [measured(records, condition, "perplexity") for condition in (UNTOUCHED, name, control)]
    before, after, random = ("none" if value is None else short(float(value.mean)) for value in found)
    title = f"perplexity {before} to {after}\n(random neurons: {random})" if records else "no record"
    axes.set_title(title, loc="left", fontsize=PANEL_TITLE)


def _mean(name: str, condition: str, quantity: str) -> Callable[[Run], Point | None]:
    """What gives a quantity, mean over layers where it has them, in a record's condition."""

    def mean(run: Run) -> Point | None:
        record = record_of(run, name)
        value = measured([record], condition, quantity) if record else None
        return None if value is None else Point(0, float(value.mean.mean()))

    return mean
