"""Compute the silicon set with GPAW, or pack what is computed.

Each finished frame is one file in the work folder, written at once; a second start computes only
what is missing. Frames whose density does not converge leave a `.failed` file and are dropped.

    OMP_NUM_THREADS=1 python3 generate.py run --work raw --jobs 2
    OMP_NUM_THREADS=1 python3 generate.py pack --work raw
"""

from __future__ import annotations

import argparse
import functools
import gzip
import io
import json
import os
import zlib
from collections import Counter
from multiprocessing import get_context
from pathlib import Path

import ase.io
import dft
import numpy as np
from ase import Atoms
from structures import FAMILIES, Frame, frames_of

TEST_SHARE = 0.15
TRAIN_ONLY = ("isolated_atom", "dimer")


def compute_one(frame: Frame, work: Path) -> str:
    """Compute a frame and write its file; returns a line for the screen."""
    from gpaw import KohnShamConvergenceError

    log = work / f"{frame.name}.txt"
    try:
        result = dft.compute(frame, log)
    except KohnShamConvergenceError as error:
        (work / f"{frame.name}.failed").write_text(f"{error}\n")
        return f"{frame.name}: not converged"
    partial = work / f"{frame.name}.part"
    partial.write_text(json.dumps(result))
    os.replace(partial, work / f"{frame.name}.json")
    log.unlink()
    return f"{frame.name}: {result['seconds']:.0f} s, {result['iterations']} iterations"


def run(work: Path, jobs: int, families: list[str]) -> None:
    """Compute every frame that has no file yet.

    Args:
        work: Folder of results.
        jobs: Number of processes.
        families: Functions of `structures` whose frames are wanted.
    """
    work.mkdir(parents=True, exist_ok=True)
    missing = [
        frame
        for frame in frames_of(families)
        if not any((work / f"{frame.name}.{end}").exists() for end in ("json", "failed"))
    ]
    print(f"{len(missing)} frames to compute", flush=True)
    with get_context("spawn").Pool(jobs, maxtasksperchild=16) as pool:
        for line in pool.imap_unordered(functools.partial(compute_one, work=work), missing):
            print(line, flush=True)


def labelled(result: dict) -> Atoms:
    """Atoms with the labels of the data set."""
    atoms = Atoms(
        f"Si{len(result['positions'])}",
        positions=result["positions"],
        cell=result["cell"],
        pbc=result["pbc"],
    )
    atoms.info["frame_id"] = result["name"]
    atoms.info["config_type"] = result["config_type"]
    atoms.info["kpts"] = np.array(result["kpts"])
    atoms.info["REF_energy"] = result["energy"]
    if result["stress"] is not None:
        atoms.info["REF_stress"] = np.array(result["stress"]).ravel()
    atoms.new_array("REF_forces", np.array(result["forces"]))
    return atoms


def split(frames: list[Atoms]) -> tuple[list[Atoms], list[Atoms]]:
    """Training and test frames: each family gives its share, chosen by checksums of the names."""
    train, test = [], []
    for kind in sorted({atoms.info["config_type"] for atoms in frames}):
        family = [atoms for atoms in frames if atoms.info["config_type"] == kind]
        family.sort(key=lambda atoms: zlib.crc32(atoms.info["frame_id"].encode()))
        count = 0 if kind in TRAIN_ONLY else round(TEST_SHARE * len(family))
        test += family[:count]
        train += family[count:]
    return train, test


def write(path: Path, frames: list[Atoms]) -> None:
    """Write compressed extended XYZ; equal frames give equal bytes."""
    lines = []
    for atoms in sorted(frames, key=lambda atoms: atoms.info["frame_id"]):
        cell = " ".join(f"{x:.10f}" for x in atoms.cell.array.ravel())
        pbc = " ".join("FT"[int(flag)] for flag in atoms.pbc)
        lines.append(f"{len(atoms)}")
        fields = [
            f'Lattice="{cell}"',
            "Properties=species:S:1:pos:R:3:REF_forces:R:3",
            f"frame_id={atoms.info['frame_id']}",
            f"config_type={atoms.info['config_type']}",
            f'kpts="{" ".join(map(str, atoms.info["kpts"]))}"',
            f"REF_energy={atoms.info['REF_energy']:.8f}",
        ]
        if "REF_stress" in atoms.info:
            numbers = " ".join(f"{x:.9f}" for x in atoms.info["REF_stress"])
            fields.append(f'REF_stress="{numbers}"')
        lines.append(" ".join([*fields, f'pbc="{pbc}"']))
        for position, force in zip(atoms.positions, atoms.arrays["REF_forces"], strict=True):
            columns = [f"{x:14.8f}" for x in position] + [f"{x:12.6f}" for x in force]
            lines.append("Si " + " ".join(columns))
    text = "\n".join(lines) + "\n"
    with path.open("wb") as raw, gzip.GzipFile("", "wb", 9, raw, mtime=0) as packed:
        packed.write(text.encode())
    back = ase.io.read(io.StringIO(text), ":", format="extxyz")
    if len(back) != len(frames):
        raise ValueError(f"{path}: wrote {len(frames)} frames, read back {len(back)}")


def pack(work: Path, out: Path) -> None:
    """Write the two files of the data set from the results in the work folder."""
    results = [json.loads(path.read_text()) for path in sorted(work.glob("*.json"))]
    frames = [labelled(result) for result in results]
    train, test = split(frames)
    write(out / "train.extxyz.gz", train)
    write(out / "test.extxyz.gz", test)
    counts = [Counter(atoms.info["config_type"] for atoms in part) for part in (train, test)]
    for kind in sorted(counts[0] | counts[1]):
        print(f"  {kind}: {{train: {counts[0][kind]}, test: {counts[1][kind]}}}")
    print(f"train {len(train)}, test {len(test)}, not converged {len(list(work.glob('*.failed')))}")
    print(f"processor time: {sum(result['seconds'] for result in results) / 60:.1f} min")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("task", choices=("run", "pack"))
    parser.add_argument("--work", type=Path, default=Path("silicon_pbe_raw"), help="results")
    parser.add_argument("--jobs", type=int, default=2, help="processes, one core each")
    parser.add_argument(
        "--families", nargs="+", default=list(FAMILIES), choices=FAMILIES, help="run: which"
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="pack: folder")
    options = parser.parse_args()
    if options.task == "run":
        run(options.work, options.jobs, options.families)
    else:
        pack(options.work, options.out)


if __name__ == "__main__":
    main()
