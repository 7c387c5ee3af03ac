"""A potential, or a committee of several, as a calculator of ASE."""

import os
from collections.abc import Sequence
from typing import Any, ClassVar

import ase
import jax
import numpy as np
from ase.calculators.calculator import Calculator, all_changes
from ase.stress import full_3x3_to_voigt_6_stress

from mlip_jax import compilation, heads
from mlip_jax.config import UserError
from mlip_jax.data.structure import Structure
from mlip_jax.inference import require_precision
from mlip_jax.inference.graph_series import GraphSeries
from mlip_jax.interop import catalogue
from mlip_jax.potential import Potential, Prediction, predict_fn

Source = Potential | str | os.PathLike
"""A potential, its directory, or the name of a published one."""


class MLIPCalculator(Calculator):
    """Energies, forces and stress of a potential for ASE's optimisers, filters and dynamics.

    The neighbour list has a skin and is reused while no atom has moved by half of it in an
    unchanged cell. Rows are padded to a ladder of lengths and never become shorter for the same
    atoms, so that changing numbers of neighbours rarely compile a new program. The total charge [e]
    of models that read it is `atoms.info["charge"]`.

    Magnetic moments are absolute values [μ_B], and the total moment `magmom` is their sum, that of
    ferromagnetic order.

    Several potentials are a committee: every result is the mean of theirs, and `results` has the
    standard deviations (of a sample, over N - 1) `energy_std` [eV], `forces_std` [eV/Å] of each
    component and, where there is a stress, `stress_std` [eV/Å^3] in ASE's order.
    """

    implemented_properties: ClassVar[list[str]] = [  # pyright: ignore
        "energy",
        "free_energy",
        "energies",
        "forces",
        "stress",
        "charges",
        "magmoms",
        "magmom",
    ]

    def __init__(
        self,
        potential: Source | Sequence[Source],
        *,
        precision: str = "float32",
        skin: float = 0.5,
        block: int = 0,
        head: str | None = None,
        **parameters: Any,
    ):
        """Makes a calculator.

        Args:
            potential: a potential, its directory or the name of a published one (see `catalogue`);
                or a list of these, a committee.
            precision: `float32`, or `float64` (for phonons and tight relaxations; needs x64).
            skin: Å.
            block: atoms processed at a time (see `AtomicGraph`).
            head: the one to use of potentials with several.
            **parameters: of ASE's `Calculator`.

        Raises:
            UserError: for float64 while 64-bit arithmetic is off, a potential that is not found,
                or an empty list.
        """
        super().__init__(**parameters)
        given = [potential] if isinstance(potential, Source) else list(potential)
        if not given:
            raise UserError("potential: got an empty list; expected at least one potential.")
        loaded = (p if isinstance(p, Potential) else catalogue.load(p) for p in given)
        self.potentials = tuple(p if head is None else heads.choose(p, head) for p in loaded)
        dtype = require_precision(precision)
        self._members: list[_Member] = []
        for p in self.potentials:
            same = [m.predict for m in self._members if m.potential.model == p.model]
            predict = same[0] if same else _compiled(p.model)
            self._members.append(_Member(p, predict, dtype, skin, block))

    def calculate(
        self,
        atoms: ase.Atoms | None = None,
        properties: Sequence[str] | None = None,
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        """Fills `results`; called by ASE.

        Raises:
            UserError: for an element that the potential does not know, two atoms at one place, or
                a periodic cell without volume.
        """
        super().calculate(atoms, list(properties or ["energy"]), list(system_changes))
        structure = _to_structure(self.atoms)
        results = [member.results(structure) for member in self._members]
        self.results = results[0] if len(results) == 1 else _committee(results)

    def check_state(self, atoms: ase.Atoms, tol: float = 1e-15) -> list[str]:
        """What changed since the last calculation; ASE itself does not look at the total charge."""
        changes = list(super().check_state(atoms, tol))
        if self.atoms is not None and _total_charge(atoms) != _total_charge(self.atoms):
            changes.append("initial_charges")
        return changes


def _compiled(model: Any) -> Any:
    return jax.jit(predict_fn(model), compiler_options=compilation.options(model))


class _Member:
    """One potential with its program and its graphs."""

    def __init__(self, potential: Potential, predict: Any, dtype: Any, skin: float, block: int):
        self.potential, self.predict = potential, predict
        self._variables = potential.variables_in(dtype)
        self._graphs = GraphSeries(potential, dtype, skin, block)

    def results(self, structure: Structure) -> dict[str, Any]:
        """Results as ASE names them."""
        prediction = self.predict(self._variables, self._graphs.graph(structure))
        return self._to_results(structure, jax.device_get(prediction))

    def _to_results(self, structure: Structure, prediction: Prediction) -> dict[str, Any]:
        atoms = structure.num_atoms
        reference = self.potential.reference_energy(structure.atomic_numbers)
        energies = np.asarray(prediction.atom_energies[:atoms], np.float64) + reference
        results: dict[str, Any] = {
            "energy": float(energies.sum()),
            "free_energy": float(energies.sum()),
            "energies": energies,
            "forces": np.asarray(prediction.forces[:atoms], np.float64),
        }
        if np.all(structure.pbc):
            results["stress"] = full_3x3_to_voigt_6_stress(
                np.asarray(prediction.stress[0], np.float64)
            )
        for name in ("charges", "magmoms"):
            values = getattr(prediction, name)
            if values is not None:
                results[name] = np.asarray(values[:atoms], np.float64)
        if "magmoms" in results:
            results["magmom"] = float(results["magmoms"].sum())
        return results


def _committee(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Means of what all members have, and standard deviations of energy, forces and stress."""
    common = [name for name in results[0] if all(name in other for other in results)]
    members = {name: np.stack([result[name] for result in results]) for name in common}
    found = {name: values.mean(axis=0) for name, values in members.items()}
    for name in ("energy", "forces", "stress"):
        if name in members:
            found[f"{name}_std"] = members[name].std(axis=0, ddof=1)
    return {name: float(value) if value.ndim == 0 else value for name, value in found.items()}


def _to_structure(atoms: Any) -> Structure:
    return Structure(
        atomic_numbers=np.asarray(atoms.numbers),
        positions=np.array(atoms.positions, dtype=np.float64),
        cell=np.array(atoms.cell[:], dtype=np.float64),
        pbc=np.array(atoms.pbc, dtype=bool),
        total_charge=_total_charge(atoms),
        name="atoms",
    )


def _total_charge(atoms: Any) -> float | None:
    """`atoms.info["charge"]`, e."""
    charge = atoms.info.get("charge")
    return None if charge is None else float(charge)
