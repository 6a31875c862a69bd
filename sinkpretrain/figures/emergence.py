"""When sinks emerge in training, and whether super neurons fire before."""

from collections.abc import Sequence

from matplotlib.figure import Figure as Canvas

from sinkpretrain.comparison.emergence import NEURON_RATIO, SINK_RATE, emergences, prediction
from sinkpretrain.comparison.emergence import Emergence as RunEmergence
from sinkpretrain.figures.base import Figure
from sinkpretrain.figures.base.arms import Arm, Axis, no_record, series_curves
from sinkpretrain.figures.base.legend import legend
from sinkpretrain.figures.base.style import baselines, canvas, colour, draw_training, log_axis


class Emergence(Figure):
    """Sink rate, rows divided by their sum, above the activation of super neurons at the first token over others'."""

    question = "When does the sink emerge, and do super neurons fire at the first token before it does?"
    over_training = True

    def draw_arms(self, arms: Sequence[Arm], x: Axis) -> Canvas:
        """Each run's step of emergence as a star and a line through both panels; the levels dotted."""
        both = any(series_curves(arm, NEURON_RATIO, x) for arm in arms)
        title = "Emergence of the sink and of super neurons"
        figure, panels = canvas(title, rows=1 + both, height=3.8 + 2.2 * both, sharex=True)
        draw_training(panels[0, 0], arms, x, SINK_RATE, log=True)
        panels[0, 0].set_ylabel("sink rate\n(share of sequences,\nlayers and heads)")
        panels[0, 0].set_ylim(-0.02 * panels[0, 0].get_ylim()[1], None)  # room for marks at zero
        if both:
            draw_training(panels[1, 0], arms, x, NEURON_RATIO, log=True)
            panels[1, 0].set_ylabel("largest activation,\nfirst token over\nothers (ratio)")
            log_axis(panels[1, 0], "y")
            panels[0, 0].set_xlabel("")
        found = [(arm, one) for arm in arms for one in emergences(arm.runs)]
        for arm, one in found:
            at = [(row[x], row[SINK_RATE]) for row in one.run.metrics() if row["step"] == one.step and SINK_RATE in row]
            for place, rate in at:
                star = {"marker": "*", "markersize": 15, "markeredgecolor": "white", "linestyle": "", "zorder": 5}
                panels[0, 0].plot([place], [rate], color=colour(arm), label="_emergence", **star)
                for axes in panels[:, 0]:
                    axes.axvline(place, color=colour(arm), linewidth=0.9, alpha=0.7, label="_emergence")
        if found:
            baselines(panels[0, 0], [found[0][1].level])
            if both:
                baselines(panels[1, 0], [found[0][1].ratio])
        legend(figure, arms, dotted="level; star: kept from there on")
        return figure

    def read_arms(self, arms: Sequence[Arm]) -> str:
        """Each run's step of emergence and lead, and whether the lead foretells it across runs."""
        by_arm = [(arm, emergences(arm.runs)) for arm in arms]
        every = [one for _, found in by_arm for one in found]
        if not every:
            raise no_record(arms, f"metric '{SINK_RATE}'")
        steps = "; ".join(f"{arm.name} {', '.join(map(_step, found))}" for arm, found in by_arm if found)
        return (
            f"Super neurons come first where the lower curve passes its line left of the star. Sink rate at "
            f"{every[0].level:g} and kept, by run: {steps}. Across runs: {prediction(every).sentence()}."
        )


def _step(one: RunEmergence) -> str:
    """A run's step of emergence with the lead of super neurons, or until when it had none."""
    if one.step is None:
        return f"not by step {one.probed_until:,}"
    lead = "" if one.lead is None else f" (neurons {abs(one.lead):,} steps {'before' if one.lead >= 0 else 'after'})"
    return f"step {one.step:,}{lead}"
