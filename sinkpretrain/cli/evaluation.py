"""The verbs about what a model can do, and what ACT changes in that: eval."""

import argparse
import importlib.util
import os
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from sinkpretrain.cli.models import SOURCE
from sinkpretrain.cli.verb import add_verb, show
from sinkpretrain.errors import ConfigError

RULES = ("paper", "corrected", "all")
ABLATIONS = ("method", "distribution", "alpha", "beta", "share", "items")
OWN_HEADS = Path()  # what --act without a file stands for


def add(verbs: Any) -> None:
    """Add the parsers of these verbs."""
    summary = "tasks of lm-evaluation-harness, with and without ACT; --act.KEY VALUE changes ACT's settings"
    verb = add_verb(verbs, "eval", _eval, summary, overrides=True)
    verb.add_argument("sources", nargs="+", metavar="RUN|MODEL", help=SOURCE)
    verb.add_argument("--tasks", nargs="+", required=True, metavar="T", help="names or sets: paper, embedded, ...")
    verb.add_argument("--limit", type=int, metavar="N", help="the first N items of each task (default: all)")
    verb.add_argument("--fewshot", type=int, default=0, metavar="K", help="solved examples a prompt (default: 0)")
    add_source(verb)
    act = verb.add_argument_group("ACT")
    act.add_argument(
        "--act", nargs="?", type=Path, const=OWN_HEADS, metavar="HEADS.json", help="default: the run's own"
    )
    act.add_argument("--rule", nargs="+", choices=RULES, help="whose heads (default: paper and corrected)")
    act.add_argument("--controls", action="store_true", help="random heads, and the same mass from other columns")
    act.add_argument("--ablate", choices=ABLATIONS, help="instead of the rules: one of the paper's Tables 6 to 11")
    verb.add_argument("--name", help="of the record in RUN/eval (default: the tasks' names)")
    verb.add_argument("--cache", type=Path, metavar="FILE", help="keep answers there, to go on after an interruption")
    verb.add_argument("--answers", type=Path, metavar="FILE", help="of mt_bench: where the answers go")


def add_source(verb: argparse.ArgumentParser) -> None:
    """Where items come from and how a model reads them."""
    verb.add_argument("--data-dir", type=Path, metavar="DIR", help="DIR/<task>/*.jsonl (default: the hub)")
    verb.add_argument("--text", type=Path, metavar="FILE", help="of embedded tasks (default: the run's held-out text)")
    verb.add_argument("--checkpoint", default="last", metavar="STEP", help="a step or 'last' (default)")
    verb.add_argument(
        "--bos", choices=("auto", "none", "always"), default="auto", help="before prompts; auto: as trained"
    )
    verb.add_argument("--batch-tokens", type=int, default=4096, metavar="N", help="results do not depend on it")
    verb.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: a GPU if there is one"
    )


def need_harness() -> None:
    """Raise where lm-evaluation-harness is not installed."""
    if importlib.util.find_spec("lm_eval") is None:
        raise ConfigError("lm-eval is not installed; install the extra with scripts/install eval")


def _eval(options: argparse.Namespace) -> None:
    need_harness()
    if not sys.stderr.isatty():
        os.environ["TQDM_DISABLE"] = "1"  # the harness's bars, beside our lines
    from sinkpretrain.evaluation.mt_bench import NAME
    from sinkpretrain.subject import open_run, step_of

    _refuse_without_effect(options)
    evaluate_one: Callable[[argparse.Namespace, Any, int], tuple[dict[str, Any], str]] = _tasks
    if NAME in options.tasks:
        if options.tasks != [NAME] or options.answers is None:
            raise ConfigError(f"--tasks: {NAME} goes alone, with --answers FILE; its answers are judged elsewhere")
        evaluate_one = _answers
    elif options.answers is not None:
        raise ConfigError(f"--answers: only {NAME} writes answers to a file; leave it out")
    results, texts = [], []
    for source in options.sources:
        run = open_run(source)
        step = step_of(run, options.checkpoint, options.verb)
        result, text = evaluate_one(options, run, step)
        results.append(result)
        texts.append(text)
    show(options, {"runs": results}, "\n\n".join(texts))


def _refuse_without_effect(options: argparse.Namespace) -> None:
    """Raise where an option would do nothing, or is out of range."""
    if options.act is None and (options.controls or options.ablate or (options.rule and options.rule != ["all"])):
        raise ConfigError("--rule, --controls and --ablate need the heads of a search: add --act [HEADS.json]")
    if options.ablate and (options.controls or len(options.rule or ()) > 1):
        raise ConfigError("--ablate: has no controls and takes one --rule; leave the others out")
    if options.act not in (None, OWN_HEADS) and len(options.sources) > 1:
        raise ConfigError(f"--act: {options.act} is of one model, and {len(options.sources)} were given; name one")
    for name, least in (("limit", 1), ("fewshot", 0), ("batch_tokens", 1)):
        value = getattr(options, name)
        if value is not None and value < least:
            raise ConfigError(f"--{name.replace('_', '-')}: {value} is out of range; allowed: >= {least}")


def _tasks(options: argparse.Namespace, run: Any, step: int) -> tuple[dict[str, Any], str]:
    """Evaluate one checkpoint; the record and its table."""
    from sinkpretrain.evaluation.evaluate import evaluate, record_path
    from sinkpretrain.evaluation.table import table
    from sinkpretrain.subject import device_of

    conditions, calibrated_on = _conditions(options, run, step)
    names = ", ".join(condition.name for condition in conditions)
    print(f"{run.root} at step {step}: {', '.join(options.tasks)} under {names}", file=sys.stderr)
    record = evaluate(
        run,
        step,
        options.tasks,
        conditions,
        fewshot=options.fewshot,
        limit=options.limit,
        data_dir=options.data_dir,
        text=options.text,
        bos=options.bos,
        device=device_of(options.device),
        batch_tokens=options.batch_tokens,
        cache=options.cache,
        name=options.name,
        calibrated_on=calibrated_on,
    )
    path = record_path(run, options.tasks, options.name)
    return {"record": path, **record}, f"{table(record)}\n{path}"


def _conditions(options: argparse.Namespace, run: Any, step: int) -> tuple[list[Any], list[str]]:
    """The conditions that the options ask for, and the hashes of the items that their heads were chosen on."""
    from sinkpretrain.calibration import Settings
    from sinkpretrain.evaluation import conditions
    from sinkpretrain.evaluation.calibrating import chosen_by
    from sinkpretrain.evaluation.evaluate import model_identity
    from sinkpretrain.evaluation.heads import read_heads
    from sinkpretrain.mappings import build, to_mapping

    changes = changes_of_act(options)
    if changes and options.act is None and not options.rule:
        raise ConfigError("--act.KEY: has no effect without ACT; add --act [HEADS.json], or --rule all")
    if options.act is None:
        settings = build(Settings, changes, "act")
        return _named(
            [conditions.vanilla(), *([conditions.all_heads(run.config().model, settings)] if options.rule else [])],
            changes,
        ), []
    path = run.heads_path if options.act == OWN_HEADS else options.act
    if not path.is_file():
        raise ConfigError(
            f"{path}: there is no such file; make it with sinkpretrain calibrate {run.root} --tasks T ..."
        )
    file, own = read_heads(path), model_identity(run, step)
    if file.model["sha256"] != own["sha256"]:
        raise ConfigError(
            f"{path}: is of another model ({file.model['run']} at step {file.model['step']}, not {own['run']} at step "
            f"{step}); make it anew with sinkpretrain calibrate {run.root} --tasks T ..."
        )
    file = replace(file, settings=build(Settings, to_mapping(file.settings) | changes, "act"))
    rules = options.rule or ["paper", "corrected"]
    if options.ablate:
        reselect = partial(chosen_by, run, rules[0]) if path == run.heads_path else None
        return _named(conditions.ablation(options.ablate, file, rules[0], reselect), changes), file.hashes
    return _named(conditions.conditions_of(file, rules, options.controls), changes), file.hashes


def changes_of_act(options: argparse.Namespace) -> dict[str, Any]:
    """ACT's settings that were given as --act.KEY VALUE."""
    from sinkpretrain.mappings import parse_overrides

    given = parse_overrides(options.overrides)
    if unknown := set(given) - {"act"}:
        raise ConfigError(
            f"--{min(unknown)}: unknown; settings of ACT are --act.beta 0.3 and the like; see {options.verb} --help"
        )
    changes: dict[str, Any] = given.get("act", {})
    return changes


def _named(conditions: Iterable[Any], changes: dict[str, Any]) -> list[Any]:
    """Conditions whose names tell them from those with the search's own settings."""
    suffix = "".join(f" {key}={value}" for key, value in changes.items())
    return [one if one.settings is None else replace(one, name=f"{one.name}{suffix}") for one in conditions]


def _answers(options: argparse.Namespace, run: Any, step: int) -> tuple[dict[str, Any], str]:
    """Answer MT-Bench with one checkpoint, under one condition."""
    from sinkpretrain.evaluation import mt_bench
    from sinkpretrain.evaluation.chat import template_of
    from sinkpretrain.evaluation.encoding import encoder_of
    from sinkpretrain.model.load import load_model
    from sinkpretrain.progress import Display
    from sinkpretrain.subject import device_of

    conditions, _ = _conditions(options, run, step)
    condition = conditions[min(1, len(conditions) - 1)]
    model, tokenizer = load_model(run.root, step)
    encoder = encoder_of(run, tokenizer, options.bos)
    answerer = mt_bench.Answerer(
        model=model.to(device_of(options.device)),
        encoder=encoder,
        template=template_of(run, encoder),
        condition=condition,
        name=f"{run.name.replace('/', '-')}-{step}-{condition.name}",
    )
    asked = mt_bench.questions(options.data_dir)[: options.limit]
    print(f"{run.root} at step {step}: {condition.name}, greedy, in {answerer.format}", file=sys.stderr)
    with Display(condition.name, len(asked)) as display:
        new = mt_bench.write_answers(answerer, asked, options.answers, display.advance)
    text = f"{options.answers}: {new} of {len(asked)} questions answered now; judge them with FastChat"
    return {"answers": options.answers, "model_id": answerer.name, "new": new, "format": answerer.format}, text
