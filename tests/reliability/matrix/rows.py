"""The rows there are, found like the project's registries, and what injecting one of them gave."""

import importlib
import inspect
import pkgutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matrix.fault import Fault, Trial
from matrix.workshop import Workshop

FAULTS = Path(__file__).parent / "faults"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of one row."""

    fault: Fault
    asked: int  # trials
    trials: Sequence[Trial]
    seconds: float

    @property
    def held(self) -> int:
        """Trials in which everything held."""
        return sum(trial.held for trial in self.trials)

    @property
    def all_held(self) -> bool:
        """Whether as many trials were made as were asked for, and each held."""
        return self.held == len(self.trials) == self.asked

    @property
    def failures(self) -> list[str]:
        """What did not hold, a sentence each."""
        name = self.fault.name
        listed = [f"{name}: {trial.what}: {trial.happened}" for trial in self.trials if not trial.held]
        if len(self.trials) != self.asked:
            listed.append(f"{name}: made {len(self.trials)} trials instead of {self.asked}")
        return listed


def faults(folder: Path = FAULTS) -> list[Fault]:
    """One fault for each file of the folder, in the order of the table."""
    modules = (f"matrix.{folder.name}.{module.name}" for module in pkgutil.iter_modules([str(folder)]))
    return sorted((_only_fault(name) for name in modules), key=lambda fault: fault.place)


def inject(fault: Fault, workshop: Workshop, count: int) -> Outcome:
    """So many trials of a fault; an exception among them is a trial that did not hold, and ends the row."""
    began = time.monotonic()
    trials: list[Trial] = []
    try:
        for trial in fault.trials(workshop, count):
            trials.append(trial)  # one by one: those before an exception count
    except Exception as error:
        happened = f"the trial itself failed: {type(error).__name__}: {error}"
        trials.append(Trial(what=f"trial {len(trials) + 1}", held=False, happened=happened))
    return Outcome(fault=fault, asked=count, trials=trials, seconds=time.monotonic() - began)


def _only_fault(name: str) -> Fault:
    module = importlib.import_module(name)
    found = [
        member
        for title, member in inspect.getmembers(module, inspect.isclass)
        if issubclass(member, Fault) and member.__module__ == name and not title.startswith("_")
    ]
    assert len(found) == 1, f"{name} must define exactly one public subclass of Fault, has {found}"
    return found[0]()
