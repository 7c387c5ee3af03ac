"""A potential on disk: one directory, safe to open.

    config.yaml             the model and the reference energies
    parameters.safetensors  the variables, by path
    card.yaml               what it was fitted to
    manifest.json           format, version, SHA-256 of the three files above

Nothing in it is code: opening it parses text and arrays, and builds modules of our own registry.
A new format version adds one function to `_MIGRATIONS`; older potentials go through all that
follow their version.
"""

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors
import safetensors.numpy

from mlip_jax import config, elements, models
from mlip_jax.config import UserError
from mlip_jax.potential import Potential

FORMAT = "mlip_jax potential"
CONFIG, PARAMETERS, CARD = "config.yaml", "parameters.safetensors", "card.yaml"
MANIFEST = "manifest.json"


class _Contents(NamedTuple):
    """What the files hold, before a model is made of it."""

    config: dict[str, Any]
    variables: dict[str, Any]
    card: dict[str, Any]


_MIGRATIONS: tuple[Callable[[_Contents], _Contents], ...] = ()
"""The function at index v-1 leads from format version v to v+1."""


def version() -> int:
    """The format version that is written."""
    return len(_MIGRATIONS) + 1


def save(potential: Potential, path: str | os.PathLike[str]) -> None:
    """Writes a potential; what stood at `path` is replaced at the end, or stays as it was.

    Args:
        potential: its variables may be on any device.
        path: directory to make; an older potential there is replaced.

    Raises:
        UserError: where something else stands there, or it cannot be written.
    """
    path = Path(path)
    if path.exists() and not (path / MANIFEST).is_file():
        raise UserError(f"{path}: exists and is no potential. Choose another path or remove it.")
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
        _write(potential, temporary)
        _replace(temporary, path)
    except OSError as error:
        reason = "the disk is full" if error.errno == errno.ENOSPC else error.strerror
        raise UserError(
            f"{path}: the potential cannot be written: {reason}. Free space or choose another "
            "path; what stood there is unchanged."
        ) from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def load(path: str | os.PathLike[str]) -> Potential:
    """Reads a potential; its variables are numpy arrays in the precision they were saved in.

    Raises:
        UserError: where there is none, it is damaged, or a newer version of mlip_jax wrote it.
    """
    path = Path(path)
    manifest = _read_manifest(path)
    for name, digest in manifest["sha256"].items():
        _check_digest(path / name, digest)
    contents = _Contents(
        config.load_yaml(path / CONFIG),
        _read_variables(path / PARAMETERS),
        config.load_yaml(path / CARD),
    )
    for migrate in _MIGRATIONS[manifest["version"] - 1 :]:
        contents = migrate(contents)
    return _to_potential(contents, str(path / CONFIG))


def _write(potential: Potential, directory: Path) -> None:
    section = {
        "model": models.module_to_config(potential.model),
        "reference_energies": _by_symbol(potential.reference_energies),
    }
    if potential.head_energies:
        of_heads = {head: _by_symbol(e) for head, e in potential.head_energies.items()}
        section["head_energies"] = of_heads
    if potential.head is not None:
        section["head"] = potential.head
    config.dump_yaml(section, directory / CONFIG)
    config.dump_yaml(potential.card, directory / CARD)
    arrays, empty = _flatten(potential.variables)
    metadata = {"empty": json.dumps(empty)}
    (directory / PARAMETERS).write_bytes(safetensors.numpy.save(arrays, metadata))
    names = (CONFIG, PARAMETERS, CARD)
    digests = {name: hashlib.sha256((directory / name).read_bytes()).hexdigest() for name in names}
    manifest = {"format": FORMAT, "version": version(), "sha256": digests}
    (directory / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")
    for name in (*names, MANIFEST):
        with (directory / name).open("rb") as stream:
            os.fsync(stream.fileno())
    directory.chmod(0o755)


def _replace(temporary: Path, path: Path) -> None:
    """Puts a new directory in the place of an old one; a crash in between leaves both on disk."""
    old = temporary.with_name(temporary.name + ".old")
    if path.exists():
        path.rename(old)
    try:
        temporary.rename(path)
    except OSError:
        if old.exists():
            old.rename(path)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _read_manifest(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise UserError(f"{path}: no such potential (working directory: {Path.cwd()}).")
    if not (path / MANIFEST).is_file():
        inner = path / "potential"
        advice = f"Did you mean {inner}?" if inner.exists() else "Name a potential's directory."
        raise UserError(f"{path}: got something without {MANIFEST}; expected a potential. {advice}")
    try:
        manifest = json.loads(config.read_text(path / MANIFEST))
    except json.JSONDecodeError as error:
        raise _damaged(path / MANIFEST, f"no JSON at line {error.lineno}") from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise _damaged(path / MANIFEST, f"it does not say format {FORMAT!r}")
    number, digests = manifest.get("version"), manifest.get("sha256")
    if type(number) is not int or number < 1 or not isinstance(digests, dict):
        raise _damaged(path / MANIFEST, "version or checksums are missing")
    if number > version():
        raise UserError(
            f"{path}: got a potential of format version {number}; this mlip_jax reads versions up "
            f"to {version()}. Install a newer mlip_jax."
        )
    if set(digests) != {CONFIG, PARAMETERS, CARD}:
        raise _damaged(path / MANIFEST, f"it lists {sorted(digests)}")
    return manifest


def _check_digest(path: Path, digest: object) -> None:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise _damaged(path, f"it cannot be read ({error.strerror})") from None
    if hashlib.sha256(content).hexdigest() != digest:
        raise _damaged(path, "its checksum is not the one in the manifest")


def _damaged(path: Path, reason: str) -> UserError:
    return UserError(
        f"{path}: damaged: {reason}. Restore the potential from a copy or train again."
    )


def _flatten(variables: Mapping[str, Any]) -> tuple[dict[str, np.ndarray], list[str]]:
    """Arrays by path, and the paths of empty mappings."""
    arrays: dict[str, np.ndarray] = {}
    empty: list[str] = []

    def visit(tree: Any, keys: tuple[str, ...]) -> None:
        if not isinstance(tree, Mapping):
            array = np.asarray(tree, order="C")
            # safetensors writes the bytes of the buffer as they lie.
            arrays["/".join(keys)] = array.astype(array.dtype.newbyteorder("<"), copy=False)
            return
        if not tree:
            empty.append("/".join(keys))
        for key, value in tree.items():
            if not isinstance(key, str) or not key or "/" in key:
                raise ValueError(f"variables: got the key {key!r}; expected a name without '/'.")
            visit(value, (*keys, key))

    visit(variables, ())
    return arrays, empty


def _read_variables(path: Path) -> dict[str, Any]:
    try:
        with safetensors.safe_open(str(path), framework="numpy") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        empty = json.loads(metadata.get("empty", "[]"))
    except (safetensors.SafetensorError, json.JSONDecodeError) as error:
        raise _damaged(path, str(error)) from None
    variables: dict[str, Any] = {}
    for name, value in [*arrays.items(), *((name, {}) for name in empty if name)]:
        *parents, last = name.split("/")
        target = variables
        for key in parents:
            target = target.setdefault(key, {})
        target[last] = value
    return variables


def _to_potential(contents: _Contents, where: str) -> Potential:
    section = contents.config
    if set(section) - {"head", "head_energies"} != {"model", "reference_energies"}:
        raise UserError(f"{where}: got the keys {sorted(section)}; expected a potential's config.")
    of_heads = config.validate(dict[str, Any], section.get("head_energies", {}), where)
    return Potential(
        model=models.build_model(section["model"], f"{where}: model"),
        variables=contents.variables,
        reference_energies=_by_number(section["reference_energies"], where),
        card=contents.card,
        head_energies={head: _by_number(energies, where) for head, energies in of_heads.items()},
        head=config.validate(str | None, section.get("head"), where),
    )


def _by_symbol(energies: Mapping[int, float]) -> dict[str, float]:
    return {elements.SYMBOLS[int(z)]: energy for z, energy in energies.items()}


def _by_number(energies: Any, where: str) -> dict[int, float]:
    found = config.validate(dict[str, float], energies, where)
    return {elements.atomic_number(symbol): energy for symbol, energy in found.items()}
