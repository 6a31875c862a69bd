"""The command `sinkpretrain`: its verbs, its errors, its exit codes."""

import argparse
import logging
import sys
from collections.abc import Sequence
from dataclasses import asdict

from sinkpretrain.cli import calibration, compare, evaluation, models, results, sweep, training
from sinkpretrain.cli.verb import add_verb, show
from sinkpretrain.errors import ConfigError, Interrupted, SinkpretrainError
from sinkpretrain.training import advisories


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one verb and exit with its code (`errors` lists them)."""
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: Sequence[str]) -> int:
    """Run one verb; the exit code. Results go to stdout, everything else to stderr."""
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        if rest and not options.takes_overrides:
            raise ConfigError(f"'{rest[0]}' is not understood; see sinkpretrain {options.verb} --help")
        options.overrides, options.arguments = rest, arguments
        if options.verb != "doctor":  # which says more, and imports nothing that is malicious
            advisories.refuse_malicious()
        return options.function(options) or 0
    except SinkpretrainError as error:
        if options.debug:
            raise
        print(f"sinkpretrain: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("sinkpretrain: interrupted", file=sys.stderr)
        return Interrupted.exit_code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sinkpretrain",
        description="Pretrain small Llamas with switchable attention, measure their attention sinks, compare them.",
        allow_abbrev=False,
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for group in (training, sweep, models, calibration, evaluation, compare, results):
        group.add(verbs)
    add_verb(verbs, "doctor", _doctor, "versions, devices, malicious and vulnerable packages")
    return parser


def _doctor(options: argparse.Namespace) -> None:
    from sinkpretrain.training import environment

    bad = advisories.findings()
    found = {"versions": environment.versions(), **environment.devices()}
    found["bad_packages"] = {one.package: asdict(one) for one in bad}
    lines = [f"{package:<16}{version or 'not installed'}" for package, version in found["versions"].items()]
    lines += [f"{'platform':<16}{found['platform']}", f"{'CPU threads':<16}{found['cpu_threads']}"]
    lines += [f"{'GPUs':<16}{', '.join(found['gpus']) or 'none'}"]
    show(options, found, "\n".join(lines))
    if bad:
        raise SinkpretrainError(". ".join(map(str, bad)))
