"""A task file of ours as lm-evaluation-harness runs it, with solved examples that depend on the item alone."""

import ast
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from random import Random
from typing import Any

from datasets import Dataset, DatasetDict
from lm_eval.api.samplers import ContextSampler
from lm_eval.api.task import ConfigurableTask
from lm_eval.utils import env

from sinkpretrain.errors import DataError

Doc = dict[str, Any]
Rows = Mapping[str, Sequence[Doc]]  # by split


def normalised(text: str) -> str:
    """The text without differences of case and white space."""
    return " ".join(text.split()).lower()


class Template:
    """A template of a task file, compiled once; lm-evaluation-harness would compile it anew for every item."""

    def __init__(self, source: str, value: Callable[[str], Any] = str) -> None:
        self.source, self._value = source, value

    def __str__(self) -> str:
        return self.source

    def __call__(self, doc: Doc) -> Any:
        """What it gives for an item."""
        return self._value(_compiled(self.source).render(**doc))


_compiled = cache(env.from_string)


def _index_or_text(rendered: str) -> int | str:
    return int(rendered) if rendered.isdigit() else rendered


VALUES: dict[str, Callable[[str], Any]] = {
    "doc_to_text": str,
    "doc_to_choice": ast.literal_eval,
    "doc_to_target": _index_or_text,
}


def _with_templates(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration with compiled templates where a string is one, and not the name of a field."""
    given = {key: config[key] for key in VALUES if "{{" in str(config.get(key))}
    return config | {key: Template(source, VALUES[key]) for key, source in given.items()}


class ItemSampler(ContextSampler):  # type: ignore[misc]
    """Draws an item's solved examples by the seed and the item's own text, never the item itself.

    So an item's examples are the same whatever was asked before it, how many items are asked, and in which order.
    `within` names the field that examples share with the item.
    """

    item: Doc
    text: Callable[[Doc], str]
    within: str | None = None
    _seed: int | None = None
    _places: dict[str | None, list[int]] | None = None

    def set_rnd(self, rnd: int | None) -> "ItemSampler":
        """Take the seed."""
        self._seed = rnd
        return self

    def sample(self, n: int, eval_doc: Doc | None = None, df: Sequence[Doc] | None = None, **_: Any) -> list[Doc]:
        """`n` solved examples for `item`.

        Raises:
            DataError: there are fewer.
        """
        own = normalised(self.text(self.item))
        random = Random(f"{self._seed} {own}")
        places = self._places_like(self.item)
        seen: set[int] = set()
        chosen: list[Doc] = []
        while len(chosen) < n:
            if len(seen) == len(places):
                shared = f" with {self.within} {self._key(self.item)!r}" if self.within else ""
                raise DataError(f"solved examples: {n} are asked for, the calibration split has {len(chosen)}{shared}")
            number = random.randrange(len(places))
            doc = self.df[places[number]]
            if number not in seen and normalised(self.text(doc)) != own:
                chosen.append(doc)
            seen.add(number)
        return chosen

    def _places_like(self, item: Doc) -> list[int]:
        if self._places is None:
            self._places = {}
            for number, doc in enumerate(self.df):
                self._places.setdefault(self._key(doc), []).append(number)
        return self._places.get(self._key(item), [])

    def _key(self, doc: Doc) -> str | None:
        return normalised(str(doc[self.within]).replace("_", " ")) if self.within else None


class OwnTask(ConfigurableTask):  # type: ignore[misc]
    """A task file of ours; `rows` are its items by split where they are made here, not loaded."""

    def __init__(self, config: dict[str, Any], rows: Rows | None = None) -> None:
        self._rows = rows
        super().__init__(config={**_with_templates(config), "fewshot_config": {"sampler": ItemSampler}})
        self.sampler.text = self.doc_to_text
        self.sampler.within = (self.config.metadata or {}).get("fewshot_within")

    def download(self, dataset_kwargs: dict[str, Any] | None = None, **_: Any) -> None:
        """Load the dataset, or take the rows."""
        if self._rows is None:
            super().download(dataset_kwargs)
        else:
            self.dataset = DatasetDict({split: Dataset.from_list(list(rows)) for split, rows in self._rows.items()})

    @staticmethod
    def resolve_field(doc: Doc, field: str | None = None) -> str | None:
        """The instruction, which may name fields of the item."""
        return field and str(Template(field)(doc))

    def fewshot_context(self, doc: Doc, num_fewshot: int, **options: Any) -> Any:
        """The prompt: the instruction, `num_fewshot` solved examples, and the item."""
        self.sampler.item = doc
        return super().fewshot_context(doc, num_fewshot, **options)
