"""The verbs that look into models: import, export, probe, intervene."""

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from sinkpretrain.cli.verb import add_verb, show

SOURCE = "a run folder, a Hugging Face folder or hub id (owner/name[@revision]), or a GGUF file"
INTERVENTIONS = "isolate_position, amplify_variance, ablate_super_neurons or densify_down_projection"
INTERVENED_TOKENS = 64  # a position early in a short text is met by as many queries as in the papers' figures


def add(verbs: Any) -> None:
    """Add the parsers of these verbs."""
    importing = add_verb(verbs, "import", _import, "a model from elsewhere -> run folder")
    importing.add_argument("source", metavar="SOURCE", help=SOURCE.removeprefix("a run folder, "))
    importing.add_argument("out", type=Path, metavar="DIR", help="the run folder to make")
    importing.add_argument("--revision", help="branch, tag or commit of a hub id")

    export = add_verb(verbs, "export", _export, "run -> a folder that transformers loads")
    export.add_argument("run", type=Path, metavar="RUN")
    export.add_argument("--to", choices=("hf",), default="hf", help="the format (default: hf)")
    export.add_argument("out", type=Path, metavar="DIR", help="the folder to make")
    export.add_argument("--checkpoint", type=int, metavar="STEP", help="default: the newest")

    probe = add_verb(verbs, "probe", _probe, "measure the sink and its causes in checkpoints")
    _add_subject(probe)
    probe.add_argument("--checkpoint", nargs="+", default=["last"], metavar="STEP", help="steps, 'last' or 'all'")
    probe.add_argument("--metrics", nargs="+", metavar="NAME", help="default: all")
    probe.add_argument("--tokens", type=int, help="length of a window (default: the context, 1024 at most if imported)")
    probe.add_argument("--sequences", type=int, help="windows for metrics that fix no number (default: the run's)")
    probe.add_argument("--batch-size", type=int, default=4, help="windows at a time; results do not depend on it")

    intervene = add_verb(verbs, "intervene", _intervene, "change the forward pass and see what the sink does")
    _add_subject(intervene)
    intervene.add_argument("--checkpoint", default="last", metavar="STEP", help="a step or 'last' (default)")
    intervene.add_argument("--with", dest="name", required=True, metavar="NAME", help=INTERVENTIONS)
    intervene.add_argument("--position", type=int, nargs="+", help="default: 10; of neurons 0")
    intervene.add_argument("--layer", type=int, nargs="+", help="default: all; of amplify_variance 0")
    intervene.add_argument("--strength", type=float, nargs="+", help="default: 1; of amplify_variance a sweep")
    where = ("all", "first", "others")
    intervene.add_argument("--at", choices=where, default="all", help="of neurons: at which tokens (default: all)")
    intervene.add_argument("--no-controls", action="store_true", help="leave the controls out")
    intervene.add_argument("--tokens", type=int, default=INTERVENED_TOKENS, help="length of a window (default: 64)")
    intervene.add_argument("--sequences", type=int, default=32, help="windows a sample of text (default: 32)")
    intervene.add_argument("--seeds", type=int, default=4, help="samples of text (default: 4)")


def _add_subject(verb: argparse.ArgumentParser) -> None:
    """What probe and intervene share: the model, its text, and where the record goes."""
    verb.add_argument("source", metavar="RUN|MODEL", help=SOURCE)
    verb.add_argument("--text", type=Path, help="a .txt, .jsonl or .parquet file or a recipe (default: held-out text)")
    verb.add_argument("--bos", choices=("none", "document", "window"), help="what precedes text (default: the run's)")
    verb.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: a GPU if there is one"
    )
    verb.add_argument("--out", type=Path, metavar="DIR", help="a run folder for the record (default: the run's own)")


def _import(options: argparse.Namespace) -> None:
    from sinkpretrain.model.importing import import_model

    run = import_model(options.source, options.out, options.revision)
    shape = run.config().model
    text = f"{run.root}: {shape.n_layers} layers, {shape.n_heads} heads, {run.status()['parameters']:,} parameters"
    show(options, {"run": run.root, "parameters": run.status()["parameters"]}, text)


def _export(options: argparse.Namespace) -> None:
    from sinkpretrain.model.exporting import export_hf

    folder = export_hf(options.run, options.out, options.checkpoint)
    show(options, {"folder": folder}, str(folder))


def _probe(options: argparse.Namespace) -> None:
    from sinkpretrain import registry
    from sinkpretrain.subject import TextRequest, open_run, open_subject, steps_of

    names = options.metrics or registry.names("metrics")
    for name in names:
        registry.load("metrics", name)
    run = open_run(options.source)
    request = TextRequest(path=options.text, tokens=options.tokens, bos=options.bos)
    sequences = options.sequences or run.config().probes.windows
    found: dict[str, Any] = {}
    steps = sorted({step for which in options.checkpoint for step in steps_of(run, which)})
    subject = open_subject(run, steps[0], request, options.device)
    for step in steps:
        subject = subject.at_step(step)
        kept_in = _record_folder(options, run)
        kept_in.refuse_other_text(step, subject.about)
        print(f"probing step {step}: {', '.join(names)}", file=sys.stderr)
        record = subject.probe(names, sequences, options.batch_size)
        kept_in.add_probe(step, record.arrays, subject.about)
        found[str(step)] = record.scalars
    summary = [name for name in next(iter(found.values())) if "/layer_" not in name]
    head = f"{'':<36}" + "".join(f"{f'step {step}':>16}" for step in found)
    lines = [f"{name:<36}" + "".join(f"{of[name]:>16.4f}" for of in found.values()) for name in summary]
    written = [str(kept_in.probe_path(int(step))) for step in found]
    show(options, {"run": kept_in.root, "records": written, "scalars": found}, "\n".join([head, *lines, *written]))


def _intervene(options: argparse.Namespace) -> None:
    from sinkpretrain.intervening.experiment import Experiment, run_experiment, usual_sweep
    from sinkpretrain.intervening.table import table
    from sinkpretrain.subject import TextRequest, open_run, open_subject, step_of

    usual = usual_sweep(options.name)
    experiment = Experiment(
        name=options.name,
        positions=options.position or [usual.position],
        layers=options.layer or usual.layers,
        strengths=options.strength or usual.strengths,
        controls=not options.no_controls,
        at=options.at,
        seeds=options.seeds,
        sequences=options.sequences,
    )
    run = open_run(options.source)
    step = step_of(run, options.checkpoint, options.verb)
    request = TextRequest(path=options.text, tokens=options.tokens, bos=options.bos)
    subject = replace(open_subject(run, step, request, options.device), run=_record_folder(options, run))

    def tell(seed: int, condition: str) -> None:
        print(f"text sample {seed + 1} of {experiment.seeds}: {condition}", file=sys.stderr)

    record = run_experiment(subject, experiment, tell)
    path = subject.run.intervention_path(options.name)
    show(options, {"record": path, **record}, f"{table(record)}\n{path}")


def _record_folder(options: argparse.Namespace, run: Any) -> Any:
    """The run folder that the record goes to: the run's own, or one of the same configuration made for it."""
    from sinkpretrain.files import write_atomically
    from sinkpretrain.runs import Run

    if options.out is None:
        return run
    other = Run(options.out)
    config = replace(run.config(), variant=options.out.resolve().name)
    if other.config_path.exists():
        other.refuse_other_config(config)
    else:
        other.create(config)
        if run.source_path.exists():
            write_atomically(other.source_path, run.source_path.read_bytes())
    return other
