"""ACE: the atomic cluster expansion × a form that is linear, or a function of linear densities.

R. Drautz, Phys. Rev. B 99, 014104 (2019); with powers of several densities: Y. Lysogorskiy et al.,
npj Comput. Mater. 7, 97 (2021); with few channels for many elements: J. P. Darby et al., Phys. Rev.
Lett. 131, 028001 (2023). With learned radial functions: `models/pace.py`.
"""

from mlip_jax.descriptors.ace import ChannelProducts, ChannelWeights, ClusterExpansion
from mlip_jax.descriptors.ace_radial import RadialName
from mlip_jax.models.local import Local
from mlip_jax.nn.finnis_sinclair import FinnisSinclair
from mlip_jax.nn.linear import Linear


def ace(
    species: tuple[int, ...] | None = None,
    cutoff: float = 5.0,
    n_max: tuple[int, ...] = (12, 6, 4, 2),
    l_max: tuple[int, ...] = (0, 4, 3, 2),
    degree: tuple[int, ...] | None = None,
    radial: RadialName = "bessel",
    parameter: float = 5.25,
    exponents: tuple[float, ...] | None = None,
    element_channels: int | None = None,
    channel_weights: ChannelWeights = "fixed",
    channel_products: ChannelProducts = "equal",
    energy_scale: float | None = None,
) -> Local:
    """A linear cluster expansion, or one of several densities.

    Args:
        species: atomic numbers; `None` takes those of the training data.
        cutoff: Å.
        n_max: radial functions of each order, from 1.
        l_max: highest degree of each order; 0 for order 1.
        degree: bound on `Σ (n + l)` of each order; `None`: there is none.
        radial: the radial functions.
        parameter: λ of their scaled distance.
        exponents: of the densities, such as (1, 0.5), which are zero without neighbours; `None`:
            the energy is linear.
        element_channels: weighted sums over the neighbours of all elements, for the number of
            functions not to grow with that of elements; `None`: sums for each element.
        channel_weights: `fixed`, with which the energy stays linear, or `trained`.
        channel_products: of `equal` channels, or of `all`.
        energy_scale: eV; `None` takes the force scale of the training data.
    """
    descriptor = ClusterExpansion(
        species=species,
        cutoff=cutoff,
        n_max=n_max,
        l_max=l_max,
        degree=degree,
        radial=radial,
        parameter=parameter,
        element_channels=element_channels,
        channel_weights=channel_weights,
        channel_products=channel_products,
    )
    if exponents is None:
        return Local(descriptor, Linear(), energy_scale=energy_scale)
    return Local(descriptor, FinnisSinclair(exponents), energy_scale, scaling="spread")
