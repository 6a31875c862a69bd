"""What figures of attention maps, scores, later sinks and their tokens promise beyond the contract."""

import numpy as np
import pytest
from matplotlib.image import AxesImage
from synthetic_runs import LAYERS, PROBED_TEXT, STEPS, config, probe

from sinkpretrain.figures.attention_map import AttentionMap
from sinkpretrain.figures.attention_map_layers import AttentionMapLayers
from sinkpretrain.figures.base import render
from sinkpretrain.figures.base.maps import LOWEST
from sinkpretrain.figures.score_distribution import ScoreDistribution
from sinkpretrain.figures.sink_positions import SinkPositions
from sinkpretrain.figures.sink_tokens import SinkTokens, visible
from sinkpretrain.runs import Run


@pytest.fixture
def altered(tmp_path):
    """A softmax run whose last probe record was changed; an array that is None is not in it."""

    def write(**arrays):
        run = Run(tmp_path / "demo" / "softmax-s0")
        run.create(config("softmax", 0))
        record = probe("softmax", 0, STEPS) | {name.replace("__", "/"): array for name, array in arrays.items()}
        run.write_probe(STEPS, {name: array for name, array in record.items() if array is not None}, PROBED_TEXT)
        return run

    return write


def images(canvas):
    return [child for axes in canvas.axes for child in axes.get_children() if isinstance(child, AxesImage)]


def left_titles(canvas):
    return [axes.get_title(loc="left") for axes in canvas.axes if axes.get_title(loc="left")]


def test_raw_maps_have_a_row_of_their_own_only_where_they_differ(runs):
    both = left_titles(AttentionMap().draw([runs[0], runs[2]]))
    assert [title.split("\n")[1] for title in both] == ["rows divided by their sum"] * 2 + ["raw weights"] * 2
    assert left_titles(AttentionMap().draw(runs[:1])) == ["softmax"]


def test_maps_share_one_logarithmic_scale(runs):
    scales = {(image.norm.vmin, image.norm.vmax) for image in images(AttentionMapLayers().draw(runs))}
    assert scales == {(LOWEST, 1.0)}


def test_blank_is_the_future_and_what_was_not_recorded_but_not_a_weight_of_zero(altered):
    map_LTS = np.full((2, 4, 4), 0.5)
    map_LTS[:, 3, 1] = 0.0
    map_LTS[:, 2] = np.nan
    run = altered(attention_map__normalised=map_LTS, attention_map__raw=map_LTS)
    (image,) = images(AttentionMap().draw([run]))
    shown = image.get_array()
    expected = np.triu(np.ones((4, 4), dtype=bool), k=1)
    expected[2] = True
    np.testing.assert_array_equal(shown.mask, expected)
    assert shown[3].tolist() == [0.5, LOWEST, 0.5, 0.5]


@pytest.mark.parametrize(
    ("depth", "layers", "words"), [(6, range(6), "each layer"), (30, range(0, 30, 3), "every 3rd")]
)
def test_of_many_layers_every_nth_is_shown_and_the_title_says_so(depth, layers, words, altered):
    map_LTS = np.tile(probe("softmax", 0, STEPS)["attention_map/normalised"][:1], (depth, 1, 1))
    map_LTS *= np.linspace(0.1, 1, depth)[:, None, None]
    canvas = AttentionMapLayers().draw([altered(attention_map__normalised=map_LTS)])
    assert words in canvas._suptitle.get_text()
    assert left_titles(canvas) == [f"layer {layer}" for layer in layers]
    for image, layer in zip(images(canvas), layers, strict=True):
        np.testing.assert_allclose(image.get_array()[10, 0], map_LTS[layer, 10, 0])


def test_densities_sum_to_one_for_every_kind(runs):
    axes = ScoreDistribution().draw(runs[:1]).axes[0]
    decade_fraction = 6 / 60
    curves = [line.get_ydata() for line in axes.lines]
    assert len(curves) == 3
    assert [sum(curve) * decade_fraction for curve in curves] == pytest.approx([1, 1, 1])


def test_no_later_sinks_are_said_to_be_none(altered):
    run = altered(score_distribution__sinks_normalised=np.zeros((LAYERS, 60)))
    canvas = ScoreDistribution().draw([run])
    assert left_titles(canvas) == ["softmax\nlater sinks: 0.00%"]
    assert "later sinks" not in [text.get_text() for text in canvas.legends[0].get_texts()]
    assert "there are no later sinks" in ScoreDistribution().reading([run])


def test_reading_of_positions_says_what_uniform_attention_gives_early_ones(runs):
    length = 128
    harmonic = np.cumsum(1 / np.arange(1, length + 1))
    at = [f"{length * (harmonic[-1] - harmonic[k - 1]) / (length - k):.1f} at {k}" for k in (1, 4, 16)]
    assert f"({', '.join(at)} times 1/N where N = 128)" in SinkPositions().reading(runs)


def test_positions_that_no_text_reached_are_left_out(altered):
    count_LT = np.tile(np.array([8.0, 8, 4, 0]), (LAYERS, 1))
    flagged_LT = np.tile(np.array([8.0, 2, 1, 0]), (LAYERS, 1))
    flags = {"sink_positions__flagged": flagged_LT, "sink_positions__flagged_causal_null": flagged_LT}
    run = altered(sink_positions__count=count_LT, **flags)
    (line,) = [line for line in SinkPositions().draw([run]).axes[0].lines if line.get_label() == "softmax"]
    assert (line.get_xdata().tolist(), line.get_ydata().tolist()) == ([1, 2], [0.25, 0.25])


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (" the", "\N{OPEN BOX}the"),
        ("\n\n", r"\n\n"),
        ("\t", r"\t"),
        ("$x$", r"\$x\$"),
        ("é", "é"),
        ("\N{CJK UNIFIED IDEOGRAPH-4E2D}", r"\u4e2d"),
        ("\x00", r"\x00"),
        ("\N{REPLACEMENT CHARACTER}", r"\ufffd"),
    ],
)
def test_token_texts_are_visible_in_the_font(text, shown):
    assert visible(text) == shown


def test_tokens_without_their_text_are_shown_by_id(altered):
    run = altered(sink_tokens__text=None)
    canvas = SinkTokens().draw([run])
    first = int(run.probe()["sink_tokens/token"][0])
    assert f"token {first}" in [text.get_text() for text in canvas.axes[0].texts]
    render(canvas, "svg")


def test_a_record_without_a_flag_is_no_missing_record(altered, runs):
    count = len(runs[0].probe()["sink_tokens/token"])
    none = {f"sink_tokens__{name}": np.zeros(count) for name in ("first", "later", "later_causal_null")}
    run = altered(**none, sink_tokens__flagged_total=np.asarray(0.0))
    assert left_titles(SinkTokens().draw([run])) == ["softmax (no token was flagged)"]
    assert "no position of these models scores above" in SinkTokens().reading([run])
