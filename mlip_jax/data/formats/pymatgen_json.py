"""JSON with pymatgen structures and labels, as mlearn and MPtrj publish them; without pymatgen.

Read: a list of records, or records in nested dictionaries (MPtrj: material, then frame). A record
has a `structure` (pymatgen's `Structure.as_dict()`: `lattice.matrix`, `sites[].species[].element`,
`sites[].xyz` or `sites[].abc`; or `Molecule.as_dict()`, without lattice) and, beside it or under
`outputs`, the labels: a list as long as the sites counts as one of the atoms, so do properties of
the sites. Partly occupied sites are refused. Keys, units and signs are those of `LabelKeys`.
mlearn: energy in eV, `virial_stress` in kbar, compression positive, order `xx yy zz xy yz zx`.
MPtrj: `uncorrected_total_energy`, `force`, `stress` in kbar, compression positive.

Written: a list of such records, in our units and signs.
"""

import bz2
import gzip
import json
import lzma
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mlip_jax.config import UserError
from mlip_jax.data.formats.labels import Record
from mlip_jax.data.structure import Structure
from mlip_jax.elements import SYMBOLS

_OPENERS = {".gz": gzip.open, ".xz": lzma.open, ".bz2": bz2.open}
_NUMBER_OF = {symbol: number for number, symbol in enumerate(SYMBOLS)}


def read_records(path: Path) -> Iterator[Record]:
    """Yields the records of a JSON file.

    Raises:
        UserError: truncated, no records with a structure, or a site that is not one element.
    """
    try:
        with _OPENERS.get(path.suffix.lower(), open)(path, "rt", encoding="utf-8") as file:
            document = json.load(file)
    except (json.JSONDecodeError, EOFError, zlib.error, lzma.LZMAError, OSError) as error:
        raise UserError(f"{path}: truncated or no JSON ({error}).") from error
    frame = -1
    for frame, entry in enumerate(_entries(document)):
        try:
            yield _record(entry, path, frame)
        except (KeyError, TypeError, IndexError) as error:
            raise UserError(
                f"{path}, frame {frame}: not a pymatgen structure ({error!r})."
            ) from error
    if frame < 0:
        raise UserError(f"{path}: no record with a key 'structure' in this JSON file.")


def write_structures(path: Path, structures: Iterable[Structure]) -> None:
    """Writes records `{structure, energy, forces, stress, ...}` in eV, Å and ASE's sign."""
    records = [_as_dict(structure) for structure in structures]
    with _OPENERS.get(path.suffix.lower(), open)(path, "wt", encoding="utf-8") as file:
        json.dump(records, file)


def _entries(node: Any) -> Iterator[Mapping[str, Any]]:
    if isinstance(node, Mapping) and "structure" in node:
        yield node
    elif isinstance(node, Mapping | list):
        for child in node.values() if isinstance(node, Mapping) else node:
            yield from _entries(child)


def _record(entry: Mapping[str, Any], path: Path, frame: int) -> Record:
    structure = entry["structure"]
    sites = structure["sites"]
    where = f"{path}, frame {frame}"
    numbers = np.array([_site_number(site, where, i) for i, site in enumerate(sites)], np.int64)
    lattice = structure.get("lattice")
    cell = np.zeros((3, 3)) if lattice is None else np.array(lattice["matrix"], float)
    if all("xyz" in site for site in sites):
        positions = np.array([site["xyz"] for site in sites], float)
    else:
        positions = np.array([site["abc"] for site in sites], float) @ cell
    pbc = np.full(3, lattice is not None) & np.array((lattice or {}).get("pbc", (True,) * 3))
    outputs = entry.get("outputs")
    labels = {**(outputs if isinstance(outputs, Mapping) else {}), **entry}
    arrays: dict[str, Any] = {
        name: [site["properties"][name] for site in sites]
        for name in sites[0].get("properties") or {}
    }
    info = {k: v for k, v in labels.items() if k not in ("structure", "outputs")}
    # A stress of a structure of three atoms is in both; the label's key decides where it is sought.
    arrays |= {k: v for k, v in info.items() if isinstance(v, list) and len(v) == len(sites)}
    return Record(numbers, positions.reshape(-1, 3), cell, pbc, info, arrays, path, frame)


def _site_number(site: Mapping[str, Any], where: str, atom: int) -> int:
    species = site["species"]
    symbol = species[0].get("element", "") if len(species) == 1 else ""
    if len(species) != 1 or species[0].get("occu", 1) != 1 or symbol not in _NUMBER_OF:
        raise UserError(f"{where}, atom {atom}: got {species}; expected one element on a site.")
    return _NUMBER_OF[symbol]


def _as_dict(structure: Structure) -> dict[str, Any]:
    periodic = bool(structure.cell.any())
    fractional = structure.positions @ np.linalg.pinv(structure.cell)
    sites = [
        {
            "species": [{"element": SYMBOLS[number], "occu": 1}],
            "xyz": xyz.tolist(),
            "label": SYMBOLS[number],
            "properties": {},
        }
        | ({"abc": abc.tolist()} if periodic else {})
        for number, xyz, abc in zip(
            structure.atomic_numbers, structure.positions, fractional, strict=True
        )
    ]
    kind = "Structure" if periodic else "Molecule"
    document: dict[str, Any] = {
        "@module": f"pymatgen.core.structure.{kind}".rsplit(".", 1)[0],
        "@class": kind,
        "charge": structure.total_charge or 0.0,
        "sites": sites,
    }
    if periodic:
        document["lattice"] = {
            "matrix": structure.cell.tolist(),
            "pbc": [bool(p) for p in structure.pbc],
        }
    labels = structure.labels
    values = {
        "energy": labels.energy,
        "forces": labels.forces,
        "stress": labels.stress,
        "charges": labels.charges,
        "magmoms": labels.magmoms,
        "spins": structure.spins,
        "charge": structure.total_charge,
        "config_type": structure.config_type or None,
        "source": structure.source or None,
        "group": structure.group or None,
        "weight": structure.weight,
    }
    plain = {k: np.asarray(v).tolist() for k, v in values.items() if v is not None}
    return {"structure": document, **plain}
