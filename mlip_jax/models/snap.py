"""SNAP: bispectrum components × a linear or quadratic regressor.

A. P. Thompson et al., J. Comput. Phys. 285, 316 (2015); quadratic: M. A. Wood, A. P. Thompson,
J. Chem. Phys. 148, 241721 (2018); explicit elements: M. A. Cusentino et al., J. Phys. Chem. A 124,
5456 (2020).
"""

from mlip_jax.descriptors.bispectrum import Bispectrum
from mlip_jax.models.local import Local
from mlip_jax.nn.linear import Linear, Quadratic


def snap(
    species: tuple[int, ...] | None = None,
    cutoff: float = 5.0,
    twojmax: int = 6,
    rfac0: float = 0.99363,
    relative_radii: tuple[float, ...] | None = None,
    weights: tuple[float, ...] | None = None,
    explicit: bool = False,
    quadratic: bool = False,
    energy_scale: float | None = None,
) -> Local:
    """A SNAP (or qSNAP) potential.

    Args:
        species: atomic numbers; `None` takes those of the training data.
        cutoff: Å, of a pair of the largest elements.
        twojmax: highest degree 2j: 6 gives 30 components, 8 gives 55.
        rfac0: share of the sphere that the cutoff reaches.
        relative_radii: see `Bispectrum`.
        weights: of neighbours of each element.
        explicit: one block of components for each triple of elements.
        quadratic: qSNAP.
        energy_scale: eV; `None` takes the force scale of the training data.
    """
    descriptor = Bispectrum(
        species=species,
        cutoff=cutoff,
        twojmax=twojmax,
        rfac0=rfac0,
        relative_radii=relative_radii,
        weights=weights,
        explicit=explicit,
        self_all=explicit,
        normalized=explicit,
    )
    return Local(descriptor, Quadratic() if quadratic else Linear(), energy_scale=energy_scale)
