"""Files that hold odd text, no text, or are no files; with what becomes of each."""

import gzip
import json
import os
import pydoc_data.topics
import random
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

PROSE = list(pydoc_data.topics.topics.values())
LINES = [json.dumps({"text": text}) for text in PROSE]
DEEP = 100_000  # brackets in one another


@dataclass(frozen=True, kw_only=True)
class Odd:
    """A file of this name, as `write` makes it.

    `says` is a pattern of the refusal; None where it is prepared, with `documents` documents that are not empty.
    """

    what: str
    name: str
    write: Callable[[Path], object]
    says: str | None = None
    documents: int = 1
    alone: bool = False  # no other text beside it
    pattern: str = ""  # of the recipe's path, where that is not the file
    changes: bool = False  # while it is read


def _text(what: str, content: str | bytes | Callable[[], str], says: str | None = None, **others: bool) -> Odd:
    """A .txt."""

    def write(path: Path) -> None:
        made = content() if callable(content) else content
        path.write_bytes(made.encode() if isinstance(made, str) else made)

    return Odd(what=what, name="a.txt", write=write, says=says, **others)


def _lines(what: str, odd: bytes, says: str | None, **others: int) -> Odd:
    """A .jsonl of which the 31st line is odd."""
    lines = [line.encode() for line in LINES]
    content = b"\n".join([*lines[:30], odd, *lines[30:]]) + b"\n"
    return Odd(what=what, name="a.jsonl", write=lambda path: path.write_bytes(content), says=says, **others)


def _whole(what: str, name: str, content: bytes, says: str | None, **others: bool) -> Odd:
    """A file of this content."""
    return Odd(what=what, name=name, write=lambda path: path.write_bytes(content), says=says, **others)


def _link(what: str, name: str, to: str, says: str) -> Odd:
    """A link to something."""
    return Odd(what=what, name=name, write=lambda path: path.symlink_to(to), says=says)


def _cut_parquet(path: Path) -> None:
    pq.write_table(pa.table({"text": PROSE}), path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _flipped_parquet(path: Path) -> None:
    pq.write_table(pa.table({"text": PROSE}), path, row_group_size=10)
    content = bytearray(path.read_bytes())
    middle = len(content) // 3
    content[middle : middle + 2000] = bytes(byte ^ 0x55 for byte in content[middle : middle + 2000])
    path.write_bytes(content)


def _circle_of_folders(path: Path) -> None:
    (path / "inner").mkdir(parents=True)
    for name in ("one", "other"):
        (path / "inner" / name).symlink_to("../..")


def _random_letters(count: int) -> str:
    return "".join(random.Random(0).choices("abcdefghijklmnopqrstuvwxyz", k=count))


def _long_prose(characters: int) -> str:
    whole = "\n".join(PROSE)
    return (whole * (characters // len(whole) + 1))[:characters]


NO_FILE = "is no file with text"
NO_UTF8 = "is not valid UTF-8"
NO_JSON = "cannot be read as JSON"
NOTHING = "hold no text at all"

NOISE = random.Random(0).randbytes(100_000)
CUT = "a.parquet: cannot be read"

QUICK = [
    _lines(f"JSON nested {DEEP} deep", b'{"text": ' + b"[" * DEEP, f"line 31 {NO_JSON}"),
    Odd(what="a pipe", name="a.txt", write=os.mkfifo, says=NO_FILE),
    _link("/dev/zero", "a.jsonl", "/dev/zero", NO_FILE),
    Odd(
        what="links in a circle below **",
        name="tree",
        write=_circle_of_folders,
        says="is a link back to",
        pattern="tree/**/*.txt",
    ),
    _lines("changed while it is read", b"", "text changed while it was read", changes=True),
    _text("empty .txt", b"", NOTHING, alone=True),
    _lines("invalid UTF-8 in the middle of .jsonl", b'{"text": "a\xff b"}', f"line 31 {NO_UTF8}"),
    _lines("a missing field", b'{"body": "x"}', "line 31 has no text_field 'text'"),
    _lines("a lone surrogate", rb'{"text": "a \ud800 b"}', "document 31 .*cannot be written as UTF-8"),
    _text("random bytes as .txt", NOISE, NO_UTF8),
    _lines("a NUL character", rb'{"text": "a \u0000 b"}', None, documents=len(LINES) + 1),
    _text("a megabyte of letters without a space", lambda: _random_letters(10**6)),
]
REFUSED = [
    _whole("empty .jsonl", "a.jsonl", b"", NOTHING, alone=True),
    Odd(what="an empty folder", name="folder", write=Path.mkdir, says="no file matches", pattern="folder/*.txt"),
    _text("only white space in .txt", " \n\t \u2003\n" * 9999, NOTHING, alone=True),
    _whole("only white space in .jsonl", "a.jsonl", b"\n \n\n", NOTHING, alone=True),
    _whole("random bytes as .jsonl", "a.jsonl", NOISE, NO_UTF8),
    _whole("random bytes as .parquet", "a.parquet", NOISE, CUT),
    _text("gzip as .txt", gzip.compress(LINES[0].encode()), NO_UTF8),
    _whole("gzip as .jsonl", "a.jsonl", gzip.compress(LINES[0].encode()), NO_UTF8),
    _link("a program as .txt", "a.txt", sys.executable, NO_UTF8),
    _link("a program as .jsonl", "a.jsonl", sys.executable, f"({NO_UTF8}|{NO_JSON})"),
    _link("a program as .parquet", "a.parquet", sys.executable, CUT),
    _text("UTF-16", "text".encode("utf-16"), NO_UTF8),
    _text("invalid UTF-8 in the middle of .txt", PROSE[0].encode() + b"\xc3\x28" + PROSE[1].encode(), NO_UTF8),
    _lines("a byte of NUL in .jsonl", b'{"text": "a \0 b"}', f"line 31 {NO_JSON}"),
    _lines("a line that is cut", b'{"text": "cut', f"line 31 {NO_JSON}"),
    _whole("a last line that is cut", "a.jsonl", "\n".join(LINES)[:-9].encode(), NO_JSON),
    _lines("a number instead of text", b'{"text": 3}', "line 31 has 3 in text_field"),
    _lines("a list instead of an object", b"[1, 2]", "line 31 holds a list"),
    _lines("an object instead of text", b'{"text": {"text": "x"}}', "line 31 has {'text': 'x'} in"),
    _lines(f"objects nested {DEEP} deep", b'{"a":' * DEEP + b"1" + b"}" * DEEP, f"line 31 {NO_JSON}"),
    _lines(f"a number of {DEEP} digits", b'{"text": "x", "n": ' + b"9" * DEEP + b"}", f"line 31 {NO_JSON}"),
    Odd(what="half a parquet file", name="a.parquet", write=_cut_parquet, says=CUT),
    Odd(what="a flipped parquet file", name="a.parquet", write=_flipped_parquet, says=CUT),
    Odd(what="a folder of that name", name="a.txt", write=Path.mkdir, says=NO_FILE),
    Odd(what="a pipe as .jsonl", name="a.jsonl", write=os.mkfifo, says=NO_FILE),
    Odd(what="/dev/zero itself", name="a.txt", write=Path.touch, says=NO_FILE, pattern="/dev/zero"),
    _link("a link to itself", "a.txt", "a.txt", NO_FILE),
    _link("a file that fails to be read", "a.txt", "/proc/self/mem", r"a.txt: cannot be read \(.*Input/output error"),
]
PREPARED = [
    _text("bytes of NUL in .txt", "a\0b " * 9999),
    _text("marks on marks", lambda: ("e" + "\u0301" * 50 + " ") * 20_000),
    _text("five million marks on one letter", lambda: "e" + "\u0301" * 5_000_000),
    _text("right to left", lambda: "\u202e\u05d0\u05d1 \u0627\u0644\u0633 " * 50_000),
    _text("emoji of many parts", lambda: "👩‍👩‍👧‍👦🏳️‍🌈 " * 30_000),
    _text("characters that are none", lambda: "\ufffe\uffff\U0010ffff\ufdd0 " * 20_000),
    _text("10 MB without a space", lambda: _random_letters(10**7)),
    _text("10 MB of one letter", lambda: "a" * 10**7),
    _text("10 MB of spaces", lambda: "x" + " " * 10**7 + "y"),
    _text("10 MB of line feeds", lambda: "x" + "\n" * 10**7 + "y"),
    _text("a line of 50 MB in .txt", lambda: _long_prose(50 * 10**6).replace("\n", " ")),
    Odd(
        what="a line of 30 MB in .jsonl",
        name="a.jsonl",
        write=lambda path: path.write_text(json.dumps({"text": _long_prose(30 * 10**6)})),
    ),
]
ODD = [*QUICK, *REFUSED, *PREPARED]
if os.geteuid() != 0:  # nothing is forbidden to root
    ODD.append(
        Odd(
            what="a file without permission",
            name="a.txt",
            write=lambda path: (path.write_text("x"), path.chmod(0)),
            says="Permission denied",
        )
    )
