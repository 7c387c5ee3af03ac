"""Potentials in LAMMPS, on one or several MPI ranks: `fix external` of its Python module.

In every step each rank gets its own atoms and their ghosts, and evaluates the potential for all of
them. Ghosts reach twice as far as the energy of an atom depends on others: then whatever a local
atom has a part in is complete, and forces need not be sent back to the ranks that own the ghosts.
Nothing of LAMMPS is imported here: the caller has a running instance.
"""

import sys
import traceback
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Int

from mlip_jax import elements, models
from mlip_jax.config import UserError
from mlip_jax.data.structure import Structure
from mlip_jax.inference import require_precision
from mlip_jax.inference.graph_series import GraphSeries
from mlip_jax.models import Requirements
from mlip_jax.potential import Potential, atom_virials_fn

_VOIGT = ((0, 1, 2, 0, 0, 1), (0, 1, 2, 1, 2, 2))
"""Rows and columns in LAMMPS's order of virials: xx, yy, zz, xy, xz, yz."""

_ROUNDING = 1e-6
"""Å: ghosts are images of atoms up to rounding."""


class Coupling:
    """A potential that acts in a running LAMMPS; see `attach`.

    Attributes:
        ghost_depth: how far beyond a rank's own region its ghosts have to reach, Å.
        evaluations: so far, on this rank.
        shapes: sizes of graphs that were met, `(atoms, max_neighbors)`: one compiled program each.
    """

    def __init__(
        self,
        program: Any,
        potential: Potential,
        numbers: Int[np.ndarray, " types"],
        *,
        precision: str,
        skin: float,
        block: int,
        name: str,
    ):
        """Makes what `attach` connects; arguments are its own, `numbers` Z of each type."""
        dtype = require_precision(precision)
        self._program, self._numbers, self._fix = program, numbers, name
        self._needs = _checked_requirements(potential)
        self.ghost_depth = 2.0 * (self._needs.hops or 1) * self._needs.cutoff
        self._reference = potential.reference_energy(numbers)
        self._variables = potential.variables_in(dtype)
        self._graphs = GraphSeries(potential, dtype, skin, block, changing=True)
        self._predict = jax.jit(atom_virials_fn(potential.model))
        self._comm = _communicator(program)
        self._error: Exception | None = None
        self.evaluations = 0
        self.shapes: set[tuple[int, int]] = set()

    def command(self, text: str) -> None:
        """Runs a command of LAMMPS; what goes wrong in the potential is raised here.

        Raises:
            UserError: from the potential, such as for ghosts that do not reach far enough.
        """
        self._error = None
        try:
            self._program.command(text)
        finally:
            # LAMMPS may have stopped because the forces were NaN; this is the reason.
            if self._error is not None:
                raise self._error

    def callback(
        self, caller: Any, step: int, count: int, tags: Any, positions: Any, forces: Any
    ) -> None:
        """What `fix external` calls: writes the forces [eV/Å] of the local atoms in place.

        An exception would pass through LAMMPS unseen. So forces and energy become NaN, and
        `command` raises it; with several ranks all are ended.
        """
        del caller, step, tags, positions  # ghosts are not among them
        try:
            self._evaluate(count, forces)
        except Exception as error:
            print(f"mlip_jax in LAMMPS: {error}", file=sys.stderr)
            if self._comm is not None and self._comm.Get_size() > 1:
                traceback.print_exc(file=sys.stderr)
                self._comm.Abort(1)
            self._error = error
            forces[:count] = np.nan
            self._program.fix_external_set_energy_global(self._fix, float("nan"))

    def _evaluate(self, count: int, forces: Float[np.ndarray, "atoms 3"]) -> None:
        total = np.zeros(7)
        if count:
            energies, forces[:count], virials = self._predicted(count)
            total[0] = energies.sum()
            total[1:] = virials.sum(axis=0)[_VOIGT]
        if self._comm is not None:
            total = self._comm.allreduce(total)
        self._program.fix_external_set_energy_global(self._fix, float(total[0]))
        self._program.fix_external_set_virial_global(self._fix, total[1:].tolist())
        self.evaluations += 1

    def _predicted(self, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Energies, forces and virials of the local atoms, float64."""
        extract = self._program.numpy.extract_atom
        atoms = count + self._program.extract_setting("nghost")
        positions = np.array(extract("x", nelem=atoms), np.float64)
        types = np.array(extract("type", nelem=atoms)).reshape(-1)
        _check_ghosts(self._program, positions, count, self.ghost_depth)
        structure = Structure(
            atomic_numbers=self._numbers[types - 1],
            positions=positions,
            cell=np.zeros((3, 3)),
            pbc=np.zeros(3, bool),
            name="atoms of LAMMPS",
        )
        graph = self._graphs.graph(structure)
        self.shapes.add((graph.num_atoms, graph.max_neighbors))
        prediction = jax.device_get(self._predict(self._variables, graph))
        energies = np.asarray(prediction.atom_energies[:count], np.float64)
        return (
            energies + self._reference[types[:count] - 1],
            np.asarray(prediction.forces[:count], np.float64),
            np.asarray(prediction.atom_virials[:count], np.float64),
        )


def attach(
    program: Any,
    potential: Potential,
    species: Sequence[str],
    *,
    precision: str = "float32",
    skin: float = 1.0,
    block: int = 0,
    name: str = "mlip_jax",
) -> Coupling:
    """Makes a potential act in a running LAMMPS, beside what else acts there.

    To be called once the box and its types of atoms exist. Defines `fix NAME all external`, whose
    energy and virial count in LAMMPS's own, and sets the skin of lists and how far ghosts reach
    (`neighbor`, `neigh_modify`, `comm_modify`), which later commands must leave as they are.
    Per-atom energies and virials are not handed over.

    Args:
        program: an instance of `lammps.lammps`; `units metal`.
        potential: one whose model says how many `hops` it sees, and has no sums over reciprocal
            lattice vectors and no further inputs.
        species: chemical symbol of each type of atoms.
        precision: `float32` or `float64`.
        skin: Å; ghosts are chosen anew when an atom has moved by half of it.
        block: atoms processed at a time (see `AtomicGraph`).
        name: of the fix.

    Returns:
        The coupling; its method `command` runs commands and raises what the potential raises.

    Raises:
        UserError: for other units, types without symbols, elements that the potential does not
            know, a model that cannot be cut into regions, or several ranks without `mpi4py`.
    """
    units, types = program.extract_global("units"), program.extract_setting("ntypes")
    if units != "metal":
        raise UserError(f"units: got {units!r} in LAMMPS; expected `units metal` (eV, Å, ps).")
    if not skin > 0.0:
        raise UserError(f"skin: got {skin} Å; expected a positive length.")
    if len(species) != types:
        raise UserError(
            f"species: got {list(species)} for {types} types of atoms in LAMMPS; expected one "
            "symbol for each type."
        )
    try:
        numbers = np.array([elements.atomic_number(symbol) for symbol in species])
    except ValueError as error:
        raise UserError(f"species: {error}") from None
    potential.check_species(numbers, "types of LAMMPS")
    coupling = Coupling(
        program, potential, numbers, precision=precision, skin=skin, block=block, name=name
    )
    program.commands_string(f"""
        neighbor {skin} bin
        neigh_modify every 1 delay 0 check yes
        comm_modify mode single cutoff {coupling.ghost_depth + skin}
        fix {name} all external pf/callback 1 1
        fix_modify {name} energy yes virial yes
    """)
    program.set_fix_external_callback(name, coupling.callback)
    return coupling


def _checked_requirements(potential: Potential) -> Requirements:
    needs, name = models.requirements(potential.model), type(potential.model).__name__
    if needs.hops is None or needs.reciprocal_cutoff > 0.0 or needs.inputs:
        reasons = {
            "does not say how many cutoffs its energies reach (`hops`)": needs.hops is None,
            "sums over reciprocal lattice vectors": needs.reciprocal_cutoff > 0.0,
            f"reads {', '.join(needs.inputs)}": bool(needs.inputs),
        }
        found = [reason for reason, holds in reasons.items() if holds]
        raise UserError(
            f"potential: got {name}, which {' and '.join(found)}; expected one whose energies are "
            "those of neighbourhoods of known depth, since a rank sees no more. Use ASE or "
            "`mlip-jax md` for it."
        )
    return needs


def _communicator(program: Any) -> Any:
    """LAMMPS's communicator, where it is there; needed for sums over several ranks."""
    communicator = program.get_mpi_comm()
    ranks = program.extract_setting("world_size")
    if communicator is None and ranks > 1:
        raise UserError(
            f"LAMMPS: got {ranks} ranks without mpi4py; expected it, for the energy and virial of "
            "all ranks. Run `pip install mpi4py`, or use one rank."
        )
    return communicator


def _check_ghosts(
    program: Any, positions: Float[np.ndarray, "atoms 3"], count: int, depth: float
) -> None:
    """Refuses ghosts that do not reach `depth` [Å] beyond the box.

    In periodic directions along which the box is not divided, ghosts are images of local atoms, so
    that it is known where the last one has to be. The cutoff of ghosts is one for all directions.

    Raises:
        UserError: where it is missing.
    """
    low, high, xy, yz, xz, periodic, _ = program.extract_box()
    sides = np.subtract(high, low)
    cell = np.diag(sides) + np.array([[0.0] * 3, [xy, 0.0, 0.0], [xz, yz, 0.0]])
    inverse = np.linalg.inv(cell)
    heights = 1.0 / np.linalg.norm(inverse, axis=0)
    fractional = (positions - low) @ inverse
    for axis in range(3):
        if not (periodic[axis] and _is_whole(program, axis)):
            continue
        height = heights[axis]
        for beyond in (fractional[:, axis] - 1.0, -fractional[:, axis]):
            inside = (1.0 + beyond[:count]) * height  # from the opposite face
            inside = inside[inside < depth]
            images = inside + np.floor((depth - inside) / height) * height
            needed, seen = np.max(images, initial=0.0), np.max(beyond * height)
            if seen < needed - _ROUNDING:
                raise UserError(
                    f"ghost atoms: got a last one {seen:.3f} Å outside the box along axis {axis}, "
                    f"expected one at {needed:.3f} Å: this potential needs ghosts to a depth of "
                    f"{depth:g} Å. Leave `comm_modify cutoff`, `neighbor` and `neigh_modify` as "
                    "`attach` sets them."
                )


def _is_whole(program: Any, axis: int) -> bool:
    """Whether the region of this rank reaches from face to face along an axis."""
    if program.extract_setting("triclinic"):
        return (
            program.extract_global("sublo_lambda")[axis] <= 0.0
            and program.extract_global("subhi_lambda")[axis] >= 1.0
        )
    low, high = program.extract_global("sublo"), program.extract_global("subhi")
    box = program.extract_global("boxlo"), program.extract_global("boxhi")
    return bool(low[axis] <= box[0][axis] and high[axis] >= box[1][axis])
