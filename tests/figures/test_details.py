"""What single figures and their shared parts promise beyond the contract."""

import numpy as np
import pytest
from synthetic_runs import STEPS, UNIFORM, config, write_run

from sinkpretrain import registry
from sinkpretrain.errors import ConfigError
from sinkpretrain.figures.base import follow_dark, render
from sinkpretrain.figures.base.arms import Curve, arms_of, each_arm, mean_curve, probed, probed_at, recorded
from sinkpretrain.figures.dominance_ratio import DominanceRatio
from sinkpretrain.figures.first_token_attention import FirstTokenAttention
from sinkpretrain.figures.first_token_emergence import FirstTokenEmergence
from sinkpretrain.figures.positional_variance import PositionalVariance
from sinkpretrain.figures.representation_norm import RepresentationNorm
from sinkpretrain.figures.sink_rate import SinkRate
from sinkpretrain.figures.validation_loss import ValidationLoss
from sinkpretrain.runs import Run


def labelled(axes, label):
    return [line for line in axes.lines if line.get_label() == label]


@pytest.mark.parametrize("kind", [FirstTokenAttention, FirstTokenEmergence])
def test_uniform_attention_is_a_line_at_its_height(kind, runs):
    (line,) = labelled(kind().draw(runs).axes[0], "_uniform")
    assert line.get_ydata() == pytest.approx([UNIFORM, UNIFORM])


def test_norm_panels_show_uniform_attention_under_the_norms(runs):
    canvas = RepresentationNorm().draw(runs)
    heights = [line.get_ydata()[0] for axes in canvas.axes for line in labelled(axes, "_uniform")]
    assert heights == pytest.approx([UNIFORM] * 3)


@pytest.mark.parametrize("kind", [FirstTokenAttention, FirstTokenEmergence, SinkRate])
def test_raw_weights_have_a_panel_of_their_own_only_where_they_differ(kind, runs):
    both = kind().draw(runs).axes
    assert [axes.get_title(loc="left") for axes in both] == ["rows divided by their sum", "raw weights"]
    assert not labelled(both[1], "_uniform")  # the baseline is of rows that sum to one
    (alone,) = kind().draw(runs[:2]).axes
    assert alone.get_title(loc="left") == ""
    np.testing.assert_array_equal(
        labelled(alone, "softmax")[0].get_ydata(), labelled(both[0], "softmax")[0].get_ydata()
    )


def test_positions_are_shifted_by_one_and_the_first_probe_is_dashed(runs):
    axes = PositionalVariance().draw(runs[:1]).axes[0]
    (line,), (earlier,) = labelled(axes, "softmax"), labelled(axes, "_dashed softmax")
    assert line.get_xdata()[[0, -1]].tolist() == [1, 128]
    np.testing.assert_array_equal(earlier.get_ydata(), runs[0].probe(0)["positional_variance/mixed"][0])
    discrepancy = [runs[0].probe(step)["positional_variance/discrepancy"][0] for step in (STEPS, 0)]
    assert axes.get_title(loc="left") == "softmax\nfirst / late: {:.3g} (was {:.3g})".format(*discrepancy)


@pytest.mark.parametrize("layer", [3, None])
def test_positional_variance_shows_the_layer_of_its_options(layer, runs):
    options = registry.build_options("figures", "positional_variance", {"layer": layer}, "figure")
    curve_LT = runs[0].probe()["positional_variance/mixed"]
    (line,) = labelled(PositionalVariance(options).draw(runs[:1]).axes[0], "softmax")
    np.testing.assert_allclose(line.get_ydata(), curve_LT.mean(axis=0) if layer is None else curve_LT[layer])


def test_a_layer_that_the_model_lacks_is_refused_with_those_it_has(runs):
    with pytest.raises(ConfigError, match="6 is not in demo/softmax-s0, whose layers are 0 to 5"):
        PositionalVariance(PositionalVariance.Options(layer=6)).draw(runs)


def test_layers_have_whole_ticks_from_zero(runs):
    axes = DominanceRatio().draw(runs).axes[0]
    assert [tick for tick in axes.get_xticks() if 0 <= tick <= 5] == [0, 1, 2, 3, 4, 5]


def test_the_end_of_training_is_enlarged(runs):
    whole, end = ValidationLoss().draw(runs).axes
    losses = [value for run in runs for step, value in zip(*run.series("val/loss"), strict=True) if step >= 0.6 * STEPS]
    assert end.get_xlim()[0] == pytest.approx(0.6 * STEPS * 2048)
    assert end.get_ylim()[0] < min(losses)
    assert max(losses) < end.get_ylim()[1] < max(losses) + 0.1 * (max(losses) - min(losses))
    assert whole.get_ylim()[1] > 9


def test_a_seed_that_ended_earlier_is_in_no_mean_and_is_counted(runs, tmp_path):
    late = write_run(tmp_path / "demo" / "softmax-s2", "softmax", 2, until=256)
    arms = arms_of([*runs[:2], late])
    mean = np.mean([run.series("val/loss")[1][-1] for run in runs[:2]])
    assert each_arm(arms, recorded("val/loss"), ".4f") == (
        f"softmax {mean:.4f} (means of 2 seeds) (1 that ended earlier left out)"
    )
    assert probed_at(arms) == "after step 1,000 (1 that ended earlier left out)"
    (line,) = labelled(DominanceRatio().draw([*runs[:2], late]).axes[0], "softmax")
    expected = np.mean([run.probe()["dominance_ratio/first"] for run in runs[:2]], axis=0)
    np.testing.assert_allclose(line.get_ydata(), expected)


def test_steps_are_named_where_arms_stand_at_different_ones(runs, tmp_path):
    late = write_run(tmp_path / "demo" / "sigmoid-s0", "sigmoid", 0, until=256)
    sentence = each_arm(arms_of([runs[0], late]), probed("sink_rate/first_normalised"))
    assert " at step 1,000, sigmoid 0.020 at step 256" in sentence
    assert probed_at(arms_of([runs[0], late])) == "after steps 256 to 1,000, not equal"


def test_the_mean_of_seeds_is_over_the_steps_that_all_have():
    one = Curve(np.array([0, 1, 2]), np.array([0.0, 10, 20]), np.array([1.0, 2, 3]))
    other = Curve(np.array([0, 2]), np.array([0.0, 22]), np.array([3.0, 5]))
    keys, x, y = mean_curve([one, other])
    assert (keys.tolist(), x.tolist(), y.tolist()) == ([0, 2], [0, 21], [2, 4])


def test_a_diverged_run_is_drawn_to_its_end(tmp_path):
    run = write_run(tmp_path / "diverged", "softmax", 0, until=300)
    run.append_metrics({"step": 400, "tokens": 819_200, "seconds": 40.0, "val/loss": float("nan")})
    (line, _) = [line for axes in ValidationLoss().draw([run]).axes for line in labelled(axes, "softmax")]
    assert np.isnan(line.get_ydata()[-1])
    assert "softmax nan" in ValidationLoss().reading([run])


@pytest.mark.parametrize("variant", ["a $x$ b", "_hidden", "<script>"])
def test_any_variant_name_is_shown_as_it_is(variant, tmp_path):
    run = Run(tmp_path / "odd")
    run.create(config(variant, 0))
    run.append_metrics({"step": 1, "tokens": 2048, "seconds": 1.0, "val/loss": 5.0})
    canvas = ValidationLoss().draw([run])
    render(canvas, "svg")
    (text,) = canvas.legends[0].get_texts()
    assert text.get_text().strip().replace(r"\$", "$") == variant


def test_svg_follows_a_dark_screen(runs):
    svg = render(ValidationLoss().draw(runs[:1]), "svg").decode()
    dark = follow_dark(svg)
    assert "prefers-color-scheme: dark" in dark
    for light in ("#ffffff", "#1b1f24"):
        assert f"fill: {light}" in svg
        assert f'[style*="fill: {light}"]' in dark


def test_rendering_again_does_not_move_the_layout(runs):
    canvas = DominanceRatio().draw(runs)
    assert render(canvas, "svg") == render(canvas, "svg")
