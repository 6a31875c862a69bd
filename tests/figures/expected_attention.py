"""What figures of maps, scores, later sinks, interventions and emergence must show of a run, for the contract."""

import numpy as np
from matplotlib.image import AxesImage
from matplotlib.text import Text
from synthetic_runs import TOKENS

from sinkpretrain.figures.base.maps import LOWEST


def over_training(metric):
    return lambda run: run.series(metric)[1]


def density(run):
    record = run.probe()
    count_K = record["score_distribution/first_normalised"].sum(axis=0)
    return count_K / count_K.sum() / np.diff(np.log10(record["score_distribution/edges"]))


def flagged(run):
    record = run.probe()
    return (record["sink_positions/flagged"].sum(axis=0) / record["sink_positions/count"].sum(axis=0))[1:]


def under(name, quantity, strength, condition=None):
    """The mean over seeds of text of a quantity in an intervention's record."""

    def of(run):
        rows = run.intervention(name)["rows"]
        chosen = [row for row in rows if (row["condition"], row["strength"]) == (condition or name, strength)]
        return np.mean([row[quantity] for row in chosen], axis=0)

    return of


def maps(*wanted):
    """Compares a variant's images with what these functions give of a run, averaged over runs."""

    def assert_maps(canvas, variant, of):
        images = [child for axes in canvas.axes for child in axes.get_children() if isinstance(child, AxesImage)]
        images = [image for image in images if image.get_label() == variant]
        expected = [one for give in wanted for one in np.mean([give(run) for run in of], axis=0)]
        assert len(images) == len(expected)
        for image, weights_TS in zip(images, expected, strict=True):
            shown_TS = image.get_array()
            np.testing.assert_array_equal(shown_TS.mask, np.triu(np.ones_like(weights_TS), k=1) > 0)
            below = ~shown_TS.mask
            np.testing.assert_allclose(shown_TS[below], np.maximum(weights_TS, LOWEST)[below], rtol=1e-12)

    return assert_maps


def mean_map(kind):
    return lambda run: run.probe()[f"attention_map/{kind}"].mean(axis=0, keepdims=True)


def token_table(canvas, variant, of):
    """The ten tokens flagged most often, with counts summed over seeds."""
    cells = [text.get_text() for text in canvas.findobj(Text) if text.get_label() == variant]
    records = [run.probe() for run in of]
    summed = {
        name: sum(record[f"sink_tokens/{name}"] for record in records)
        for name in ("first", "later", "later_causal_null", "seen", "flagged_total")
    }
    frequency_K = summed["first"] + summed["later"]
    most = np.argsort(-frequency_K, kind="stable")[:10]
    texts = [TOKENS[place].replace(" ", "\N{OPEN BOX}").replace("\n", "\\n").replace("$", r"\$") for place in most]
    assert cells[::6] == texts
    assert cells[1::6] == [f"{count:,.0f}" for count in frequency_K[most]]
    assert cells[2::6] == [f"{count / summed['flagged_total']:.1%}" for count in frequency_K[most]]
    assert cells[3::6] == [f"{count:,.0f}" for count in summed["later"][most]]
    assert cells[4::6] == [f"{count:,.0f}" for count in summed["later_causal_null"][most]]
    share_K = summed["later"] / (summed["seen"] - summed["first"])
    assert cells[5::6] == [f"{share:.1%}" for share in share_K[most]]


EXPECTED = {
    "amplify_variance": [
        lambda run: [under("amplify_variance", "received", factor)(run) for factor in (1.0, 2.0, 4.0, 8.0)]
    ],
    "attention_map": maps(mean_map("normalised"), mean_map("raw")),
    "attention_map_layers": maps(lambda run: run.probe()["attention_map/normalised"]),
    "emergence": [over_training("sink/rate_normalised"), over_training("activation/neuron_peak_ratio")],
    "isolate_position": [under("isolate_position", "score_by_position", 1.0)],
    "score_distribution": [density],
    "sink_positions": [flagged],
    "sink_tokens": token_table,
    "super_neuron_interventions": [
        under("ablate_super_neurons", "first_by_layer", 1.0),
        under("densify_down_projection", "first_by_layer", 1.0),
    ],
}
