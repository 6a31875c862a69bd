"""Text that is none, or such as nobody foresaw."""

import os
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import util
from pathlib import Path
from typing import Any

import yaml

from matrix.fault import Fault, Trial
from matrix.odd_texts import ODD, PROSE, Odd
from matrix.workshop import Workshop
from sinkpretrain.data.shards import SplitWriter
from sinkpretrain.data.store import TokenStore
from sinkpretrain.errors import DataError

# Peak memory over that of a small corpus: a batch that is encoded, the words of BPE, copies of one document.
ROOM = 256_000_000  # bytes
COPIES = 12  # of the file
SECONDS = 60.0  # of the processors, which a busy machine does not change; one that hangs is given up by the workshop


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a preparation ended."""

    code: int
    said: str
    memory: int  # bytes, at the peak, beyond what the process began with
    seconds: float  # of the processors


class BadText(Fault):
    """Each is prepared beside good text, by a process of its own whose memory is measured."""

    place = 13
    name = "bad_text"
    how = (
        "empty, binary, cut, deeply nested, endless, unreadable, changing; 10 MB without a space; lines of 30 and 50 MB"
    )
    must_hold = (
        f"prepared whole, or refused with the file's name; memory within {ROOM // 10**6} MB + {COPIES} x the file"
    )
    quick = 12
    full = len(ODD)

    def __init__(self) -> None:
        self._most = 0  # bytes

    def trials(self, workshop: Workshop, count: int) -> Iterator[Trial]:
        """The list in its order, which begins with the quick ones."""
        folder = workshop.new_folder("texts")
        plain = _prepared(workshop, folder, {"name": "files", "path": str(workshop.store.root.parent / "topics.jsonl")})
        assert plain.code == 0, plain.said
        for odd in ODD[:count]:
            folder = workshop.new_folder("texts")
            odd.write(folder / odd.name)
            ended = _prepared(
                workshop, folder, *_sources(workshop, odd), changing=folder / odd.name if odd.changes else None
            )
            more = max(0, ended.memory - plain.memory)
            self._most = max(self._most, more)
            happened = _difference(odd, folder, ended) or _excess(folder / odd.name, more, ended.seconds)
            shutil.rmtree(folder)
            yield Trial(what=odd.what, held=not happened, happened=happened, seconds=ended.seconds)

    def measured(self, trials: Sequence[Trial]) -> str:
        """The slowest and the largest."""
        return f"{super().measured(trials)}, {self._most / 1e6:,.0f} MB more than plain text at most"


def _sources(workshop: Workshop, odd: Odd) -> list[dict[str, Any]]:
    own = {"name": "files", "path": odd.pattern or odd.name}
    good = {"name": "files", "path": str(workshop.store.root.parent / "topics.jsonl")}
    return [own] if odd.alone else [own, good]


def _prepared(workshop: Workshop, folder: Path, *sources: dict[str, Any], changing: Path | None = None) -> Ended:
    """Prepare sources into `folder/store`; the file `changing` is changed after its first document."""
    recipe, log, used = folder / "recipe.yaml", folder / "log", folder / "used"
    content = {
        "sources": list(sources),
        "tokenizer": {"name": "train", "vocab_size": 512, "megabytes": 12},
        "validation_fraction": 0.1,
    }
    recipe.write_text(yaml.safe_dump(content))
    arguments = ["prepare", recipe, "--out", folder / "store"]
    code = workshop.finish(*arguments, log=log, before=_watch, given=(used, changing))
    memory, seconds = used.read_text().split() if used.exists() else (0, 0)
    return Ended(code=code, said=log.read_text(errors="replace"), memory=int(memory), seconds=float(seconds))


def _watch(used: Path, changing: Path | None) -> None:
    """At the end of this process, write down by how many bytes its memory grew at most, and its seconds."""
    at_first = _kibibytes("VmRSS")

    def at_the_end() -> None:
        seconds = os.times().user + os.times().system
        used.write_text(f"{(_kibibytes('VmHWM') - at_first) * 1024} {seconds}")

    util.Finalize(None, at_the_end, exitpriority=1)
    if changing is not None:
        append = SplitWriter.append

        def append_and_change(self: SplitWriter, *arguments: Any) -> None:
            append(self, *arguments)
            changing.write_bytes(changing.read_bytes().replace(b"the", b"eht", 1))

        SplitWriter.append = append_and_change  # type: ignore[method-assign]


def _kibibytes(name: str) -> int:
    """A number of this process's memory; VmHWM begins anew in a forked process, which getrusage's peak does not."""
    return int(Path("/proc/self/status").read_text().split(f"{name}:")[1].split()[0])


def _difference(odd: Odd, folder: Path, ended: Ended) -> str:
    """How the end differs from the one that is wanted; empty where it does not."""
    last = ended.said.strip().rsplit("\n", 1)[-1]
    if "Traceback" in ended.said:
        return f"a traceback: {last}"
    if odd.says is not None:
        named = str(folder / odd.name) in last or odd.pattern in last or (odd.alone and str(folder) in last)
        sound = ended.code == DataError.exit_code and re.search(odd.says, last) and named
        return "" if sound else f"ended with {ended.code}: {last[:300]}"
    if ended.code != 0:
        return f"ended with {ended.code}: {last[:300]}"
    store = TokenStore.open(folder / "store")
    store.verify()
    documents = sum(split["documents"] for split in store.manifest["splits"].values())
    if documents != odd.documents + len(PROSE):
        return f"{documents} documents were prepared instead of {odd.documents + len(PROSE)}"
    return "" if store.manifest["token_bytes_exact"] else "the tokens do not make up the text"


def _excess(path: Path, memory: int, seconds: float) -> str:
    """Which bound was broken."""
    most = ROOM + COPIES * (path.stat().st_size if path.is_file() else 0)
    if memory > most:
        return f"took {memory / 1e6:,.0f} MB more than plain text, {most / 1e6:,.0f} at most are allowed"
    return f"took {seconds:.0f} s" if seconds > SECONDS else ""
