"""Published potentials by name: what is known of them, where their files are, and how they load.

The table is `catalogue.yaml`. A name is looked for, in this order,

    <cache>/potentials/<name>           a potential as `mj.save` writes it
    <directory>/<folder of the table>   the published files, below each directory of MLIP_JAX_PATH
    <cache>/sources/<folder>            likewise, with what was downloaded

where `<cache>` is `mlip_jax` in XDG_CACHE_HOME (`~/.cache` by default). Files are compared with the
checksums of the table and imported. Where there are none, plain files that have an address are
downloaded (with pooch, optional).
"""

import dataclasses
import difflib
import functools
import hashlib
import os
from pathlib import Path

from mlip_jax import config, heads, storage
from mlip_jax.config import UserError
from mlip_jax.interop import weights
from mlip_jax.potential import Potential

SEARCH_PATH = "MLIP_JAX_PATH"
"""Environment variable: directories with published files, as in PATH."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """What is known of a published potential.

    Attributes:
        format: of its files, see `weights.FORMATS`.
        folder: of its files, relative to a directory with published potentials.
        files: SHA-256 of each of them.
        elements: how many it knows.
        theory: level of theory of the data that it was fitted to.
        publisher: where its authors publish it.
        citation: of the paper.
        licence: of its files.
        verified: what its import was compared with, and how closely it agrees.
        doi: of the paper.
        address: of a file to download, with `{file}` for its name.
        facts: keywords of the import, for what the files do not say.
        note: what else a user has to know.
    """

    format: str
    folder: str
    files: dict[str, str]
    elements: int
    theory: str
    publisher: str
    citation: str
    licence: str
    verified: str
    doi: str | None = None
    address: str | None = None
    facts: dict[str, str | list[str]] = dataclasses.field(default_factory=dict)
    note: str | None = None


@functools.cache
def entries() -> dict[str, Entry]:
    """The published potentials, by name."""
    table = Path(__file__).with_name("catalogue.yaml")
    return config.validate(dict[str, Entry], config.load_yaml(table), table.name)


def load(
    name_or_path: str | os.PathLike[str], base: Path | None = None, head: str | None = None
) -> Potential:
    """Loads a potential from a directory, or a published one by its name.

    What exists as a path is a path. A published potential is found or downloaded as this module
    says; its card has what the catalogue knows of it.

    Args:
        name_or_path: a directory that `mj.save` or a training run wrote, or a name.
        base: a directory where a relative path may begin, before the working directory.
        head: the one to use of a potential with several; without it the potential has them all,
            and serves structures that say which one they belong to.

    Raises:
        UserError: where nothing is found (with the nearest names, or where to get the files), for
            files that are damaged or not those of the name, and for an unknown head.
    """
    potential = _load(Path(name_or_path), base)
    return potential if head is None else heads.choose(potential, head)


def _load(path: Path, base: Path | None) -> Potential:
    for candidate in (path if base is None else base / path, path):
        if candidate.exists():
            return storage.load(candidate)
    name = str(path)
    if name in entries():
        return _published(name)
    if len(path.parts) > 1:
        return storage.load(path)  # which says what is missing
    near = difflib.get_close_matches(name, entries(), n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
    raise UserError(
        f"potential: {name}: neither a directory (working directory: {Path.cwd()}) nor "
        f"a published name; {hint}`mlip-jax potentials` lists the names."
    )


def entry(name: str) -> Entry:
    """What is known of a published potential.

    Raises:
        UserError: for an unknown name, with the nearest one.
    """
    if name not in entries():
        raise config.unknown_name("potentials", "name", name, entries())
    return entries()[name]


def find(name: str) -> Path | None:
    """Where a published potential or all of its files are on this machine; `None` for nowhere."""
    known = entry(name)
    saved = _cache() / "potentials" / name
    if (saved / storage.MANIFEST).is_file():
        return saved
    for directory in _directories():
        folder = directory / known.folder
        if all((folder / file).is_file() for file in known.files):
            return folder
    return None


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mlip_jax"


def _directories() -> list[Path]:
    """Those that hold published files; one given twice is there once."""
    given = os.environ.get(SEARCH_PATH, "").split(os.pathsep)
    found = [Path(name).expanduser() for name in given if name]
    return list(dict.fromkeys([*found, _cache() / "sources"]))


def _published(name: str) -> Potential:
    known, place = entry(name), find(name)
    if place is not None and place == _cache() / "potentials" / name:
        return _check(name, known, storage.load(place), place)
    if place is None:
        place = _download(name, known)
    for file, digest in known.files.items():
        _check_digest(name, place / file, digest)
    files = [place / file for file in known.files]
    potential = weights.read(known.format, files, **known.facts)
    facts = dataclasses.asdict(known)
    kept = ("theory", "citation", "doi", "licence", "note")
    card = {"name": name} | {key: facts[key] for key in kept if facts[key] is not None}
    potential = dataclasses.replace(potential, card={**potential.card, "published": card})
    return _check(name, known, potential, place)


def _check(name: str, known: Entry, potential: Potential, place: Path) -> Potential:
    """The potential, if it can be the one of the name."""
    imported = potential.card.get("imported") or {}
    called = (potential.card.get("published") or {}).get("name", name)
    got = called, imported.get("format"), len(potential.species)
    if got != (name, known.format, known.elements):
        raise UserError(
            f"{place}: got (name, format, elements) = {got}; expected "
            f"{(name, known.format, known.elements)}. Remove it, or load it by its path."
        )
    return potential


def _check_digest(name: str, path: Path, expected: str) -> None:
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != expected:
        raise UserError(
            f"{path}: got the SHA-256 {digest}; {name} has {expected}. The file is damaged, or of "
            f"another version or conversion: restore it, or {_by_import(name)}."
        )


def _download(name: str, known: Entry) -> Path:
    """Downloads the files of a potential that has an address, and returns their folder."""
    if known.address is None:
        raise UserError(_where_to_get(name, known))
    try:
        import pooch  # pyright: ignore[reportMissingImports]
    except ImportError:
        advice = "Or have them downloaded: pip install 'mlip_jax[download]'."
        raise UserError(f"{_where_to_get(name, known)} {advice}") from None
    pooch.get_logger().setLevel("WARNING")
    folder = _cache() / "sources" / known.folder
    for file, digest in known.files.items():
        address = known.address.format(file=file)
        try:
            pooch.retrieve(address, f"sha256:{digest}", fname=file, path=folder)
        except (OSError, ValueError) as error:
            raise UserError(
                f"{_where_to_get(name, known)} The download of {address} failed: {error}"
            ) from error
    return folder


def _where_to_get(name: str, known: Entry) -> str:
    files = ", ".join(known.files)
    folders = [str(directory / known.folder) for directory in _directories()]
    return (
        f"{name}: a published potential ({known.citation}) whose files are not on this machine. "
        f"Looked for {files} in {' and '.join(folders)}. Get them from {known.publisher}; put them "
        f"into the folder {known.folder} below a directory and name that in {SEARCH_PATH}; or "
        f"{_by_import(name)}."
    )


def _by_import(name: str) -> str:
    """How files that are not those of the table get the name."""
    saved = _cache() / "potentials" / name
    return f"import what you have: `mlip-jax import {entry(name).format} FILES -o {saved}`"
