"""Differences of free energy between two potentials, from samples of their ensembles.

Of one sample, by perturbation (R. W. Zwanzig, J. Chem. Phys. 22, 1420 (1954), eq. 16):

    F_1 - F_0 = -kT ln <exp(-(U_1 - U_0) / kT)>_0

At a constant volume F is Helmholtz's free energy, at a constant pressure Gibbs's: what the volume
adds to the enthalpy is the same for both potentials and cancels. The derivative by the parameters
is the reweighted mean of that of the energy, dF_1 = <dU_1>_1. Few frames that matter make a value
that is too high; of samples of both potentials the estimate of least variance is Bennett's.
"""

import jax
import numpy as np
from jaxtyping import Array, Float

from mlip_jax.config import UserError

_BISECTIONS = 200


def perturbation(
    energies: Float[Array, " frames"], sampled: Float[Array, " frames"], kT: float
) -> Float[Array, ""]:
    """F_1 - F_0 [eV] of a sample of potential 0; pure, and differentiable by the energies.

    Args:
        energies: U_1 of its frames, eV.
        sampled: U_0 of them, eV.
        kT: eV.
    """
    logarithms = -(energies - sampled) / kT
    return -kT * (jax.nn.logsumexp(logarithms) - np.log(len(logarithms)))


def bennett(
    forward: Float[np.ndarray, " frames"], backward: Float[np.ndarray, " others"], kT: float
) -> float:
    """F_1 - F_0 [eV] of samples of both potentials, on the host.

    C. H. Bennett, J. Comput. Phys. 22, 245 (1976), eq. 12. With n_0 and n_1 frames, C solves

        Σ_0 f((U_1 - U_0 - C) / kT) = Σ_1 f((U_0 - U_1 + C) / kT),   f(x) = 1 / (1 + exp(x))

    and F_1 - F_0 = C - kT ln(n_1 / n_0).

    Args:
        forward: U_1 - U_0 of the sample of potential 0, eV.
        backward: U_1 - U_0 of the sample of potential 1, eV.
        kT: eV.

    Raises:
        UserError: for energies that are not finite.
    """
    if not (np.all(np.isfinite(forward)) and np.all(np.isfinite(backward))):
        raise UserError(
            "free energy: got energies of frames that are not finite; expected numbers. Check the "
            "parameters."
        )
    ratio = kT * np.log(len(backward) / len(forward))
    both = np.concatenate([forward, backward])
    # The difference of the sums increases with C, from the smallest value to the largest.
    low, high = float(both.min()) - abs(ratio), float(both.max()) + abs(ratio)
    for _ in range(_BISECTIONS):
        middle = 0.5 * (low + high)
        excess = np.sum(_fermi((forward - middle) / kT)) - np.sum(_fermi((middle - backward) / kT))
        low, high = (middle, high) if excess < 0.0 else (low, middle)
    return 0.5 * (low + high) - ratio


def _fermi(x: np.ndarray) -> np.ndarray:
    return 0.5 * (1.0 - np.tanh(0.5 * x))
