"""What was found out about a model after training: interventions, head search, evaluations in its run folder."""

from pathlib import Path
from typing import Any

from sinkpretrain.records import read_record


class Results:
    """The records of one run folder that its own training does not write."""

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)

    def intervention_path(self, name: str) -> Path:
        """Where the record of an intervention is."""
        return self.root / "interventions" / f"{name}.json"

    def interventions(self) -> list[str]:
        """Names of the interventions with a record, sorted."""
        return sorted(path.stem for path in self.root.glob("interventions/*.json"))

    def intervention(self, name: str) -> dict[str, Any]:
        """The record of an intervention: `about`, and `rows`, one for each condition and seed of text.

        Raises:
            DataError: no such record, or one that is not JSON.
        """
        return read_record(self.intervention_path(name), f"sinkpretrain intervene {self.root} --with {name}")

    @property
    def heads_path(self) -> Path:
        """What calibrating each head alone does to calibration items, and the heads that the rules choose."""
        return self.root / "act" / "heads.json"

    @property
    def act_maps_path(self) -> Path:
        """Mean attention maps of the calibrated heads, before and after."""
        return self.root / "act" / "maps.npz"

    def heads(self) -> dict[str, Any]:
        """The record of the head search.

        Raises:
            DataError: no such record, or one that is not JSON.
        """
        return read_record(self.heads_path, f"sinkpretrain calibrate {self.root} --tasks TASK ...")

    def evaluation_path(self, task_set: str) -> Path:
        """Where the record of an evaluation on a set of tasks is."""
        return self.root / "eval" / f"{task_set}.json"

    def evaluations(self) -> list[str]:
        """Names of the task sets with a record, sorted."""
        return sorted(path.stem for path in self.root.glob("eval/*.json"))

    def evaluation(self, task_set: str) -> dict[str, Any]:
        """The record of an evaluation: `about`, and `conditions` by name, each item by item.

        Raises:
            DataError: no such record, or one that is not JSON.
        """
        tasks = task_set.replace("+", " ")
        return read_record(self.evaluation_path(task_set), f"sinkpretrain eval {self.root} --tasks {tasks}")
