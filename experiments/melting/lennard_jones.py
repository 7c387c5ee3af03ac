"""The melting line of Lennard-Jones atoms, whose answer is known.

    python experiments/melting/lennard_jones.py runs/melting

The coexistence pressure as a function of β = ε/kT, for the potential without a cutoff: R. Agrawal &
D. A. Kofke, Mol. Phys. 85, 43 (1995), in the form of M. A. van der Hoef, J. Chem. Phys. 113, 8142
(2000).
"""

import importlib.util
import sys
from pathlib import Path

import numpy as np
from scipy.optimize import brentq

from mlip_jax import units
from mlip_jax.data.structure import Structure
from mlip_jax.models.pair import LennardJones
from mlip_jax.potential import Potential

EPSILON, SIGMA, ARGON = 0.0104, 3.40, 18
CUTOFF = 4.0 * SIGMA


def potential() -> Potential:
    """Argon, cut smoothly between 3.2 and 4 σ."""
    model = LennardJones((ARGON,), CUTOFF, EPSILON, SIGMA, trainable=False)
    constants = {"epsilon": np.array([EPSILON]), "sigma": np.array([SIGMA])}
    return Potential(model, {"constants": constants}, {ARGON: 0.0})


def crystal() -> Structure:
    """Cubic close packing near the melting point."""
    lattice = np.cbrt(4.0 / 0.96) * SIGMA
    basis = np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
    return Structure(np.full(4, ARGON), lattice * basis, lattice * np.eye(3), np.ones(3, bool))


def melting_temperature(pressure: float) -> float:
    """K, at a pressure [GPa]."""
    reduced = pressure * units.GPA * SIGMA**3 / EPSILON

    def excess(kelvin: float) -> float:
        beta = EPSILON / (units.BOLTZMANN * kelvin)
        polynomial = 16.89 - 7.19 * beta - 3.028 * beta**2
        return beta**-1.25 * np.exp(-0.4759 * np.sqrt(beta)) * polynomial - reduced

    return brentq(excess, 50.0, 400.0)


def main() -> None:
    """Coexistence of 512 atoms, beside the line."""
    spec = importlib.util.spec_from_file_location("melting", Path(__file__).with_name("melting.py"))
    assert spec is not None
    assert spec.loader is not None
    melting = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(melting)
    settings = melting.Settings(92.0, timestep=8.0, compressibility=0.5, steps=10000)
    found = melting.coexistence(potential(), crystal(), settings, Path(sys.argv[1]))
    expected = melting_temperature(found["pressure_GPa"])
    print(
        f"melts at {found['temperature_K']:.2f} ± {found['temperature_K_error']:.2f} K; the line "
        f"at {found['pressure_GPa']:.4f} GPa: {expected:.2f} K"
    )


if __name__ == "__main__":
    main()
