"""Published potentials by name: the table, where files are looked for, and what is refused."""

import dataclasses
import functools
import hashlib
import http.server
import re
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from mlip_jax import storage
from mlip_jax.config import UserError
from mlip_jax.interop import catalogue, weights
from mlip_jax.interop.catalogue import Entry
from tests.cli.springs import refused, run
from tests.interop import published

TINY = {"si.snapcoeff": "1 2\nSi 0.5 1\n-3.5\n0.02\n", "si.snapparam": "rcutfac 3.0\ntwojmax 0\n"}


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


ENTRY = Entry(
    format="snap",
    folder="snap/Si_tiny",
    files={name: digest(text) for name, text in TINY.items()},
    elements=1,
    theory="none",
    publisher="the author of this test",
    citation="A. Tester (2020)",
    licence="none",
    verified="against nothing",
)


@pytest.fixture(autouse=True)
def _table(monkeypatch, tmp_path):
    """A table with two names, an empty cache and no directories."""
    other = dataclasses.replace(ENTRY, folder="snap/other")
    monkeypatch.setattr(catalogue, "entries", lambda: {"tiny-1": ENTRY, "tiny-2": other})
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("MLIP_JAX_CACHE", "off")
    monkeypatch.delenv(catalogue.SEARCH_PATH, raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def files(monkeypatch, tmp_path) -> Path:
    """The folder of the first name below the second directory of the search path."""
    monkeypatch.setenv(catalogue.SEARCH_PATH, f"{tmp_path / 'none'}:{tmp_path / 'files'}")
    folder = tmp_path / "files" / ENTRY.folder
    folder.mkdir(parents=True)
    for name, text in TINY.items():
        (folder / name).write_text(text)
    return folder


def test_a_name_is_found_checked_and_imported(files):
    assert catalogue.find("tiny-1") == files
    potential = catalogue.load("tiny-1")
    assert potential.species == (14,)
    expected = weights.read("snap", sorted(files.iterdir()))
    assert potential.reference_energies == expected.reference_energies
    assert potential.card["published"]["name"] == "tiny-1"
    assert potential.card["published"]["citation"] == "A. Tester (2020)"


def test_what_exists_is_a_path(files, tmp_path):
    changed = dataclasses.replace(catalogue.load("tiny-1"), reference_energies={14: -1.0})
    storage.save(changed, tmp_path / "tiny-1")
    assert catalogue.load("tiny-1").reference_energies == {14: -1.0}
    (tmp_path / "config").mkdir()
    storage.save(changed, tmp_path / "config/mine")
    assert catalogue.load("mine", tmp_path / "config").reference_energies == {14: -1.0}
    with pytest.raises(UserError, match=r"config/yours: no such potential"):
        catalogue.load("config/yours")


def test_a_saved_potential_goes_before_files(files, tmp_path):
    saved = tmp_path / "cache/mlip_jax/potentials/tiny-1"
    changed = dataclasses.replace(catalogue.load("tiny-1"), reference_energies={14: -1.0})
    storage.save(changed, saved)
    assert catalogue.find("tiny-1") == saved
    assert catalogue.load("tiny-1").reference_energies == {14: -1.0}
    # What was imported by hand has no name in its card.
    storage.save(weights.read("snap", sorted(files.iterdir())), saved)
    assert "published" not in catalogue.load("tiny-1").card
    storage.save(changed, saved)
    saved.rename(saved.with_name("tiny-2"))
    with pytest.raises(UserError, match=r"got .*'tiny-1', 'snap', 1.* expected .*'tiny-2'"):
        catalogue.load("tiny-2")


def test_damaged_files_are_refused(files):
    (files / "si.snapparam").write_text("rcutfac 3.5\ntwojmax 0\n")
    with pytest.raises(UserError, match=r"si\.snapparam: got the SHA-256 .*damaged"):
        catalogue.load("tiny-1")


def test_a_name_whose_files_are_nowhere_says_how_to_get_them(files):
    (files / "si.snapparam").unlink()
    assert catalogue.find("tiny-1") is None
    with pytest.raises(UserError) as caught:
        catalogue.load("tiny-1")
    for part in (
        str(files),
        "si.snapparam",
        "A. Tester",
        "the author of this test",
        catalogue.SEARCH_PATH,
    ):
        assert part in str(caught.value)
    assert "mlip-jax import snap FILES -o" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tiny_1", "potential: tiny_1: neither a directory .*did you mean 'tiny-1'"),
        ("xyzzy", "nor a published name; `mlip-jax potentials`"),
    ],
)
def test_unknown_names_get_the_nearest_ones(name, message):
    with pytest.raises(UserError, match=message):
        catalogue.load(name)


def test_files_with_an_address_are_downloaded_and_checked(monkeypatch, tmp_path):
    pytest.importorskip("pooch", reason="pooch is not installed")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    (tmp_path / "served").mkdir()
    for name, text in TINY.items():
        (tmp_path / "served" / name).write_text(text)
    handler = functools.partial(Silent, directory=str(tmp_path / "served"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/{{file}}"
        entry = dataclasses.replace(ENTRY, address=address)
        wrong = dataclasses.replace(entry, folder="wrong", files=dict.fromkeys(TINY, "0" * 64))
        monkeypatch.setattr(catalogue, "entries", lambda: {"tiny-1": entry, "wrong": wrong})
        assert catalogue.load("tiny-1").species == (14,)
        with pytest.raises(UserError, match=r"download of http.*failed: SHA256 hash"):
            catalogue.load("wrong")
        server.shutdown()
    assert catalogue.find("tiny-1") == tmp_path / "cache/mlip_jax/sources" / ENTRY.folder
    assert catalogue.load("tiny-1").species == (14,)


class Silent(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


def test_without_pooch_a_download_is_advised(monkeypatch):
    monkeypatch.setitem(sys.modules, "pooch", None)
    entry = dataclasses.replace(ENTRY, address="http://127.0.0.1/{file}")
    monkeypatch.setattr(catalogue, "entries", lambda: {"tiny-1": entry})
    with pytest.raises(UserError, match=r"pip install 'mlip_jax\[download\]'"):
        catalogue.load("tiny-1")


def test_the_command_lists_and_shows(files, capsys):
    assert run("potentials") == 0
    listed = capsys.readouterr().out
    assert "tiny-1" in listed
    assert "not found" in listed
    assert run("potentials", "tiny-1", "-o", "saved") == 0
    shown = capsys.readouterr().out
    assert f"where: {files}" in re.sub(r"\s+", " ", shown)
    assert storage.load("saved").card["published"]["name"] == "tiny-1"
    assert "did you mean 'tiny-1'" in refused(capsys, "potentials", "tiny-11")
    assert run("info", "tiny-1") == 0
    assert "citation: A. Tester (2020)" in capsys.readouterr().out


TABLE = catalogue.entries()


@pytest.mark.parametrize("name", TABLE)
def test_entries_are_complete(name):
    entry = TABLE[name]
    assert entry.format in weights.FORMATS
    assert all(re.fullmatch("[0-9a-f]{64}", value) for value in entry.files.values())
    assert entry.elements > 0
    assert entry.address is None or entry.address.startswith("https://")
    assert entry.doi or "arXiv" in entry.citation


@pytest.mark.reference
@pytest.mark.skipif(not published.potentials("chgnet"), reason=published.REASON)
@pytest.mark.parametrize("name", TABLE)
def test_published_files_are_those_of_the_table(monkeypatch, name):
    """Checksums, formats and numbers of elements; numbers are compared in the other tests."""
    monkeypatch.setattr(catalogue, "entries", lambda: TABLE)
    monkeypatch.setenv(catalogue.SEARCH_PATH, str(published.SHARED / "reference"))
    potential = catalogue.load(name)
    assert potential.card["published"]["name"] == name
    assert np.isfinite(list(potential.reference_energies.values())).all()
