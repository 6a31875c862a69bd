"""Stands in for `train` where a test is about processes: `stand_in.py RUN PLAN...` does the next word of the plan.

A plan's words, one for each time the run is started: an exit code, `saves` (a checkpoint further, exit 75), `works`
(until it is asked to stop, then saves), `stubborn` (until it is killed). It leaves what it was given in `seen.jsonl`.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path


def main():
    run, plan = Path(sys.argv[1]), sys.argv[2:]
    starts = len(seen(run))
    gpus, threads = os.environ.get("CUDA_VISIBLE_DEVICES"), os.environ.get("OMP_NUM_THREADS")
    facts = {"gpus": gpus, "threads": threads, "cores": sorted(os.sched_getaffinity(0)), "pid": os.getpid()}
    began = time.monotonic()
    word = plan[min(starts, len(plan) - 1)]
    if word in ("works", "stubborn"):
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(75) if word == "works" else None)
    with (run / "seen.jsonl").open("a") as file:
        print(json.dumps(facts), file=file)
    while word in ("works", "stubborn"):
        time.sleep(0.01)
    time.sleep(0.15)
    with (run / "times.jsonl").open("a") as file:
        print(json.dumps([began, time.monotonic()]), file=file)
    if word == "saves":
        (run / "checkpoints" / f"step_{starts + 1:08d}").mkdir(parents=True)
        word = "75"
    if word == "4":
        status = {"state": "failed", "step": 3, "steps": 9, "error": "NonFiniteError: step 4"}
        (run / "status.json").write_text(json.dumps(status))
    print(f"sinkpretrain: the end was {word}", file=sys.stderr)
    sys.exit(int(word))


def seen(run):
    """What each process of a run was given."""
    path = run / "seen.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


if __name__ == "__main__":
    main()
