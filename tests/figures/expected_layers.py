"""What figures of single layers must show of a run, for the contract; `layer` where one was asked for.

Letters: L layers, H heads, F neurons, C channels.
"""

import numpy as np
from artists import artists, beside, texts


def by_layer(array):
    return lambda run: run.probe()[array]


def super_neuron(record, layer):
    """The layer and the neuron that answers most to the first token: by excess if one is flagged, else by size."""
    flagged, first, others = (record[f"super_neurons/{name}"] for name in ("flagged", "first", "others"))
    strength_LF = np.where(flagged == 1, first - others, -1) if flagged.any() else first
    layer = int(strength_LF.max(axis=1).argmax()) if layer is None else layer
    own_F = strength_LF[layer] if flagged[layer].any() or not flagged.any() else first[layer]
    return layer, int(own_F.argmax())


def headed(canvas, variant, *words):
    """The heading of a variant's panel has these words."""
    return any(text.startswith(variant) and all(word in text for word in words) for text in texts(canvas))


def output_alignment(canvas, variant, of, layer=None):
    tau_LC = of[0].probe()["output_alignment/tau"]
    layer = int(tau_LC.mean(axis=1).argmax()) if layer is None else layer
    (outline,) = artists(canvas, variant)
    values, edges, _ = outline.get_data()
    np.testing.assert_allclose(edges, np.linspace(-1, 1, 101))
    np.testing.assert_allclose(values, 100 * np.histogram(tau_LC[layer], edges)[0] / tau_LC.shape[1])
    (mean,) = beside(outline, "_mean")
    assert mean.get_xdata()[0] == tau_LC[layer].mean()
    assert headed(canvas, variant, f"layer {layer},", f"mean {tau_LC[layer].mean():.3f}")


def super_neurons(canvas, variant, of, layer=None):
    record = of[0].probe()
    layer, strongest = super_neuron(record, layer)
    flagged_F = record["super_neurons/flagged"][layer] == 1
    panels = artists(canvas, variant)
    assert len(panels) == 2
    for dots, name in zip(panels, ("gate_norm", "up_norm"), strict=True):
        norm_F = record[f"super_neurons/{name}"][layer]
        every = np.column_stack([np.arange(len(norm_F)), norm_F])
        np.testing.assert_array_equal(dots.get_offsets(), every)
        (rings,), (dot,) = beside(dots, "_flagged"), beside(dots, "_strongest")
        np.testing.assert_array_equal(rings.get_offsets(), every[flagged_F])
        np.testing.assert_array_equal(dot.get_offsets(), every[[strongest]])
        assert str(strongest) in [text.get_text() for text in dots.axes.texts]
    assert headed(canvas, variant, f"layer {layer}, {flagged_F.sum()} flagged")


def gate_similarity(canvas, variant, of, layer=None):
    record = of[0].probe()
    layer, _ = super_neuron(record, layer)
    lines = artists(canvas, variant)
    assert len(lines) == 2
    for line, name in zip(lines, ("gate_cosine", "up"), strict=True):
        np.testing.assert_array_equal(line.get_ydata(), record[f"gate_similarity/{name}"][layer])
        assert line.get_xdata()[0] == 1
    assert headed(canvas, variant, f"layer {layer}, neuron {record['gate_similarity/neuron'][layer]:.0f}")


def down_projection(canvas, variant, of, layer=None):
    record = of[0].probe()
    layer, _ = super_neuron(record, layer)
    neuron = int(record["gate_similarity/neuron"][layer])
    weight_C = np.abs(record["gate_similarity/down"][layer])
    (line,) = artists(canvas, variant)
    np.testing.assert_array_equal(line.get_ydata(), weight_C)
    (largest,) = beside(line, "_largest")
    np.testing.assert_array_equal(np.sort(largest.get_ydata()), np.sort(weight_C)[-3:])
    assert [text.get_text() for text in line.axes.texts] == [str(weight_C.argmax())]
    share_F = record["super_neurons/top3_share"][layer]
    shares = f"top 3: {share_F[neuron]:.0%} (median {np.median(share_F):.0%})"
    assert headed(canvas, variant, f"layer {layer}, neuron {neuron}", shares)


def key_alignment(canvas, variant, of, layer=None):
    record = of[0].probe()
    if layer is None:
        mean_L = record["first_token_attention/normalised"].mean(axis=1)
        layer = int(np.argmax(mean_L - np.array([record["first_token_attention/uniform"], *mean_L[:-1]])))
    (bars,) = artists(canvas, variant)
    np.testing.assert_array_equal([bar.get_height() for bar in bars], record["key_alignment/alignment"][layer])
    heights = [bar.get_height() for box in bars[0].axes.containers if box.get_label() == "_queries" for bar in box]
    np.testing.assert_array_equal(heights, record["key_alignment/alignment_queries"][layer])
    (line,) = beside(bars[0], "_positive")
    np.testing.assert_array_equal(line.get_ydata(), record["key_alignment/positive"][layer])
    assert headed(canvas, variant, f"layer {layer}")


def head_balance(canvas, variant, of, layer=None):
    layers = slice(None) if layer is None else [layer]
    (dots,) = artists(canvas, variant)
    expected = [
        np.column_stack([record[f"head_balance/{name}"][layers].ravel() for name in ("entropy", "variance")])
        for record in (run.probe() for run in of)
    ]
    np.testing.assert_array_equal(dots.get_offsets(), np.concatenate(expected))


LAYER_FIGURES = {
    "down_projection": down_projection,
    "gate_similarity": gate_similarity,
    "head_balance": head_balance,
    "key_alignment": key_alignment,
    "output_alignment": output_alignment,
    "super_neurons": super_neurons,
}
EXPECTED = {
    **LAYER_FIGURES,
    "norm_direction": [by_layer("norm_direction/top_share_first"), by_layer("norm_direction/cosine_first")],
}
