"""The command line: the only place that parses arguments; each verb imports the heavy packages that it needs."""

from sinkpretrain.cli.command import main, run

__all__ = ["main", "run"]
