"""The fault matrix: every fault of a list, injected as often as the list says, and a table of what held.

scripts/fault_matrix                               all of it, half an hour on one core
scripts/fault_matrix kill_nine full_disk --quick   some rows, with the counts of the test suite
scripts/fault_matrix --write docs/reliability.md   all of it, the table put into that page
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from matrix.fault import Fault
from matrix.rows import FAULTS, Outcome, faults, inject
from matrix.table import circumstances, table, write_into
from matrix.workshop import Workshop


def main(arguments: Sequence[str] | None = None, folder: Path = FAULTS) -> int:
    """Inject the faults that the arguments name, print the table; 1 where anything did not hold."""
    rows = faults(folder)
    options = _options(arguments, [fault.name for fault in rows])
    chosen = [fault for fault in rows if not options.row or fault.name in options.row]
    counts = {fault: fault.quick if options.quick else fault.full for fault in chosen}
    with tempfile.TemporaryDirectory(prefix="fault_matrix_") as work:
        workshop = Workshop(Path(work), seed=options.seed)
        outcomes = [_injected(fault, workshop, count) for fault, count in counts.items() if count]
    text = f"{circumstances(outcomes)}\n\n{table(outcomes)}"
    print(text)
    if options.write:
        write_into(options.write, text)
    return 0 if all(outcome.all_held for outcome in outcomes) else 1


def _options(arguments: Sequence[str] | None, names: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/fault_matrix", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("row", nargs="*", help=f"rows to inject (all by default): {', '.join(names)}")
    parser.add_argument("--quick", action="store_true", help="as often as the test suite does")
    parser.add_argument("--seed", type=int, default=0, help="of every random choice")
    parser.add_argument("--write", type=Path, metavar="PAGE.md", help="put the table of all rows into the page")
    options = parser.parse_args(arguments)
    if unknown := sorted(set(options.row) - set(names)):
        parser.error(f"there is no row '{unknown[0]}'; there are {', '.join(names)}")
    if options.write and (options.row or options.quick):
        parser.error("--write takes the whole matrix; leave out the names of rows and --quick")
    return options


def _injected(fault: Fault, workshop: Workshop, count: int) -> Outcome:
    """What came of a row, a line of it on stderr."""
    print(f"{fault.name}: {count} trials ...", file=sys.stderr, flush=True)
    outcome = inject(fault, workshop, count)
    held = f"{len(outcome.trials)} trials, {outcome.held} held, {outcome.seconds:.0f} s"
    print(f"{fault.name}: {held}", *outcome.failures, sep="\n  ", file=sys.stderr, flush=True)
    return outcome


if __name__ == "__main__":
    sys.exit(main())
