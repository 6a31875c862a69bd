"""One self-contained HTML page about runs: the numbers, the figures in the order of the argument, how to repeat it."""

from sinkpretrain.report.page import write_report

__all__ = ["write_report"]
