"""A loss or a gradient that is NaN or infinite, and a loss that leaps, in a run alone and in one of two ranks."""

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from matrix import planting
from matrix.fault import Fault, Trial
from matrix.workshop import CONTEXT, Workshop
from sinkpretrain import checkpoints
from sinkpretrain.runs import Run

EARLY, LATE = 5, 36  # steps counted from 0: a leap is one only where there are steps to compare with
SCALE = 30.0  # of logits, for a leap of tens of nats
WINDOWS_SHOWN = 8
PATIENCE = 3  # steps left out in a row, where all of them are poisoned
KINDS = ("nan loss", "inf gradient", "spike", "inf loss", "nan gradient")


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is poisoned where, and what the user chose to do about it."""

    kind: str
    chosen: str  # stop, skip
    rank: int | None = None  # None: the run is alone
    goes_on: bool = False  # all later steps are poisoned too

    def __str__(self) -> str:
        who = "alone" if self.rank is None else f"in rank {self.rank} of 2"
        until = " and all later ones" if self.goes_on else ""
        return f"{self.kind} {who}, at step {self.step + 1}{until}, user chose to {self.chosen}"

    @property
    def step(self) -> int:
        """Which step it befalls, counted from 0."""
        return LATE if self.kind == "spike" else EARLY

    @property
    def ends_well(self) -> bool:
        """Whether the run is to go on to its last step."""
        return self.chosen == "skip" and not self.goes_on

    @property
    def overrides(self) -> dict[str, Any]:
        """Of the configuration: every step is saved and kept."""
        steps = self.step + 4
        return {
            "tokens": steps * 8 * CONTEXT,
            "micro_batch_size": 4,
            "validation": {"every": steps},
            "probes": {"every": steps, "log_spaced": False, "metrics": ["sink_rate"]},
            "checkpoints": {"every": 1, "keep": steps},
            "guard": {"nonfinite": self.chosen, "spike": self.chosen, "patience": PATIENCE},
        }


CASES = (
    Case(kind="nan loss", chosen="stop"),
    Case(kind="nan loss", chosen="skip"),
    Case(kind="spike", chosen="stop"),
    *(Case(kind=kind, chosen="skip") for kind in KINDS[1:]),
    *(Case(kind=kind, chosen="stop") for kind in KINDS[1:] if kind != "spike"),
    Case(kind="nan loss", chosen="skip", goes_on=True),
    *(Case(kind=kind, chosen="stop", rank=rank) for rank, kind in enumerate(("inf loss", "nan loss"))),
    *(Case(kind=kind, chosen="stop", rank=rank) for rank, kind in enumerate(("nan gradient", "inf gradient"))),
    Case(kind="nan gradient", chosen="skip", rank=0),
    Case(kind="nan loss", chosen="skip", rank=1),
    *(Case(kind="spike", chosen=chosen, rank=rank) for rank, chosen in enumerate(("skip", "stop"))),
)


class Poison(Fault):
    """A stopped run is then resumed without poison, and must end as if nothing had been."""

    place = 7
    name = "poison"
    how = "NaN or infinity in one rank's loss or gradient, a spike of the loss; alone and in one of two ranks"
    must_hold = (
        "all ranks stop before the update (exit 4) with the windows named, or leave it out where the user chose so; "
        "0 poisoned checkpoints"
    )
    quick = 3
    full = len(CASES)

    def trials(self, workshop: Workshop, count: int) -> Iterator[Trial]:
        """In order, from the start again when all were made."""
        for case in islice(cycle(CASES), count):
            yield _trial(workshop, case)


def poison(evidence: str, kind: str, step: int, goes_on: bool) -> None:
    """Plant: the first pass of a step, and of later ones if it `goes_on`, is poisoned in this process."""
    from sinkpretrain.model.llama import Llama
    from sinkpretrain.training.module import PretrainModule

    train, forward = PretrainModule.training_step, Llama.forward
    poisoned: list[int] = []  # steps
    is_due = False

    @functools.wraps(train)
    def training_step(module: Any, *arguments: Any) -> Tensor:
        nonlocal is_due
        is_due = module.step not in poisoned and (module.step >= step if goes_on else module.step == step)
        if is_due:
            poisoned.append(module.step)
            planting.note(evidence, f"{kind} at step {module.step}")
        loss = train(module, *arguments)
        is_due = False
        return loss

    @functools.wraps(forward)
    def poisoned_forward(model: Any, *arguments: Any) -> Tensor:
        logits_BTV = forward(model, *arguments)
        return _poisoned(logits_BTV, kind) if is_due else logits_BTV

    PretrainModule.training_step, Llama.forward = training_step, poisoned_forward  # type: ignore[method-assign]


def _poisoned(logits_BTV: Tensor, kind: str) -> Tensor:
    """Logits whose loss, or whose gradient alone, is as the kind says."""
    if kind == "spike":
        return logits_BTV * SCALE
    value = float(kind.split()[0])
    if kind.endswith("gradient"):
        logits_BTV.register_hook(lambda gradient_BTV: gradient_BTV + value)
        return logits_BTV
    first_BTV = torch.zeros_like(logits_BTV)
    first_BTV[..., 0] = value  # an infinite logit of another token makes the loss of the right one infinite
    return logits_BTV + first_BTV


def in_rank(rank: int, *given: Any) -> None:
    """Plant it in one of the ranks that this process will start."""
    planting.elsewhere({str(rank): (poison, given)})


def _trial(workshop: Workshop, case: Case) -> Trial:
    run = workshop.new_run()
    log, evidence = run.root.parent / "log", run.root.parent / "evidence"
    command = ["train", "--config", workshop.config_file(case.overrides), "--out", run.root]
    given: tuple[Any, ...] = (str(evidence), case.kind, case.step, case.goes_on)
    before: Any = poison
    if case.rank is not None:
        command += ["--devices", 2]
        before, given = in_rank, (case.rank, *given)
    code = workshop.finish(*command, log=log, before=before, given=given)
    happened = [] if planting.noted(evidence) else ["nothing was injected"]
    happened += [*_poisoned_checkpoints(run)]
    if case.ends_well:
        happened += _unmet_by_going_on(case, code, run, log)
    else:
        happened += _unmet_by_stopping(workshop, case, code, run, log)
    return Trial(what=str(case), held=not happened, happened="; ".join(happened))


def _poisoned_checkpoints(run: Run) -> Iterator[str]:
    """The checkpoints that hold anything that is not finite, or are not whole."""
    for step in checkpoints.steps(run.checkpoints):
        saved = checkpoints.read(run.checkpoints, step)
        tensors = (leaf for leaf in tree_leaves([saved.model, saved.optimizer]) if isinstance(leaf, Tensor))
        if not all(tensor.isfinite().all() for tensor in tensors):
            yield f"the checkpoint of step {step} is poisoned"


def _unmet_by_stopping(workshop: Workshop, case: Case, code: int, run: Run, log: Path) -> Iterator[str]:
    """What does not hold of a run that was to stop, and of its end once it was resumed."""
    last = case.step + PATIENCE if case.goes_on else case.step  # updates or steps left out before it stopped
    said, status = log.read_text(), run.status()
    windows = _windows(workshop, case, last)
    shown = ", ".join(map(str, windows[:WINDOWS_SHOWN]))
    if code != 4 or "Traceback" in said or f"step {last + 1}: " not in said or f"its windows are {shown}" not in said:
        yield f"exit code {code}, windows {windows}, and it said: {said[-600:]}"
    if status.get("state") != "failed" or status.get("windows") != windows:
        yield f"status.json says {status.get('state')}, windows {status.get('windows')} instead of {windows}"
    if checkpoints.steps(run.checkpoints) != list(range(1, last + 1)) or run.metrics()[-1]["step"] != last:
        yield f"there are checkpoints of {checkpoints.steps(run.checkpoints)}, and a record to {run.metrics()[-1]}"
    if case.goes_on:
        return
    code = workshop.finish("train", "--resume", run.root, "--devices", 1, log=log)
    if code:
        yield f"it could not be resumed, exit code {code}: {log.read_text()[-600:]}"
    elif difference := workshop.difference(run, case.overrides):
        yield f"after resuming {difference}"


def _unmet_by_going_on(case: Case, code: int, run: Run, log: Path) -> Iterator[str]:
    """What does not hold of a run that was to leave one update out."""
    if code:
        yield f"exit code {code}, and it said: {log.read_text()[-600:]}"
        return
    skipped = {row["step"]: row["optim/skipped"] for row in run.metrics() if "optim/skipped" in row}
    if skipped.get(case.step + 1) != 1 or set(skipped.values()) != {1}:
        yield f"the record counts these steps as left out: {skipped}"
    before, after, later = (checkpoints.read(run.checkpoints, case.step + more) for more in range(3))
    if _values(before) != _values(after):
        yield "weights or AdamW's state changed by the poisoned step"
    if _values(after) == _values(later):
        yield "the next step changed nothing"


def _values(saved: checkpoints.Checkpoint) -> list[list[float]]:
    """All weights and all of AdamW's state, to compare."""
    kept = [saved.model, saved.optimizer["state"]]
    return [leaf.flatten().tolist() for leaf in tree_leaves(kept) if isinstance(leaf, Tensor)]


def _windows(workshop: Workshop, case: Case, step: int) -> list[int]:
    """Those that are to be named: of the pass whose loss is not finite, or all of the step."""
    from sinkpretrain.data.windows import Windows

    config = workshop.config(case.overrides)
    ids = Windows.of(workshop.store, "train", config).ids(step, config.global_batch_size)
    passes_PN = ids.reshape(2, -1)  # two micro-batches, or two ranks
    return [int(window) for window in (passes_PN[case.rank or 0] if case.kind.endswith("loss") else ids)]
