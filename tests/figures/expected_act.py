"""What figures of ACT must show of a run, for the contract.

Letters: L layers, H heads, T query positions, S key positions, I items.
"""

import numpy as np
import synthetic_act
from artists import artists, beside
from matplotlib.patches import Rectangle

from sinkpretrain.evaluation.statistics import mean_effect


def act_heads(canvas, variant, of):
    images = artists(canvas, variant)
    assert len(images) == 2 * len(of)
    for place, name in enumerate(("accuracy", "logprob")):
        for image, run in zip(images[place * len(of) :], of, strict=False):
            search = run.heads()
            (first, last), heads = search["layers"], synthetic_act.HEADS
            expected_LH = np.full((last - first + 1, heads), np.nan)
            for row in search["heads"]:
                if row["sink_share"]:
                    expected_LH[row["layer"] - first, row["head"]] = row[name]
            np.testing.assert_array_equal(image.get_array().filled(np.nan), expected_LH)
            for rule, chosen in search["rules"].items():
                outlines = [patch for patch in beside(image, f"_{rule}") if isinstance(patch, Rectangle)]
                cells = [[round(float(x)) for x in patch.get_center()[::-1]] for patch in outlines]
                assert cells == chosen


def act_gains(canvas, variant, of):
    (marks,) = artists(canvas, variant)
    records = [run.evaluation("made_up")["conditions"] for run in of]
    for label, condition in (
        (variant, "act-paper"),
        *((f"_{name}", name) for name in ("act-corrected", "random-heads", "equal-mass")),
    ):
        differences = [
            np.array(
                [
                    np.subtract(*(record[name]["tasks"][task]["items"]["acc"] for name in (condition, "vanilla")))
                    for record in records
                ]
            )
            for task in synthetic_act.TASKS
        ]
        effects = [mean_effect(group, bounded=True) for group in (*([one] for one in differences), differences)]
        (line,) = beside(marks, label)
        np.testing.assert_allclose(line.get_xdata(), [effect.mean for effect in effects])
        (bars,) = beside(marks, f"_interval {condition}")
        ends = [segment[:, 0] for segment in bars.get_segments()]
        np.testing.assert_allclose(ends, [(effect.low, effect.high) for effect in effects])
        np.testing.assert_allclose([segment[0, 1] for segment in bars.get_segments()], line.get_ydata())


def act_maps(canvas, variant, of):
    images = artists(canvas, variant)
    assert len(images) == 2
    records = [synthetic_act.maps(variant, run.config().seed) for run in of]
    for image, when in zip(images, ("before", "after"), strict=True):
        expected_TS = np.mean([record[when] for record in records], axis=0)
        below = np.tril_indices(len(expected_TS))
        np.testing.assert_allclose(image.get_array()[below], np.maximum(expected_TS[below], image.norm.vmin))
        (marks,) = beside(image, "_sinks")
        assert marks.get_xdata().tolist() == list(synthetic_act.SINKS)


EXPECTED = {"act_gains": act_gains, "act_heads": act_heads, "act_maps": act_maps}
