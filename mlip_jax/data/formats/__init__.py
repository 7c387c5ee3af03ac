"""Files of structures: the only door of ASE, HDF5 and LMDB.

| ending | format | reading |
|---|---|---|
| `.xyz`, `.extxyz` (`.gz`, `.xz`, `.bz2`) | extended XYZ | whole |
| `.h5`, `.hdf5` | our HDF5 layout (`hdf5`) | lazy, by index |
| `.db`, `.aselmdb` | ASE database | lazy, by index |
| `.json` (`.gz`, `.xz`) | pymatgen structures (`pymatgen_json`) | whole |
| a directory | VASP runs in its subdirectories | whole |
| `.traj`, `vasprun.xml`, `OUTCAR` | through ASE | whole |
"""

from mlip_jax.data.formats.labels import LabelKeys, LabelUnits, Record
from mlip_jax.data.formats.registry import (
    available_keys,
    open_structures,
    read,
    write,
    writer,
)

__all__ = [
    "LabelKeys",
    "LabelUnits",
    "Record",
    "available_keys",
    "open_structures",
    "read",
    "write",
    "writer",
]
