"""Gaussian approximation potentials: SOAP × a sparse Gaussian process, kernels of few bodies.

A. P. Bartók, M. C. Payne, R. Kondor, G. Csányi, Phys. Rev. Lett. 104, 136403 (2010); V. L.
Deringer, G. Csányi, Phys. Rev. B 95, 094203 (2017) add the terms of two and three bodies.
"""

from mlip_jax.descriptors.distance import DistanceKernel
from mlip_jax.descriptors.soap import SOAP
from mlip_jax.descriptors.triplet import TripletKernel
from mlip_jax.models.local import Local
from mlip_jax.models.sum import Sum
from mlip_jax.nn.gaussian_process import GaussianProcess
from mlip_jax.nn.linear import Linear
from mlip_jax.nn.sparse_points import Selection


def gap(
    species: tuple[int, ...] | None = None,
    cutoff: float = 5.0,
    n_max: int = 8,
    l_max: int = 6,
    atom_sigma: float = 0.5,
    cutoff_transition_width: float = 0.5,
    element_channels: int | None = None,
    zeta: int = 4,
    num_sparse: int = 300,
    selection: Selection = "cur",
    num_pair_sparse: int = 15,
    pair_cutoff: float | None = None,
    pair_theta: float = 1.0,
    num_triplet_sparse: int = 0,
    triplet_cutoff: float = 3.5,
    triplet_theta: tuple[float, float, float] = (1.0, 1.0, 1.0),
    energy_scale: float | None = None,
    pair_energy_scale: float | None = None,
    triplet_energy_scale: float | None = None,
) -> Sum:
    """A GAP of many-body (SOAP) and two-body terms, and a three-body one where asked for.

    Args:
        species: atomic numbers; `None` takes those of the training data.
        cutoff: Å, of SOAP.
        n_max: radial functions of SOAP.
        l_max: highest degree of its harmonics.
        atom_sigma: Å, width of an atom.
        cutoff_transition_width: Å, over which the cutoff functions fall to 0.
        element_channels: channels that the densities of many elements are mixed into, see `SOAP`.
        zeta: exponent of the SOAP kernel.
        num_sparse: sparse environments of each element.
        selection: how they are chosen, see `nn.sparse_points.select`.
        num_pair_sparse: sparse distances of each pair of elements.
        pair_cutoff: Å, of the two-body term; `None` stands for `cutoff`.
        pair_theta: Å, width of its kernel.
        num_triplet_sparse: sparse triplets of each element and pair of neighbour elements; 0: no
            three-body term.
        triplet_cutoff: Å, of the three-body term.
        triplet_theta: widths of its kernel in Å, Å² and Å, see `TripletKernel`.
        energy_scale: eV, prior standard deviation δ of the energies of environments; `None` takes
            the force scale of the training data.
        pair_energy_scale: eV, the same of pairs.
        triplet_energy_scale: eV, the same of triplets.
    """
    many = SOAP(
        species=species,
        cutoff=cutoff,
        n_max=n_max,
        l_max=l_max,
        atom_sigma=atom_sigma,
        cutoff_transition_width=cutoff_transition_width,
        element_channels=element_channels,
    )
    pairs = DistanceKernel(
        species=species,
        cutoff=cutoff if pair_cutoff is None else pair_cutoff,
        cutoff_transition_width=cutoff_transition_width,
        theta=pair_theta,
        num_sparse=num_pair_sparse,
    )
    process = GaussianProcess(num_sparse=num_sparse, zeta=zeta, selection=selection)
    terms = (
        Local(many, process, energy_scale=energy_scale, scaling="none"),
        Local(pairs, Linear(shared=True), energy_scale=pair_energy_scale, scaling="none"),
    )
    if num_triplet_sparse == 0:
        return Sum(terms)
    triplets = TripletKernel(
        species=species,
        cutoff=triplet_cutoff,
        cutoff_transition_width=cutoff_transition_width,
        theta=triplet_theta,
        num_sparse=num_triplet_sparse,
    )
    third = Local(triplets, Linear(), energy_scale=triplet_energy_scale, scaling="none")
    return Sum((*terms, third))
