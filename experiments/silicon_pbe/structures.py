"""The frames of the silicon set, each reproducible from its name alone.

Every frame draws from a generator seeded by the checksum of its family's name, so that adding or
removing a family never moves the others. Lengths in Å, temperatures in K.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import stillinger_weber
from ase import Atoms
from ase.build import bulk, diamond100, diamond111

A0 = 5.47  # lattice constant of PBE silicon
KPOINT_DENSITY = 26.0  # per |b| of the undeformed cell [Å], for what is not a diamond supercell

Grid = tuple[int, int, int]


@dataclass(frozen=True)
class Frame:
    """One structure and how it is to be computed.

    Attributes:
        name: Unique; family, variant and number.
        config_type: Family that the data set reports.
        atoms: Structure with its true periodicity.
        kpts: Numbers of k-points, always with the zone centre.
        magmom: Initial moment of each atom in μ_B, `None` for spin-paired.
        fixed_moment: Whether the total moment is kept.
    """

    name: str
    config_type: str
    atoms: Atoms
    kpts: Grid
    magmom: float | None = None
    fixed_moment: bool = False


def rng_of(name: str) -> np.random.Generator:
    """Generator that belongs to a name."""
    return np.random.default_rng(zlib.crc32(name.encode()))


def grid_of(cell: np.ndarray) -> Grid:
    """Numbers of k-points next to `KPOINT_DENSITY` times the lengths of the reciprocal vectors."""
    lengths = np.linalg.norm(np.linalg.inv(cell), axis=0)
    return tuple(max(1, round(KPOINT_DENSITY * b)) for b in lengths)


def deform(atoms: Atoms, strain: Sequence[Sequence[float]] | np.ndarray) -> Atoms:
    """Apply a symmetric strain [3 3] to cell and positions."""
    atoms = atoms.copy()
    atoms.set_cell(atoms.cell @ (np.eye(3) + np.asarray(strain)), scale_atoms=True)
    return atoms


def disturb(atoms: Atoms, rattle: float, strain: float, rng: np.random.Generator) -> Atoms:
    """Random symmetric strain and random displacements.

    Args:
        atoms: Start; left unchanged.
        rattle: Standard deviation of each displacement component.
        strain: Standard deviation of each strain component.
        rng: Source of both.
    """
    random = rng.normal(scale=strain, size=(3, 3)) if strain else np.zeros((3, 3))
    atoms = deform(atoms, (random + random.T) / 2)
    atoms.positions += rng.normal(scale=rattle, size=atoms.positions.shape)
    return atoms


def diamond(repeat: Grid | None = (1, 1, 1)) -> tuple[Atoms, Grid]:
    """Diamond supercell of the primitive cell, or the cubic cell for `None`, with its k-points.

    The grids fold onto 8x8x8 points of the primitive cell. The cubic cell has 4x4x4: the same
    length along [110], the bond chains, on which the error of a grid depends.
    """
    if repeat is None:
        return bulk("Si", "diamond", A0, cubic=True), (4, 4, 4)
    return bulk("Si", "diamond", A0) * repeat, tuple(8 // n for n in repeat)


def diamond_strain() -> Iterator[Frame]:
    """Ideal diamond: hydrostatic, uniaxial and shear strains of the primitive cell."""
    cell, grid = diamond()
    for percent in np.linspace(-12, 12, 17):
        linear = (1 + percent / 100) ** (1 / 3) - 1
        strained = deform(cell, linear * np.eye(3))
        yield Frame(f"diamond_strain-volume{percent:+05.1f}", "diamond_strain", strained, grid)
    patterns = {
        "uniaxial100": np.diag([1.0, 0, 0]),
        "tetragonal": np.diag([-0.5, -0.5, 1.0]),
        "uniaxial111": np.full((3, 3), 1 / 3),
        "shear": np.array([[0, 0, 0], [0, 0, 0.5], [0, 0.5, 0]]),
    }
    for (kind, pattern), percent in product(patterns.items(), (-8, -4, -2, -1, 1, 2, 4, 8)):
        if kind == "shear" and percent in (-1, -4):  # equivalent by symmetry to +1 and +4
            continue
        strained = deform(cell, percent / 100 * pattern)
        yield Frame(f"diamond_strain-{kind}{percent:+03d}", "diamond_strain", strained, grid)


def diamond_rattle() -> Iterator[Frame]:
    """Strained and rattled diamond, 2 to 8 atoms."""
    plan = [  # repeat, frames, rattles, strain
        ((1, 1, 1), 16, (0.01, 0.03, 0.06, 0.1, 0.2), 0.02),
        ((2, 1, 1), 7, (0.02, 0.05, 0.1, 0.2), 0.015),
        (None, 32, (0.02, 0.04, 0.06, 0.09, 0.12, 0.16, 0.22, 0.3), 0.01),
    ]
    for repeat, count, rattles, strain in plan:
        cell, grid = diamond(repeat)
        shape = "cubic" if repeat is None else "".join(map(str, repeat))
        for number in range(count):
            name = f"diamond_rattle-{len(cell):02d}-{shape}-{number:02d}"
            atoms = disturb(cell, rattles[number % len(rattles)], strain, rng_of(name))
            yield Frame(name, "diamond_rattle", atoms, grid)


def diamond_phonon() -> Iterator[Frame]:
    """Optical displacements with matching strains of the primitive cell, which keep symmetry.

    The two atoms move apart along [001] under strains along [110], [-110] and [001], or along
    [111] under axial strain; the symmetry that is left makes dense k-points cheap.
    """
    cell, grid = diamond()
    axes = np.array([[1, 1, 0], [-1, 1, 0], [0, 0, np.sqrt(2)]]) / np.sqrt(2)
    trigonal = np.ones(3) / np.sqrt(3)
    for number in range(40):
        along = "001" if number < 24 else "111"
        name = f"diamond_phonon-{along}-{number:02d}"
        rng = rng_of(name)
        if along == "001":
            strain = axes.T @ np.diag(rng.normal(scale=0.02, size=3)) @ axes
            direction = axes[2]
        else:
            axial, plane = rng.normal(scale=0.02, size=2)
            strain = plane * np.eye(3) + (axial - plane) * np.outer(trigonal, trigonal)
            direction = trigonal
        atoms = deform(cell, strain)
        atoms.positions[1] += rng.normal(scale=0.12) * direction
        yield Frame(name, "diamond_phonon", atoms, grid)


def dynamics(kind: str, repeat: Grid | None, temperature: int, count: int) -> Iterator[Frame]:
    """Frames of one Stillinger-Weber run of diamond, or of its melt in a denser cell."""
    cell, grid = diamond(repeat)
    name = f"{kind}-{len(cell):02d}-{temperature}K"
    rng = rng_of(name)
    if kind == "liquid":
        volume = rng.uniform(0.88, 1.0)  # of the crystal: the liquid is the denser one
        start = deform(cell, (volume ** (1 / 3) - 1) * np.eye(3))
        start, melt = disturb(start, 0.3, 0.03, rng), 4000
    else:
        start, melt = disturb(cell, 0.0, 0.008, rng), 0
    for number, atoms in enumerate(
        stillinger_weber.thermal_frames(start, temperature, count, rng, melt)
    ):
        yield Frame(f"{name}-{number}", kind, atoms, grid)


def diamond_thermal() -> Iterator[Frame]:
    """Diamond at 300 to 1200 K."""
    for temperature in (300, 500, 700, 900, 1200):
        yield from dynamics("diamond_thermal", None, temperature, 4)


def liquids() -> Iterator[Frame]:
    """Liquid silicon, at and above the melting point of the model."""
    for temperature in (1700, 2200, 2700):
        yield from dynamics("liquid", None, temperature, 4)


def large() -> Iterator[Frame]:
    """Cells of 15 and 16 atoms: diamond, a vacancy, a liquid."""
    yield from dynamics("diamond_thermal", (2, 2, 2), 800, 3)
    yield from dynamics("liquid", (2, 2, 2), 2000, 2)
    yield from vacancies((2, 2, 2), 2)


def crystals() -> dict[str, Atoms]:
    """Other crystals near their PBE volumes."""
    c = 0.552 * 4.81
    beta_tin = Atoms("Si2", cell=[[-2.405, 2.405, c / 2], [2.405, -2.405, c / 2],
                                  [2.405, 2.405, -c / 2]], pbc=True)  # fmt: skip
    beta_tin.positions[1] = [0, 2.405, c / 4]
    lonsdaleite = bulk("SiSi", "wurtzite", a=3.86, c=6.37, u=0.3746)
    return {
        "beta_tin": beta_tin,
        "simple_cubic": bulk("Si", "sc", 2.53),
        "bcc": bulk("Si", "bcc", 3.09),
        "fcc": bulk("Si", "fcc", 3.87),
        "hcp": bulk("Si", "hcp", 2.72, c=4.45),
        "hexagonal_diamond": lonsdaleite,
    }


def phases() -> Iterator[Frame]:
    """The other crystals under volume change, then strained and rattled."""
    for kind, cell in crystals().items():
        grid = grid_of(cell.cell.array)
        for percent in (-12, -6, 0, 6, 12):
            strained = deform(cell, ((1 + percent / 100) ** (1 / 3) - 1) * np.eye(3))
            yield Frame(f"{kind}-volume{percent:+03d}", kind, strained, grid)
        for percent in (-8, 8):
            axis = np.diag([-0.5, -0.5, 1.0]) * percent / 100
            yield Frame(f"{kind}-axial{percent:+03d}", kind, deform(cell, axis), grid)
        rattled = cell if len(cell) > 1 else cell * (2, 1, 1)
        grid = grid_of(rattled.cell.array)
        for number in range(3 if len(cell) > 1 else 1):
            name = f"{kind}-rattle{number:02d}"
            atoms = disturb(rattled, (0.1, 0.05, 0.2)[number], 0.02, rng_of(name))
            yield Frame(name, kind, atoms, grid)


def vacancies(repeat: Grid | None = None, count: int = 8) -> Iterator[Frame]:
    """Diamond cells short of one atom, rattled."""
    cell, grid = diamond(repeat)
    del cell[0]
    for number in range(count):
        name = f"vacancy-{len(cell):02d}-{number:02d}"
        atoms = disturb(cell, (0.03, 0.08, 0.15)[number % 3], 0.008, rng_of(name))
        yield Frame(name, "vacancy", atoms, grid)


def slabs() -> Iterator[Frame]:
    """Thin (100) slabs with and without dimer rows, and (111) slabs."""
    vacuum = 4.5  # on either side
    plain = diamond100("Si", (2, 1, 4), a=A0, vacuum=vacuum)
    dimerised = plain.copy()
    top = np.argsort(plain.positions[:, 2])[-2:]
    dimerised.positions[top, 0] += np.array([0.7, -0.7]) * np.sign(
        plain.positions[top[::-1], 0] - plain.positions[top, 0]
    )
    triangular = diamond111("Si", (1, 1, 6), a=A0, vacuum=vacuum)
    starts = [("100", plain, 4), ("100dimer", dimerised, 4), ("111", triangular, 8)]
    for kind, cell, first in starts:
        cell.pbc = (True, True, False)
        for number, rattle in enumerate((0.03, 0.08, 0.15)):
            name = f"surface-{kind}-{number}"
            atoms = cell.copy()
            atoms.positions += rng_of(name).normal(scale=rattle, size=atoms.positions.shape)
            yield Frame(name, "surface", atoms, (first, 8, 1))


def molecules() -> Iterator[Frame]:
    """The free atom and dimers, spin-polarised."""
    atom = Atoms("Si", cell=[7.9, 8.7, 9.5], pbc=False)
    atom.center()
    yield Frame("isolated_atom", "isolated_atom", atom, (1, 1, 1), 2.0, True)
    for distance in (1.9, 2.05, 2.2, 2.35, 2.6, 3.0, 3.5, 4.5):
        dimer = Atoms("Si2", [[0, 0, 0], [distance, 0, 0]], cell=[distance + 6, 7.0, 7.6])
        dimer.center()
        yield Frame(f"dimer-{distance:.2f}", "dimer", dimer, (1, 1, 1), 2.0)


def random_search() -> Iterator[Frame]:
    """Random structures of 3 to 8 atoms."""
    for number in range(16):
        name = f"random-{number:02d}"
        atoms = random_structure(rng_of(name))
        yield Frame(name, "random", atoms, grid_of(atoms.cell.array))


def random_structure(rng: np.random.Generator) -> Atoms:
    """Atoms placed by chance, at least 2.05 Å apart, in a cell that is not too flat."""
    count = int(rng.integers(3, 9))
    while True:
        cell = np.eye(3) + rng.uniform(-0.35, 0.35, size=(3, 3))
        cell *= (count * rng.uniform(15, 23) / np.linalg.det(cell)) ** (1 / 3)
        atoms = Atoms(f"Si{count}", scaled_positions=rng.random((count, 3)), cell=cell, pbc=True)
        atoms = stillinger_weber.steepest_descent(atoms, 15)
        copies = atoms.repeat(2)
        distances = copies.get_all_distances(mic=True)
        if distances[np.triu_indices(len(copies), 1)].min() > 2.05:
            return atoms


FAMILIES = {
    family.__name__: family
    for family in (diamond_strain, diamond_phonon, diamond_rattle, diamond_thermal, phases,
                   vacancies, slabs, molecules, liquids, random_search, large)
}  # fmt: skip


def frames_of(families: Sequence[str] = tuple(FAMILIES)) -> list[Frame]:
    """Frames of the families, interleaved so that any first part of the list covers them all."""
    ranked = []
    for family in families:
        frames = list(FAMILIES[family]())
        order = rng_of(family).permutation(len(frames))
        ranked += [((rank + 0.5) / len(frames), frames[i]) for rank, i in enumerate(order)]
    return [frame for _, frame in sorted(ranked, key=lambda pair: pair[0])]
