"""One self-contained HTML page about runs: the numbers, the figures in the order of the argument, and how to repeat it.

The page loads nothing: figures are SVG images inside it, which follow the reader's light or dark setting.
"""

import base64
import json
import shlex
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from sinkpretrain import registry
from sinkpretrain.errors import DataError
from sinkpretrain.figures.base import Figure, follow_dark, render
from sinkpretrain.figures.base.arms import Axis, Point, config_of, probed, recorded
from sinkpretrain.figures.base.style import AXIS_LABELS
from sinkpretrain.mappings import difference, to_mapping
from sinkpretrain.runs import Run, write_atomically

SEEDS_FOR_A_CLAIM = 3
NOTHING = "\N{EN DASH}"
# The figures in the order of the argument; figures not named here follow after them.
STORY: tuple[tuple[str, Axis], ...] = (
    ("positional_variance", "tokens"),
    ("dominance_ratio", "tokens"),
    ("representation_norm", "tokens"),
    ("first_token_attention", "tokens"),
    ("sink_rate", "tokens"),
    ("first_token_emergence", "tokens"),
    ("effective_rank", "tokens"),
    ("validation_loss", "tokens"),
    ("validation_loss", "step"),
    ("validation_loss", "seconds"),
)


def write_report(runs: Sequence[Run], out: Path) -> Path:
    """Write the page about these runs to `out` and return its path; unfinished runs are shown as far as they are.

    Raises:
        DataError: no runs, or a record that cannot be read.
    """
    if not runs:
        raise DataError("no runs were given; a report needs at least one run folder")
    names = dict.fromkeys(config_of(run).name for run in runs)
    page = Template(Path(__file__).with_name("report.html").read_text(encoding="utf-8")).substitute(
        title=escape(", ".join(names)),
        verdict=_verdict(runs),
        summary=_summary(runs),
        differences=_differences(runs),
        records="".join(_records(runs, f"{name}.json") for name in ("environment", "data_manifest")),
        figures=_figures(runs),
        commands=escape(_commands(runs, out)),
    )
    write_atomically(Path(out), page.encode())
    return Path(out)


def _verdict(runs: Sequence[Run]) -> str:
    """What may be said about which variant is better, from the seeds that every variant finished."""
    finished: dict[str, set[int]] = {}
    for run in runs:
        config = config_of(run)
        finished.setdefault(config.variant, set()).update({config.seed} if run.status().get("state") == "done" else ())
    if len(finished) < 2:
        return "One variant: nothing to compare."
    shared = len(set.intersection(*finished.values()))
    if shared < SEEDS_FOR_A_CLAIM:
        return (
            f"<strong>no claim</strong> about which variant is better: {shared} finished seed{'s' * (shared != 1)} "
            f"in common, and a claim needs at least {SEEDS_FOR_A_CLAIM}. The numbers below describe these runs only."
        )
    return (
        f"{shared} finished seeds in common. The numbers below are listed seed by seed and are not a verdict: that "
        "needs the differences paired over seeds, with an interval."
    )


def _summary(runs: Sequence[Run]) -> str:
    """Two tables, one row a run: training, and sinks. A quantity that should be equal and is not is marked."""
    training: dict[str, Callable[[Run], str]] = {
        "state": _state,
        "tokens": _cell(recorded("tokens"), ",.0f"),
        "parameters": lambda run: _number(run.status().get("parameters"), ",.0f"),
        "FLOPs a token": _flops,
        "validation loss (nats a token)": _cell(recorded("val/loss"), ".4f"),
        "perplexity": _cell(recorded("val/perplexity"), ".2f"),
        "bits a byte": _cell(recorded("val/bits_per_byte"), ".4f"),
        "unigram entropy (nats)": lambda run: _number(_unigram_entropy(run), ".4f"),
        "nats below it": _below_unigram,
        "tokens a second": _cell(recorded("perf/tokens_per_s"), ",.0f"),
    }
    sinks: dict[str, Callable[[Run], str]] = {
        "first-token attention": _cell(recorded("sink/first_token_mean"), ".4f"),
        "rows divided by their sum": _cell(recorded("sink/first_token_mean_normalised"), ".4f"),
        "uniform attention": _cell(probed("first_token_attention/uniform"), ".4f"),
        "sink rate": _cell(recorded("sink/rate"), ".4f"),
        "sink rate, rows divided by their sum": _cell(recorded("sink/rate_normalised"), ".4f"),
        "effective rank": _cell(recorded("rank/effective_mean"), ".1f"),
        "dominance ratio": _cell(recorded("activation/dominance_mean"), ".1f"),
    }
    comparable = ("tokens", "parameters", "FLOPs a token")
    unequal = [name for name in comparable if len({training[name](run) for run in runs}) > 1]
    marked = {f"{name} (unequal)" if name in unequal else name: cell for name, cell in training.items()}
    return _run_table("Training: the last recorded value of each run.", marked, runs) + _run_table(
        "Sinks at the last probe: means over layers and heads.", sinks, runs
    )


def _run_table(caption: str, columns: dict[str, Callable[[Run], str]], runs: Sequence[Run]) -> str:
    """A table of one row a run."""
    rows = [[_label(run), *(cell(run) for cell in columns.values())] for run in runs]
    return _table(caption, ["variant and seed", *columns], rows)


def _table(caption: str, headings: Sequence[str], rows: Sequence[Sequence[str]], style: str = "numbers") -> str:
    """An HTML table of escaped texts, which scrolls sideways where the page is narrow."""
    head = "".join(f'<th scope="col">{escape(heading)}</th>' for heading in headings)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>\n" for row in rows)
    return (
        f'<div class="wide"><table class="{style}"><caption>{escape(caption)}</caption>\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table></div>\n"
    )


def _label(run: Run) -> str:
    """`<variant>-s<seed>`."""
    config = config_of(run)
    return f"{config.variant}-s{config.seed}"


def _number(value: float | None, form: str) -> str:
    """A number as text, or the sign for none."""
    return NOTHING if value is None else f"{value:{form}}"


def _cell(last: Callable[[Run], Point | None], form: str) -> Callable[[Run], str]:
    """What shows a run's last record of a number."""

    def cell(run: Run) -> str:
        point = last(run)
        return _number(None if point is None else point.value, form)

    return cell


def _flops(run: Run) -> str:
    """Floating-point operations of training on one token, in millions."""
    value = run.status().get("flops_per_token")
    return NOTHING if value is None else f"{value / 1e6:,.4g} M"


def _state(run: Run) -> str:
    """The state, and how far the run is where it is not done."""
    status = run.status()
    if status.get("state") == "done" or "step" not in status:
        return str(status.get("state", NOTHING))
    return f"{status['state']}, {status['step'] / config_of(run).steps:.0%}"


def _unigram_entropy(run: Run) -> float | None:
    """The entropy of the validation text's tokens in nats, where the data manifest has it."""
    value: Any = _read_json(run, "data_manifest.json")
    for key in ("splits", "validation", "unigram_entropy_nats"):
        value = value.get(key) if isinstance(value, dict) else None
    return float(value) if isinstance(value, int | float) else None


def _below_unigram(run: Run) -> str:
    """How far the loss is below the unigram entropy: what the model learned beyond token frequencies."""
    entropy, loss = _unigram_entropy(run), recorded("val/loss")(run)
    return _number(None if entropy is None or loss is None else entropy - loss.value, ".4f")


def _figures(runs: Sequence[Run]) -> str:
    """Every figure the records allow, with its question and what to look for; then what was left out, and why."""
    told = dict(STORY)
    others: list[tuple[str, Axis]] = [(name, "tokens") for name in registry.names("figures") if name not in told]
    parts: list[str] = []
    left_out: dict[str, str] = {}
    for name, x in [*STORY, *others]:
        figure: Figure = registry.load("figures", name)()
        try:
            svg, reading = render(figure.draw(runs, x), "svg").decode(), figure.reading(runs)
        except DataError as error:
            left_out[name] = str(error)
            continue
        caption = f"<strong>{escape(figure.question)}</strong> {escape(reading)}"
        if x != "tokens":
            caption = f"The same against {escape(AXIS_LABELS[x])}."
        parts.append(_figure(f"Figure {len(parts) + 1}. {caption}", svg, f"{name} by {x}"))
    missing = "".join(f"<li>{escape(name)}: {escape(reason)}</li>" for name, reason in left_out.items())
    return "".join(parts) + (f"<p>Not drawn:</p><ul>{missing}</ul>" if missing else "")


def _figure(caption: str, svg: str, alternative: str) -> str:
    """A figure whose image is part of the page."""
    image = base64.b64encode(follow_dark(svg).encode()).decode()
    return (
        f'<figure><div class="wide"><img alt="{escape(alternative)}" src="data:image/svg+xml;base64,{image}"></div>\n'
        f"<figcaption>{caption}</figcaption></figure>\n"
    )


def _differences(runs: Sequence[Run]) -> str:
    """The configuration keys whose values are not equal in all runs; runs with equal values share a column."""
    configs = [to_mapping(config_of(run)) for run in runs]
    changes = [difference(configs[0], config) for config in configs]
    first = {
        key: before for changed in changes for key, (before, _) in changed.items() if key not in ("variant", "seed")
    }
    if not first:
        return "<p>Nothing but the names of variants and the seeds.</p>"
    columns: dict[tuple[str, ...], list[str]] = {}
    for run, changed in zip(runs, changes, strict=True):
        values = tuple(str(changed[key][1] if key in changed else before) for key, before in first.items())
        columns.setdefault(values, []).append(_label(run))
    rows = [[key, *(values[place] for values in columns)] for place, key in enumerate(first)]
    headings = ["key", *(", ".join(labels) for labels in columns.values())]
    return _table("Configuration keys that are not equal everywhere.", headings, rows, "text")


def _records(runs: Sequence[Run], file: str) -> str:
    """A JSON record of the runs, once where it is the same."""
    groups: dict[str, list[str]] = {}
    for run in runs:
        content = _read_json(run, file)
        groups.setdefault("not recorded" if content is None else json.dumps(content, indent=2), []).append(_label(run))
    return "".join(
        f"<details><summary>{file}: {escape('all runs' if len(groups) == 1 else ', '.join(of))}</summary>"
        f"<pre>{escape(text)}</pre></details>\n"
        for text, of in groups.items()
    )


def _read_json(run: Run, file: str) -> Any:
    """A JSON record of a run folder; None where there is none."""
    path = run.root / file
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
    except json.JSONDecodeError as error:
        raise DataError(f"{path}: is not JSON ({error}); the record was altered") from None


def _commands(runs: Sequence[Run], out: Path) -> str:
    """The commands that train these runs again and write this page."""
    folders = [str(run.root) for run in runs]
    again = [["train", "--config", str(run.config_path), "--out", f"again/{run.name}"] for run in runs]
    commands = [*again, ["report", *folders, "--out", str(out)]]
    return "\n".join(shlex.join(["sinkpretrain", *command]) for command in commands)
