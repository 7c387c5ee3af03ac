"""MTP: contracted moment tensors × a linear regressor.

A. V. Shapeev, Multiscale Model. Simul. 14, 1153 (2016); I. S. Novikov et al., Mach. Learn.: Sci.
Technol. 2, 025002 (2021).
"""

from mlip_jax.descriptors.moment_tensor import MomentTensors
from mlip_jax.models.local import Local
from mlip_jax.nn.linear import Linear


def mtp(
    species: tuple[int, ...] | None = None,
    cutoff: float = 5.0,
    level: int = 16,
    min_dist: float = 1.5,
    radial_basis_size: int = 8,
    energy_scale: float | None = None,
) -> Local:
    """A moment tensor potential.

    Its energy is linear in the coefficients of the scalars, but not in those of the radial
    functions: a solver searches for the latter (`solver.nonlinear_iterations`), or an optimiser
    trains both. Elements have coefficients of their own, where the
    published potentials share those of the scalars.

    Args:
        species: atomic numbers; `None` takes those of the training data.
        cutoff: Å.
        level: of the scalars: 10, 16 and 20 give 16, 92 and 288 of them.
        min_dist: Å, about the shortest distance in the data.
        radial_basis_size: Chebyshev polynomials of each radial function.
        energy_scale: eV; `None` takes the force scale of the training data.
    """
    descriptor = MomentTensors(
        species=species,
        cutoff=cutoff,
        level=level,
        min_dist=min_dist,
        radial_basis_size=radial_basis_size,
    )
    return Local(descriptor, Linear(), energy_scale=energy_scale)
