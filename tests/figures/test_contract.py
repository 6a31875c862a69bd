"""What every figure must do, over every name of the registry."""

import warnings

import expected_act
import expected_attention
import expected_layers
import expected_verdicts
import numpy as np
import pytest
from artists import artists, bold, colours, texts
from synthetic_runs import ATTENTION, PROBED, config, write_run, write_runs

from sinkpretrain import registry
from sinkpretrain.errors import ConfigError, DataError
from sinkpretrain.figures.base import Figure, draw_all, render
from sinkpretrain.figures.base.style import COLOURS
from sinkpretrain.runs import Run

NAMES = registry.names("figures")
VARIANTS = list(ATTENTION)


def figure(name: str) -> Figure:
    return registry.load("figures", name)()


class Canvases(dict):
    """Each figure drawn once, when it is first asked for, with every warning an error."""

    def __init__(self, runs):
        self.runs = runs

    def __missing__(self, name):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            self[name] = figure(name).draw(self.runs)
        return self[name]


@pytest.fixture(scope="module")
def canvases(runs):
    return Canvases(runs)


@pytest.fixture(scope="module")
def six(tmp_path_factory):
    """Six variants of one seed each."""
    return write_runs(tmp_path_factory.mktemp("six"), (*ATTENTION, "head_gate", "sink_logit", "value_gate"), seeds=1)


def over_training(metric):
    return lambda run: run.series(metric)[1]


def by_layer(array):
    return lambda run: run.probe()[array].reshape(6, -1).mean(axis=1)


# For every figure: what each panel's bold line must show of one run, in the order of the panels of a variant; or, where
# other things than lines are drawn, a function of (canvas, variant, its runs) that compares them with the records.
EXPECTED = {
    "dominance_ratio": [by_layer("dominance_ratio/first")],
    "effective_rank": [by_layer("effective_rank/all")],
    "first_token_attention": [by_layer(f"first_token_attention/{kind}") for kind in ("normalised", "raw")],
    "first_token_emergence": [over_training(f"sink/first_token_mean{kind}") for kind in ("_normalised", "")],
    "positional_variance": [
        lambda run: run.probe()["positional_variance/mixed"][0],
        lambda run: run.probe()["positional_variance/attn_out"][0],
    ],
    "representation_norm": [by_layer("representation_norm/first"), by_layer("first_token_attention/normalised")],
    "sink_rate": [over_training(f"sink/rate{kind}") for kind in ("_normalised", "")],
    "train_loss": [over_training("train/loss"), over_training("train/loss")],
    "validation_loss": [over_training("val/loss"), over_training("val/loss")],
    **expected_act.EXPECTED,
    **expected_attention.EXPECTED,
    **expected_layers.EXPECTED,
    **expected_verdicts.EXPECTED,
}


def test_every_figure_states_what_its_lines_must_show():
    assert set(NAMES) == set(EXPECTED)


LINES = [name for name in NAMES if isinstance(EXPECTED.get(name), list)]


def assert_shows(name, canvas, variant, of):
    """What stands for a variant is the record of its runs: their mean, where it is lines."""
    if name not in LINES:
        EXPECTED[name](canvas, variant, of)
        return
    lines = bold(canvas, variant)
    assert len(lines) == len(EXPECTED[name])
    for line, expected in zip(lines, EXPECTED[name], strict=True):
        np.testing.assert_allclose(line.get_ydata(), np.mean([expected(run) for run in of], axis=0), rtol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_drawn_is_the_record(name, runs, canvases):
    for place, variant in enumerate(VARIANTS):
        assert artists(canvases[name], variant)
        assert_shows(name, canvases[name], variant, runs[2 * place : 2 * place + 2])


@pytest.mark.parametrize("name", NAMES)
def test_one_seed_is_drawn_alone_and_another_variant_is_not_drawn(name, runs):
    canvas = figure(name).draw([runs[0], runs[2]])
    assert_shows(name, canvas, "softmax", runs[:1])
    assert_shows(name, canvas, "sigmoid", runs[2:3])
    assert not artists(canvas, "head_rmsnorm")
    assert not any("head_rmsnorm" in text for text in texts(canvas))
    assert not artists(canvas, "_seed")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("count", [1, 6])
def test_titles_fit_beside_each_other(name, count, six):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        canvas = figure(name).draw(six[:count])
    titles = [text for axes in canvas.axes for text in (axes.title, axes._left_title, axes._right_title)]
    boxes = [text.get_window_extent() for text in [*titles, canvas._suptitle] if text.get_text()]
    assert all(box.x0 >= 0 and box.x1 <= canvas.bbox.x1 and box.y1 <= canvas.bbox.y1 for box in boxes)
    assert not [(one, other) for place, one in enumerate(boxes) for other in boxes[:place] if one.overlaps(other)]


@pytest.mark.parametrize("name", NAMES)
def test_axes_carry_labels_with_units(name, canvases):
    for axes in canvases[name].axes:
        if not axes.axison:  # a table, or a place without a panel
            continue
        place = axes.get_subplotspec()
        if place is None:  # a colour bar
            assert "(" in axes.get_xlabel() + axes.get_ylabel()
            continue
        if place.is_last_row():
            assert "(" in axes.get_xlabel()
        if place.is_first_col():
            assert "(" in axes.get_ylabel()


@pytest.mark.parametrize("name", LINES)
def test_legend_names_every_variant_in_its_colour(name, canvases):
    (legend,) = canvases[name].legends
    of_label = {handle.get_label(): handle.get_color() for handle in legend.legend_handles}
    assert [label for label in of_label if label in VARIANTS] == VARIANTS
    for variant in VARIANTS:
        assert {line.get_color() for line in bold(canvases[name], variant)} == {of_label[variant]}


@pytest.mark.parametrize("name", NAMES)
def test_every_variant_is_named_and_has_its_own_colour(name, canvases):
    for variant, colour in zip(VARIANTS, COLOURS, strict=False):
        assert any(text.startswith(variant) for text in texts(canvases[name]))
        assert {one for artist in artists(canvases[name], variant) for one in colours(artist)} <= {colour}


@pytest.mark.parametrize("name", NAMES)
def test_legends_are_below_the_axes(name, canvases):
    for legend in canvases[name].legends:
        top = legend.get_window_extent().y1
        assert all(axes.get_window_extent().y0 > top for axes in canvases[name].axes)


@pytest.mark.parametrize("name", [name for name in NAMES if figure(name).over_training])
@pytest.mark.parametrize("x", ["tokens", "step", "seconds"])
def test_x_is_the_recorded_unit_of_training(name, x, runs):
    canvas = figure(name).draw(runs[:1], x)
    rows = {row["step"]: row for row in runs[0].metrics()}
    metric = {
        "emergence": "sink/rate_normalised",
        "first_token_emergence": "sink/first_token_mean_normalised",
        "sink_rate": "sink/rate_normalised",
        "train_loss": "train/loss",
        "validation_loss": "val/loss",
    }[name]
    expected = [row[x] for row in rows.values() if metric in row]
    assert bold(canvas, "softmax")[0].get_xdata().tolist() == expected
    assert {"tokens": "tokens", "step": "steps", "seconds": "seconds"}[x] in canvas.axes[-1].get_xlabel()


@pytest.mark.parametrize("name", [name for name in NAMES if not figure(name).over_training])
def test_a_unit_of_training_is_refused_where_it_has_no_effect(name, runs):
    with pytest.raises(ConfigError, match="seconds"):
        figure(name).draw(runs, "seconds")


@pytest.mark.parametrize("name", NAMES)
def test_missing_records_are_named(name, tmp_path):
    run = Run(tmp_path / "demo" / "softmax-s0")
    run.create(config("softmax", 0))
    for wanted in (figure(name).draw, figure(name).reading):
        with pytest.raises(DataError, match="no runs"):
            wanted([])
        with pytest.raises(DataError, match="demo/softmax-s0"):
            wanted([run])


@pytest.mark.parametrize("name", NAMES)
def test_a_variant_without_records_keeps_its_place_and_is_named(name, runs, tmp_path):
    silent = Run(tmp_path / "silent")
    silent.create(config("waiting", 0))
    canvas = figure(name).draw([silent, runs[0]])
    assert "waiting (no record)" in texts(canvas)
    assert not artists(canvas, "waiting")
    assert artists(canvas, "softmax")
    assert {one for artist in artists(canvas, "softmax") for one in colours(artist)} <= {COLOURS[1]}


@pytest.mark.parametrize("name", NAMES)
def test_question_and_reading_are_sentences_with_numbers(name, runs):
    assert figure(name).question.endswith("?")
    reading = figure(name).reading(runs)
    assert reading.endswith(".")
    for variant in VARIANTS:
        assert f"{variant} " in reading
    assert any(character.isdigit() for character in reading)


@pytest.mark.parametrize("name", NAMES)
def test_the_same_records_give_the_same_svg(name, runs, canvases):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        once = render(canvases[name], "svg")
    assert once == render(figure(name).draw(runs), "svg")
    assert b"<dc:date>" not in once


def test_draw_all_writes_png_and_svg_and_says_what_it_left_out(tmp_path):
    run = write_run(tmp_path / "demo" / "softmax-s0", "softmax", 0, until=16, probes=False)
    drawn = draw_all([run], tmp_path / "figures", "step")
    names = ["emergence", "first_token_emergence", "sink_rate", "train_loss", "validation_loss"]
    assert [path.name for path in drawn.paths] == [
        f"{name}_by_step.{kind}" for name in names for kind in ("png", "svg")
    ]
    assert all(path.stat().st_size > 1000 for path in drawn.paths)
    assert drawn.paths[0].read_bytes().startswith(b"\x89PNG")
    assert set(drawn.skipped) == set(NAMES) - set(names)
    assert "demo/softmax-s0" in drawn.skipped["effective_rank"]
    before = [path.read_bytes() for path in drawn.paths]
    assert [path.read_bytes() for path in draw_all([run], tmp_path / "again", "step").paths] == before


def test_the_untrained_model_is_on_the_axis_of_log_spaced_probes(canvases):
    axes = canvases["sink_rate"].axes[0]
    assert axes.get_xlim()[0] < 0
    assert 0 in axes.get_xticks()
    assert bold(canvases["sink_rate"], "softmax")[0].get_xdata().tolist() == [2048 * step for step in PROBED]
