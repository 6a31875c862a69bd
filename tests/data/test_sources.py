import json
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sinkpretrain.data.reader import Reader
from sinkpretrain.data.sources import FilesSource, HubSource
from sinkpretrain.errors import ConfigError, DataError


def write_parquet(folder, texts, files=3):
    """Several files, several row groups in each."""
    each = -(-len(texts) // files)
    for number in range(files):
        table = pa.table({"text": texts[number * each : (number + 1) * each]})
        pq.write_table(table, folder / f"train-{number:05d}-of-{files:05d}.parquet", row_group_size=4)


@pytest.fixture(params=["jsonl", "parquet", "txt", "hub", "two"])
def sources(request, tmp_path, texts, write_jsonl):
    """The first 25 texts through each kind of source; `two` has two sources of several parts."""
    texts = texts[:25]
    if request.param == "jsonl":
        write_jsonl(tmp_path / "a.jsonl", texts[:11])
        (tmp_path / "b.jsonl").touch()
        write_jsonl(tmp_path / "c[1].jsonl", texts[11:])
        return [FilesSource(path="*.jsonl")]
    if request.param == "txt":
        for number, text in enumerate(texts):
            (tmp_path / f"{number:02d}.txt").write_bytes(text.encode())
        return [FilesSource(path="*.txt")]
    write_parquet(tmp_path, texts if request.param != "two" else texts[:20])
    if request.param == "parquet":
        return [FilesSource(path="train-*.parquet")]
    # The call that fetches OpenWebText reads a local folder of parquet files just as well.
    hub = HubSource(path=str(tmp_path), revision="0" * 40)
    if request.param == "hub":
        return [hub]
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "rest.txt").write_text("|".join(texts[20:]))
    return [hub, FilesSource(path="more/*.txt", split_on="|")]


def test_every_kind_of_source_gives_the_documents_in_order(sources, tmp_path, texts):
    reader = Reader(sources, tmp_path)
    assert list(reader) == texts[:25]
    assert sum(reader.read) == 25


def test_reading_goes_on_from_any_document(sources, tmp_path, texts):
    for stopped in (1, 7, 9, 11, 18, 20, 21, 25):
        first = Reader(sources, tmp_path)
        documents = iter(first)
        for _ in range(stopped):
            next(documents)
        second = Reader(sources, tmp_path, json.loads(json.dumps(first.state())))
        assert list(second) == texts[stopped:25]
        assert sum(second.read) == 25


def test_the_limit_takes_the_first_documents(tmp_path, texts, write_jsonl):
    write_jsonl(tmp_path / "a.jsonl", texts[:10])
    source = FilesSource(path="a.jsonl", limit=4)
    reader = Reader([source, FilesSource(path="a.jsonl", limit=2)], tmp_path)
    assert list(reader) == texts[:4] + texts[:2]
    resumed = Reader([source], tmp_path, {"source": 0, "part": 0, "position": None, "read": [3]})
    assert len(list(resumed)) == 1


@pytest.mark.parametrize("count", [9, 11])
def test_another_number_of_documents_is_refused(tmp_path, texts, write_jsonl, count):
    write_jsonl(tmp_path / "a.jsonl", texts[:10])
    with pytest.raises(DataError, match=rf"sources\[0\].documents: {count} are wanted, the source has 10"):
        list(Reader([FilesSource(path="a.jsonl", documents=count)], tmp_path))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"caf\xe9", "a.txt: is not valid UTF-8"),
        ("a.txt", bytes(range(256)), "a.txt: is not valid UTF-8"),
        ("a.txt", "text".encode("utf-16"), "a.txt: is not valid UTF-8"),
        ("a.jsonl", b'{"text": "fine"}\n{"text": "caf\xe9"}\n', "a.jsonl: line 2 is not valid UTF-8"),
        ("a.jsonl", bytes(range(256)), "a.jsonl: line 1 cannot be read as JSON"),
        ("a.jsonl", b'{"text": "fine"}\n\n{"text": "cut sho', "a.jsonl: line 3 cannot be read as JSON"),
        ("a.jsonl", b'{"text": ' + b"[" * 100_000, "a.jsonl: line 1 cannot be read as JSON .maximum recursion"),
        ("a.jsonl", b'{"text": "fine"}\n["x"]\n', "a.jsonl: line 2 holds a list; an object with text under 'text'"),
        ("a.jsonl", b'{"text": "x"}\n{"body": "x"}\n', "line 2 has no text_field 'text', .* its fields are body"),
        ("a.jsonl", b'{"text": 3}\n', "a.jsonl: line 1 has 3 in text_field 'text', which should hold text"),
        ("a.parquet", b"PAR1 but not really", "a.parquet: cannot be read"),
        ("a.docx", b"PK", "a.docx: is of a kind that cannot be read; allowed: .jsonl, .parquet, .txt"),
    ],
)
def test_what_is_not_text_is_refused_with_the_name_of_the_file(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        list(Reader([FilesSource(path=name)], tmp_path))


def test_a_row_of_parquet_without_text_is_refused(tmp_path):
    pq.write_table(pa.table({"body": ["x"]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match="a.parquet: a row has no text_field 'text', .* its fields are body"):
        list(Reader([FilesSource(path="a.parquet")], tmp_path))
    pq.write_table(pa.table({"text": [[1, 2]]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"a.parquet: a row has \[1, 2\] in text_field 'text'"):
        list(Reader([FilesSource(path="a.parquet")], tmp_path))


def test_a_line_that_is_too_long_is_not_read_whole(tmp_path, monkeypatch):
    monkeypatch.setattr("sinkpretrain.data.json_lines.LONGEST", 40)
    (tmp_path / "a.jsonl").write_text('{"text": "x"}\n{"text": "' + "y" * 100 + '"}\n')
    with pytest.raises(DataError, match="a.jsonl: line 2 is longer than 40 bytes"):
        list(Reader([FilesSource(path="a.jsonl")], tmp_path))


def test_text_that_looks_like_dates_or_numbers_stays_text(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "2020-01-01 00:00:00"}\n{"text": "3"}\n')
    assert list(Reader([FilesSource(path="a.jsonl")], tmp_path)) == ["2020-01-01 00:00:00", "3"]


def test_what_is_no_file_is_refused_without_being_opened(tmp_path):
    """A pipe would be waited for without end, a device read without end."""
    (tmp_path / "folder.txt").mkdir()
    os.mkfifo(tmp_path / "pipe.txt")
    (tmp_path / "zero.txt").symlink_to("/dev/zero")
    (tmp_path / "circle.txt").symlink_to("circle.txt")
    for name in ("folder", "pipe", "zero", "circle"):
        with pytest.raises(DataError, match=f"{name}.txt: is no file with text"):
            list(Reader([FilesSource(path=f"{name}.txt")], tmp_path))


def test_links_that_lead_round_in_a_circle_are_refused(tmp_path):
    (tmp_path / "deep" / "deeper").mkdir(parents=True)
    (tmp_path / "deep" / "a.txt").write_text("x")
    assert list(Reader([FilesSource(path="**/*.txt")], tmp_path)) == ["x"]
    for name in ("one", "other"):  # two of them make a tree of 2^40 folders
        (tmp_path / "deep" / "deeper" / name).symlink_to("../..")
    with pytest.raises(DataError, match=r"deeper/one: is a link back to .*, whose text would be read twice"):
        list(Reader([FilesSource(path="**/*.txt")], tmp_path))
    with pytest.raises(DataError, match="deeper/one: is a link back to"):
        FilesSource(path="**/*.txt").provenance(tmp_path)
    assert list(Reader([FilesSource(path="deep/*.txt")], tmp_path)) == ["x"]


def test_a_file_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("x")
    (tmp_path / "a.jsonl").write_text("{}\n")

    def deny(self, *args, **keys):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.open", deny)
    for name in ("a.txt", "a.jsonl"):
        source = FilesSource(path=name)
        with pytest.raises(DataError, match=rf"{name}: cannot be read \(Permission denied\)"):
            source.provenance(tmp_path)
        with pytest.raises(DataError, match=rf"{name}: cannot be read \(Permission denied\)"):
            list(Reader([source], tmp_path))


def test_no_matching_file_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"no file matches .*nothing-\*.txt"):
        list(Reader([FilesSource(path="nothing-*.txt")], tmp_path))


def test_cutting_a_kind_that_has_documents_is_refused(tmp_path, texts, write_jsonl):
    write_jsonl(tmp_path / "a.jsonl", texts[:2])
    with pytest.raises(ConfigError, match="split_on: has no effect on a.jsonl"):
        list(Reader([FilesSource(path="a.jsonl", split_on="\n")], tmp_path))


def test_a_null_is_an_empty_document_and_a_byte_order_mark_is_not_text(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": null}\n{"text": "x"}\n')
    (tmp_path / "b.txt").write_bytes(b"\xef\xbb\xbfmarked\r\n")
    assert list(Reader([FilesSource(path="*.*")], tmp_path)) == ["", "x", "marked\r\n"]


def test_a_hub_that_cannot_be_reached_is_said_in_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    source = HubSource(path="someone/a-dataset-that-is-not-here", revision="0" * 40)
    with pytest.raises(DataError, match=r"someone/a-dataset-that-is-not-here \(train\): cannot be read"):
        list(Reader([source], tmp_path))
