"""Applies each mutant to a copy of the checkout and says what catches it: a run's own check, or which test first.

`python -m mutation [--only TEXT]`, through `scripts/mutation_check`.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

from mutation.mutants import MUTANTS, Mutant

ROOT = Path(__file__).parents[3]
SHOWN = 200  # characters of a sentence
LIMIT = 900.0  # seconds for the tests of one mutant
ARMS = {
    "softmax": {},
    "sigmoid": {"weights": {"name": "sigmoid"}},
    "head_rmsnorm": {"output": [{"name": "head_rmsnorm"}]},
}
FAILED = re.compile(r"^(?:FAILED|ERROR) ([^\s\[]+)", re.MULTILINE)


def main() -> int:
    """Run the check; 1 where a mutant lives."""
    parser = argparse.ArgumentParser(prog="scripts/mutation_check", description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="mutants whose description holds this text")
    options = parser.parse_args()
    chosen = [mutant for mutant in MUTANTS if options.only in mutant.what]
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        store, caught = _store(Path(folder)), {}
        for mutant in chosen:
            began = time.monotonic()
            caught[mutant] = _caught(mutant, Path(folder), store)
            seconds = time.monotonic() - began
            print(f"{mutant.what}: {caught[mutant] or 'LIVES'} ({seconds:.0f} s)", file=sys.stderr, flush=True)
    print(_table(caught))
    return int(not all(caught.values()))


def _caught(mutant: Mutant, folder: Path, store: Path) -> str:
    """What catches it; empty where nothing does."""
    copy = folder / "copy"
    shutil.rmtree(copy, ignore_errors=True)
    tracked = subprocess.run(
        ["git", "ls-files", "-coz", "--exclude-standard"], cwd=ROOT, capture_output=True, check=True
    )
    for name in filter(None, tracked.stdout.decode().split("\0")):
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, copy / name)
    path = copy / mutant.file
    path.write_text(mutated(mutant, path.read_text(encoding="utf-8")), encoding="utf-8")
    by = [found for found in (_by_runs(copy, store), _by_tests(copy, mutant.ask)) if found]
    return "; ".join(by) or _by_tests(copy, "tests")


def mutated(mutant: Mutant, text: str) -> str:
    """The text of the file with the mutant in it.

    Raises:
        ValueError: what it replaces is not there exactly once.
    """
    if text.count(mutant.old) != 1:
        raise ValueError(f"{mutant.file}: has {text.count(mutant.old)} times what '{mutant.what}' replaces, not once")
    return text.replace(mutant.old, mutant.new)


def _by_runs(copy: Path, store: Path) -> str:
    """The sentence with which training or comparing three arms refuses."""
    shutil.rmtree(copy / "runs", ignore_errors=True)
    experiment = {
        "name": "mutant",
        "tokens": 8 * 8 * 32,
        "global_batch_size": 8,
        "accelerator": "cpu",
        "log_every": 1,
        "model": {"n_layers": 2, "n_heads": 2, "d_model": 32, "d_ff": 64, "context_length": 32},
        "data": {"store": str(store)},
        "validation": {"every": 8, "windows": 8},
        "probes": {"every": 8, "windows": 8, "metrics": ["first_token_attention"]},
        "wandb": {"mode": "disabled"},
        "seeds": [0],
        "variants": {arm: {"model": {"attention": attention}} for arm, attention in ARMS.items()},
    }
    (copy / "mutant.yaml").write_text(yaml.safe_dump(experiment), encoding="utf-8")
    for arguments in (["sweep", "mutant.yaml", "--retries", "0"], ["compare", "runs/mutant"]):
        done = subprocess.run(
            [sys.executable, "-m", "sinkpretrain", *arguments],
            cwd=copy,
            env=_environment(copy),
            capture_output=True,
            text=True,
            timeout=LIMIT,
        )
        if done.returncode:
            ends = [json.loads(path.read_text()) for path in sorted(copy.glob("runs/mutant/*/status.json"))]
            errors = [end["error"] for end in ends if "error" in end]
            said = [line.removeprefix("sinkpretrain: ") for line in done.stderr.splitlines()]
            return f"{arguments[0]}: {(errors or said)[-1][:SHOWN]}"
    return ""


def _by_tests(copy: Path, tests: str) -> str:
    """The first test that fails."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests.split()]
    if tests == "tests":
        command += ["--numprocesses", "2"]
    done = subprocess.run(command, cwd=copy, env=_environment(copy), capture_output=True, text=True, timeout=LIMIT)
    found = FAILED.search(done.stdout)
    return found[1] if found and done.returncode == 1 else ""


def _environment(copy: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1", "WANDB_MODE": "offline"}


def _store(folder: Path) -> Path:
    """A token store of real prose, made by the code as it is."""
    sys.path.insert(0, str(ROOT / "tests" / "reliability"))
    from matrix.workshop import Workshop

    return Workshop(folder / "workshop").store.root


def _table(caught: dict[Mutant, str]) -> str:
    """A Markdown table."""
    rows = [f"| {mutant.what} | {by or '**nothing**'} |" for mutant, by in caught.items()]
    alive = sum(not by for by in caught.values())
    return "\n".join(
        ["| broken on purpose | caught by |", "|---|---|", *rows, "", f"{len(caught)} mutants, {alive} live"]
    )


if __name__ == "__main__":
    sys.exit(main())
