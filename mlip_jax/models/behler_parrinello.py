"""Behler-Parrinello neural network: symmetry functions × one network per element.

J. Behler, M. Parrinello, Phys. Rev. Lett. 98, 146401 (2007).
"""

from mlip_jax.descriptors.acsf import ACSF
from mlip_jax.models.local import Local
from mlip_jax.nn.mlp import ElementMLP


def behler_parrinello(
    species: tuple[int, ...] | None = None,
    cutoff: float = 6.0,
    num_radial: int = 20,
    num_angular: int = 8,
    zetas: tuple[int, ...] = (1, 2, 4, 8),
    angular_cutoff: float | None = None,
    min_distance: float | None = 1.0,
    weighted: bool = False,
    hidden: tuple[int, ...] = (64, 64),
    activation: str | tuple[str, ...] = "tanh",
    energy_scale: float | None = None,
) -> Local:
    """A Behler-Parrinello network on an automatic grid of symmetry functions.

    Args:
        species: atomic numbers; `None` takes those of the training data.
        cutoff: Å.
        num_radial: G2 functions per neighbour element.
        num_angular: radial weights of the G5 functions, each with every ζ and λ = ±1.
        zetas: exponents ζ.
        angular_cutoff: Å; `None` stands for `cutoff`.
        min_distance: Å, where radial functions begin; `None` takes the shortest distance of the
            training data.
        weighted: functions do not tell elements of neighbours apart but weight them by their
            atomic number, so that their number does not grow with the elements.
        hidden: widths of the hidden layers.
        activation: see `mlip_jax.nn.mlp.ElementMLP`.
        energy_scale: eV; `None` takes the force scale of the training data.
    """
    descriptor = ACSF(
        species=species,
        cutoff=cutoff,
        num_radial=num_radial,
        num_angular=num_angular,
        zetas=zetas,
        angular_cutoff=angular_cutoff,
        min_distance=min_distance,
        weighted=weighted,
    )
    network = ElementMLP(hidden=hidden, activation=activation)
    return Local(descriptor, network, energy_scale=energy_scale)
