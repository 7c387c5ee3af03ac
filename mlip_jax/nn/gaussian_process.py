"""Sparse Gaussian process regression with a polynomial kernel, one process per element.

The energy of an atom with features x is `Σ_s α_s k(x, x_s)` over sparse points x_s of its element,
with `k(x, x') = (x · x')^ζ`; Bartók & Csányi, Int. J. Quantum Chem. 115, 1051 (2015), section 3.
With `K = L Lᵀ` the matrix of k between sparse points, the coefficients are `α = L⁻ᵀ β`: the prior
of the process is then a standard normal distribution of each β, so that ridge regression for β is
the subset-of-regressors approximation (Quiñonero-Candela & Rasmussen, J. Mach. Learn. Res. 6, 1939,
2005, section 5), its penalty the variance of the noise over that of the energies.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
from jaxtyping import Array, Float, Int

from mlip_jax.config import UserError
from mlip_jax.nn import sparse_points
from mlip_jax.nn.sparse_points import Selection

_CENTRES = 30
"""Sparse points about which a folded process is expanded."""


class GaussianProcess(nn.Module):
    """`Σ_k β_k Σ_s W_sk (x · x_s)^ζ`, with coefficients β and sparse points x_s of the element.

    The collection `constants` holds `points`, `[elements, num_sparse, features]`, and `whitening`,
    `W = L⁻ᵀ`, `[elements, num_sparse, num_sparse]`; `calibrate` makes them from features of data.
    The weights `α = W β` are large and cancel; `fold` adds constants with which they do so in
    float64, before a program of float32 starts.

    Attributes:
        num_sparse: sparse points of each element.
        zeta: ζ.
        selection: how sparse points are chosen, see `nn.sparse_points.select`.
        jitter: added to the diagonal of K, relative to its mean, before it is factorised.
    """

    num_sparse: int = 100
    zeta: int = 4
    selection: Selection = "farthest"
    jitter: float = 1e-8

    @nn.compact
    def __call__(
        self, features: Float[Array, "atoms features"], element: Int[Array, " atoms"], elements: int
    ) -> Float[Array, " atoms"]:
        """Output of each atom.

        Args:
            features: x.
            element: index of each atom's element.
            elements: number of elements.
        """
        if self.num_sparse < 1 or self.zeta < 1:
            raise UserError(
                f"gaussian_process: got num_sparse = {self.num_sparse}, zeta = {self.zeta}; "
                "expected at least 1 of each."
            )
        shape = (elements, self.num_sparse, features.shape[-1])
        points = self.variable("constants", "points", _spread, shape).value
        whitening = self.variable("constants", "whitening", _identities, shape).value
        normal = nn.initializers.normal(1.0 / self.num_sparse**0.5)
        coefficients = self.param("coefficients", normal, shape[:2])
        if self.has_variable("constants", "centres"):
            return self._about_centres(features, element, points)
        kernel = jnp.einsum("id,esd->eis", features, points.astype(features.dtype)) ** self.zeta
        weights = jnp.einsum("esk,ek->es", whitening, coefficients.astype(whitening.dtype))
        energies = jnp.einsum("eis,es->ei", kernel, weights.astype(features.dtype))
        if elements == 1:
            return energies[0]
        picked = jax.nn.one_hot(element, elements, dtype=features.dtype)
        return jnp.einsum("ei,ie->i", energies, picked)

    def functions(
        self, features: Float[Array, " features"], element: Int[Array, ""], elements: int
    ) -> tuple[Float[Array, " points"], Float[Array, "points features"]]:
        """Kernels of one atom with the sparse points of all elements, and their derivatives.

        Those of other elements than the atom's vanish.

        Args:
            features: x.
            element: index of the atom's element.
            elements: number of elements.
        """
        points = self.get_variable("constants", "points").astype(features.dtype)
        points = points.reshape(-1, points.shape[-1])
        own = jnp.repeat(jax.nn.one_hot(element, elements, dtype=features.dtype), self.num_sparse)
        overlap = points @ features
        rising = own * overlap ** (self.zeta - 1)
        return rising * overlap, (self.zeta * rising)[:, None] * points

    def combined(self, rows: Float[Array, "*rows points"]) -> Float[Array, "*rows parameters"]:
        """Rows of the parameters β, of those of the kernels: the whitening of each element."""
        whitening = self.get_variable("constants", "whitening").astype(rows.dtype)
        by_element = rows.reshape(*rows.shape[:-1], *whitening.shape[:2])
        return jnp.einsum("...es,esk->...ek", by_element, whitening).reshape(rows.shape)

    def fold(
        self, variables: Mapping[str, Any], alone: Float[np.ndarray, "elements features"]
    ) -> tuple[dict[str, Any], Float[np.ndarray, " elements"]]:
        """Constants with which a program of float32 gives outputs minus those of isolated atoms.

        Value and slope of the output at some centres c are sums in float64. What is left to a
        program, with the nearest centre of each atom, is of second order in x - c,
        `Σ_s α_s [(x · x_s)^ζ - (c · x_s)^ζ - ζ (c · x_s)^(ζ-1) (x - c) · x_s]`, and written
        without a difference of large terms.

        Args:
            variables: of the module, in float64.
            alone: features of isolated atoms.

        Returns:
            The constants, and the outputs for isolated atoms.
        """
        constants = {name: np.asarray(x, np.float64) for name, x in variables["constants"].items()}
        points = constants["points"]
        beta = np.asarray(variables["params"]["coefficients"], np.float64)
        weights = np.einsum("esk,ek->es", constants["whitening"], beta)
        centres = np.stack([_centres(own, x) for own, x in zip(points, alone, strict=True)])
        overlap = np.einsum("ecd,esd->ecs", centres, points)
        values = np.einsum("es,ecs->ec", weights, overlap**self.zeta)
        slopes = weights[:, None] * self.zeta * overlap ** (self.zeta - 1)
        folded = {
            "centres": centres,
            "overlaps": overlap,
            "values": values - values[:, :1],
            "slopes": np.einsum("ecs,esd->ecd", slopes, points),
            "weights": weights,
        }
        return constants | folded, values[:, 0]

    def _about_centres(self, features: Array, element: Array, points: Array) -> Array:
        """Outputs minus those of isolated atoms, see `fold`."""
        dtype = features.dtype
        centres, overlaps, values, slopes, weights = (
            self.get_variable("constants", name).astype(dtype)
            for name in ("centres", "overlaps", "values", "slopes", "weights")
        )
        lengths = 0.5 * jnp.sum(centres * centres, axis=-1)
        fixed = jax.lax.stop_gradient(features)
        closeness = jnp.einsum("id,ecd->iec", fixed, centres) - lengths[None]
        own = jnp.take_along_axis(closeness, element[:, None, None], axis=1)[:, 0]
        nearest = element, jnp.argmax(own, axis=1)
        away = features - centres[nearest]
        rise = jnp.einsum("id,esd->ise", away, points.astype(dtype))
        picked = jax.nn.one_hot(element, len(points), dtype=dtype)
        rise = rise[:, :, 0] if len(points) == 1 else jnp.einsum("ise,ie->is", rise, picked)
        start, sums = overlaps[nearest], jnp.zeros_like(rise)
        for power in range(self.zeta, 1, -1):
            sums = sums * rise + math.comb(self.zeta, power) * start ** (self.zeta - power)
        second = jnp.sum(rise * rise * sums * weights[element], axis=1)
        return second + jnp.sum(away * slopes[nearest], axis=1) + values[nearest]

    def calibrate(
        self, constants: Mapping[str, Any], features: Sequence[np.ndarray]
    ) -> dict[str, Any]:
        """Constants with sparse points and their whitening, from features of each element.

        Where an element has fewer distinct features than `num_sparse`, the points that are missing
        are zero and have no influence; one without features keeps its points.

        Args:
            constants: of the module.
            features: `[sample, features]` of each element, as many samples as there are.
        """
        points, whitening = np.array(constants["points"]), np.array(constants["whitening"])
        for e, rows in enumerate(features):
            if len(rows):
                chosen = sparse_points.select(rows, self.num_sparse, self.selection)
                points[e], whitening[e] = 0.0, 0.0
                points[e, : len(chosen)] = chosen
                whitening[e, : len(chosen), : len(chosen)] = self.whitening_of(chosen)
        return {**constants, "points": jnp.asarray(points), "whitening": jnp.asarray(whitening)}

    def whitening_of(
        self, points: Float[np.ndarray, "points features"]
    ) -> Float[np.ndarray, "points points"]:
        """`L⁻ᵀ` of the matrix of the kernel between points."""
        return whitening((points @ points.T) ** self.zeta, self.jitter)


def _centres(
    points: Float[np.ndarray, "points features"], alone: Float[np.ndarray, " features"]
) -> Float[np.ndarray, "centres features"]:
    """An isolated atom, the mean of the points, and points far from each other."""
    used = points[np.any(points != 0.0, axis=1)]
    mean = used.mean(axis=0) if len(used) else alone
    far = sparse_points.select(used, _CENTRES, "farthest") if len(used) else used
    missing = np.broadcast_to(alone, (_CENTRES - len(far), len(alone)))
    return np.concatenate([alone[None], mean[None], far, missing])


def whitening(
    covariance: Float[np.ndarray, "points points"], jitter: float
) -> Float[np.ndarray, "points points"]:
    """`L⁻ᵀ` with `L Lᵀ = K + jitter · mean(diag K) · 1`, in float64.

    Raises:
        UserError: where that matrix is not positive definite.
    """
    size = len(covariance)
    diagonal = jitter * float(np.mean(np.diag(covariance))) * np.eye(size)
    try:
        lower = np.linalg.cholesky(covariance + diagonal)
    except np.linalg.LinAlgError as error:
        raise UserError(
            f"gaussian_process.jitter: {size} sparse points are dependent with a jitter of "
            f"{jitter}; give a larger one, or fewer points."
        ) from error
    return scipy.linalg.solve_triangular(lower, np.eye(size), lower=True).T


def _spread(shape: tuple[int, int, int]) -> Array:
    """Points before calibration: unit vectors that differ."""
    rows = np.random.default_rng(0).normal(size=shape[1:])
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return jnp.broadcast_to(jnp.asarray(rows), shape)


def _identities(shape: tuple[int, int, int]) -> Array:
    return jnp.broadcast_to(jnp.eye(shape[1]), (shape[0], shape[1], shape[1]))
