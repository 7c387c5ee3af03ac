"""Charge equilibration: Gaussian charges that minimise their electrostatic energy.

A. K. Rappé, W. A. Goddard, J. Phys. Chem. 95, 3358 (1991); with electronegativities of the
environments: S. A. Ghasemi et al., Phys. Rev. B 92, 045131 (2015), eqs. 2 to 6.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mlip_jax.graph import AtomicGraph


class Equilibrium(NamedTuple):
    """Charges of lowest energy.

    Attributes:
        charges: e; 0 on padded atoms.
        multipliers: dE/dq_i, the same for all atoms of a structure, eV/e.
    """

    charges: Float[Array, " atoms"]
    multipliers: Float[Array, " graphs"]


def equilibrate(
    graph: AtomicGraph,
    electronegativities: Float[Array, " atoms"],
    hardness: Float[Array, " atoms"],
    interaction: Float[Array, "atoms atoms"],
) -> Equilibrium:
    """Minimises `Σ_i (χ_i q_i + J_i q_i²/2) + q·A q/2` at the total charge of each structure.

    The stationary point solves `(A + J) q + χ = μ` with `Σ_i q_i = Q`: one dense system whose
    blocks are the structures, with padded atoms as an identity, for two right-hand sides; its
    derivatives are solutions of the same system.

    Args:
        graph: its `total_charge` [e] is kept; 0 where there is none.
        electronegativities: χ, eV/e.
        hardness: J, eV/e².
        interaction: A, eV/e², see `ewald.interaction_matrix`; zero between structures.
    """
    real = graph.atom_mask
    diagonal = jnp.where(real, hardness, 1.0)
    matrix = interaction + jnp.diag(diagonal)
    ones = real.astype(interaction.dtype)
    right = jnp.stack([jnp.where(real, -electronegativities, 0.0), ones], axis=1)
    solved = jnp.linalg.solve(matrix, right)
    sums = jax.ops.segment_sum(
        solved, graph.graph_index, num_segments=graph.num_graphs, indices_are_sorted=True
    )
    wanted = jnp.zeros_like(sums[:, 0]) if graph.total_charge is None else graph.total_charge
    stiffness = jnp.where(graph.graph_mask, sums[:, 1], 1.0)
    multipliers = jnp.where(graph.graph_mask, (wanted - sums[:, 0]) / stiffness, 0.0)
    charges = solved[:, 0] + multipliers[graph.graph_index] * solved[:, 1]
    return Equilibrium(jnp.where(real, charges, 0.0), multipliers)
