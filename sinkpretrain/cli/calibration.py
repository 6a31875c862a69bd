"""The verb that searches the heads ACT calibrates."""

import argparse
import sys
from contextlib import ExitStack
from typing import Any

from sinkpretrain.cli.evaluation import add_source, changes_of_act, need_harness
from sinkpretrain.cli.models import SOURCE
from sinkpretrain.cli.verb import add_verb, show


def add(verbs: Any) -> None:
    """Add the parser of this verb."""
    calibrate = add_verb(
        verbs, "calibrate", _calibrate, "ACT's head search -> heads.json; --act.KEY VALUE sets ACT", overrides=True
    )
    calibrate.add_argument("sources", nargs="+", metavar="RUN|MODEL", help=SOURCE)
    calibrate.add_argument("--tasks", nargs="+", required=True, metavar="T", help="tasks or sets, as in eval")
    calibrate.add_argument("--items", type=int, metavar="M", help="of each task (default: 100, or all)")
    calibrate.add_argument("--fewshot", type=int, default=0, metavar="K", help="solved examples a prompt (default: 0)")
    calibrate.add_argument("--seed", type=int, default=0, help="draws the items (default: 0)")
    add_source(calibrate)


def _calibrate(options: argparse.Namespace) -> None:
    need_harness()
    from sinkpretrain.calibration import Settings
    from sinkpretrain.mappings import build
    from sinkpretrain.subject import open_run, step_of

    settings = build(Settings, changes_of_act(options), "act")
    results, texts = [], []
    for source in options.sources:
        run = open_run(source)
        step = step_of(run, options.checkpoint, options.verb)
        print(f"{run.root} at step {step}: heads searched on {', '.join(options.tasks)}", file=sys.stderr)
        found = _searched(options, run, step, settings)
        results.append({"heads": run.heads_path, **found.to_mapping()})
        texts.append(f"{_table(found)}\n{run.heads_path}")
    show(options, {"runs": results}, "\n\n".join(texts))


def _searched(options: argparse.Namespace, run: Any, step: int, settings: Any) -> Any:
    """One head search, with its progress."""
    from sinkpretrain.evaluation.calibrating import CalibrationRequest, search_heads
    from sinkpretrain.progress import Display
    from sinkpretrain.subject import device_of

    request = CalibrationRequest(
        tasks=options.tasks,
        items=options.items,
        fewshot=options.fewshot,
        data_dir=options.data_dir,
        text=options.text,
        bos=options.bos,
        device=device_of(options.device),
        batch_tokens=options.batch_tokens,
        seed=options.seed,
    )
    with ExitStack() as stack:
        display: list[Display] = []

        def tell(done: int, items: int) -> None:
            if not display:
                display.append(stack.enter_context(Display("calibration items", items)))
            display[0].advance(done - display[0].done)

        return search_heads(run, step, settings, request, tell)


def _table(found: Any) -> str:
    """What the search found, in a few lines."""
    best = sorted(found.heads, key=lambda row: -row["logprob"])[:5]
    lines = [
        f"{len(found.heads)} heads of layers {found.layers[0]} .. {found.layers[1]}, {found.items} items; "
        f"{found.saw_sink} heads ever saw a later sink",
        f"without ACT: accuracy {found.vanilla['accuracy']:.4f}, log-probability of the right answer "
        f"{found.vanilla['logprob']:.4f}",
    ]
    if not found.saw_sink:
        lines.append("no-op: ACT has nothing to calibrate in this model")
    meanings = {"paper": "accuracy rises", "corrected": "log-probability rises, false discoveries held at 5 %"}
    lines += [f"rule {rule:<10}{len(heads):>4} heads   ({meanings[rule]})" for rule, heads in found.rules.items()]
    lines.append(f"{'layer':>6}{'head':>6}{'sees sinks':>12}{'accuracy':>10}{'log-prob.':>11}{'p':>10}{'q':>10}")
    lines += [
        f"{row['layer']:>6}{row['head']:>6}{row['sink_share']:>12.0%}{row['accuracy']:>+10.4f}{row['logprob']:>+11.4f}"
        f"{row['p']:>10.2g}{row['q']:>10.2g}"
        for row in best
    ]
    return "\n".join(lines)
