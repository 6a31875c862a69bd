"""What every verb has: a parser with the options that all share, and a result for people or machines."""

import argparse
import json
from collections.abc import Callable
from typing import Any


def add_verb(
    verbs: Any, name: str, function: Callable[[argparse.Namespace], int | None], summary: str, overrides: bool = False
) -> argparse.ArgumentParser:
    """The parser of one verb; `overrides` are --a.b VALUE, which it takes besides its own options."""
    verb: argparse.ArgumentParser = verbs.add_parser(name, help=summary, description=summary, allow_abbrev=False)
    verb.set_defaults(function=function, takes_overrides=overrides)
    verb.add_argument("--json", action="store_true", help="print the result as JSON")
    verb.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return verb


def show(options: argparse.Namespace, result: dict[str, Any], text: str) -> None:
    """The result on stdout, for machines or for people."""
    print(json.dumps(result, indent=2, default=str) if options.json else text)
