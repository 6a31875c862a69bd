"""What figures of ACT promise beyond the contract."""

import numpy as np
import pytest
import synthetic_act
from artists import artists, beside, texts
from synthetic_runs import write_run

from sinkpretrain.errors import DataError
from sinkpretrain.figures.act_gains import ActGains
from sinkpretrain.figures.act_heads import ActHeads
from sinkpretrain.figures.act_maps import ActMaps
from sinkpretrain.files import write_json


@pytest.fixture
def run(tmp_path):
    return write_run(tmp_path / "demo" / "softmax-s0", "softmax", 0)


def test_effects_are_coloured_around_zero_on_one_scale(runs):
    images = [
        image for variant in ("softmax", "sigmoid", "head_rmsnorm") for image in artists(ActHeads().draw(runs), variant)
    ]
    scales = {(image.norm.vmin, image.norm.vmax) for image in images}
    assert len(scales) == 2, "one for accuracy, one for log-probability"
    assert all(low == -high < 0 for low, high in scales)
    largest = max(abs(row["accuracy"]) for run in runs for row in run.heads()["heads"])
    assert largest in {high for _, high in scales}


def test_a_head_that_saw_no_sink_has_no_effect_whatever_its_row_says(run):
    search = run.heads()
    for row in search["heads"]:
        row["accuracy"] = 0.01
    write_json(run.heads_path, search)
    image = artists(ActHeads().draw([run]), "softmax")[0]
    blank_H = [head in synthetic_act.WITHOUT_SINKS for head in range(synthetic_act.HEADS)]
    np.testing.assert_array_equal(image.get_array().mask, [blank_H] * 3)
    assert "softmax 6 of 12, 6 raise accuracy (paper chooses 3, corrected chooses 1)" in ActHeads().reading([run])


def test_a_search_without_any_sink_is_drawn_as_such(run):
    search = run.heads() | {"saw_sink": 0, "rules": {"paper": [], "corrected": []}}
    search["heads"] = [row | {"sink_share": 0.0} for row in search["heads"]]
    write_json(run.heads_path, search)
    assert artists(ActHeads().draw([run]), "softmax")[0].get_array().mask.all()


def test_gains_of_another_metric(run):
    canvas = ActGains(ActGains.Options(metric="logprob")).draw([run])
    record = run.evaluation("made_up")["conditions"]
    (marks,) = artists(canvas, "softmax")
    outcomes = [record[name]["tasks"]["made_up_one"]["items"]["logprob"] for name in ("act-paper", "vanilla")]
    assert marks.get_xdata()[0] == pytest.approx(np.mean(outcomes[0]) - np.mean(outcomes[1]))
    assert canvas.axes[-1].get_xlabel() == "difference of logprob (nats)"
    with pytest.raises(
        DataError, match="the metric 'em': not recorded by demo/softmax-s0; make it with sinkpretrain eval"
    ):
        ActGains(ActGains.Options(metric="em")).draw([run])


def test_only_conditions_that_were_evaluated_are_drawn(run):
    record = run.evaluation("made_up")
    for name in ("random-heads", "equal-mass"):
        del record["conditions"][name]
    write_json(run.evaluation_path("made_up"), record)
    canvas = ActGains().draw([run])
    (marks,) = artists(canvas, "softmax")
    assert beside(marks, "_act-corrected")
    assert not beside(marks, "_equal-mass")
    assert "equal-mass (control)" not in texts(canvas)


def test_gains_of_runs_on_other_items_are_refused(run, tmp_path):
    other = write_run(tmp_path / "demo" / "sigmoid-s0", "sigmoid", 0)
    record = other.evaluation("made_up")
    record["conditions"]["vanilla"]["tasks"]["made_up_one"]["items"]["hash"][0] = "another"
    write_json(other.evaluation_path("made_up"), record)
    with pytest.raises(DataError, match=r"made_up_one has other items .*120 and 120, 119 of them shared"):
        ActGains().draw([run, other])


def test_maps_are_of_one_text_on_one_scale_and_marked(run, tmp_path):
    images = artists(ActMaps().draw([run]), "softmax")
    assert len({(image.norm.vmin, image.norm.vmax) for image in images}) == 1
    reading = ActMaps().reading([run])
    maps = synthetic_act.maps("softmax", 0)
    later = slice(synthetic_act.POSITIONS // 2, None)
    before, after = (maps[when][later][:, list(synthetic_act.SINKS)].sum(axis=1).mean() for when in ("before", "after"))
    assert f"softmax {before:.3f} to {after:.3f} on sinks" in reading
    assert "(3 heads)" in reading
    other = write_run(tmp_path / "demo" / "softmax-s1", "softmax", 1)
    np.savez(other.act_maps_path, **(synthetic_act.maps("softmax", 1) | {"tokens": maps["tokens"][::-1]}))
    with pytest.raises(DataError, match=r"'softmax' \(demo/softmax-s0, demo/softmax-s1\) have maps of different texts"):
        ActMaps().draw([run, other])
