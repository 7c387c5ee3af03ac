"""SOAP: the power spectrum of the smoothed neighbour density of each atom.

A. P. Bartók, R. Kondor, G. Csányi, Phys. Rev. B 87, 184115 (2013). The density of the neighbours of
each element, atoms smeared as Gaussians and weighted with a cutoff function, is expanded as

    c_(s n) lm = Σ_j f_c(r_j) R_nl(r_j) Y_lm(r̂_j),        p_abl = Σ_m c_a lm c_b lm / sqrt(2l + 1)

where a and b stand for an element s and a radial function n. The conventions are those of QUIP: the
centre atom is part of the density, spectra are normalised, pairs a ≥ b stand for both orders.

Of many elements the densities can be mixed into few channels before products are taken,

    c_(κ n) lm = Σ_s u_sκ c_(s n) lm,

so that the size of the spectrum does not grow with their number: the mixing of elements of M. J.
Willatt, F. Musil, M. Ceriotti, Phys. Chem. Chem. Phys. 20, 29661 (2018), with fixed vectors u.
J. P. Darby, J. R. Kermode, G. Csányi, npj Comput. Mater. 8, 166 (2022) compare ways to compress.
"""

import functools
import math

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mlip_jax.config import UserError
from mlip_jax.descriptors.envelopes import transition
from mlip_jax.descriptors.soap_radial import RadialBasis, RadialSettings, radial_functions
from mlip_jax.elements import species_index
from mlip_jax.graph import AtomicGraph, edge_vectors, map_atom_blocks, prefix_length, safe_norm
from mlip_jax.nn import angular, chebyshev


class SOAP(nn.Module):
    """Power spectrum of each atom, with the names of QUIP (`soap`).

    Attributes:
        species: atomic numbers; each has densities of its own.
        cutoff: Å.
        n_max: radial functions.
        l_max: highest degree of the harmonics.
        atom_sigma: Å, width of an atom.
        cutoff_transition_width: Å, over which the weight of neighbours falls to 0, as a cosine.
        central_weight: of the atom itself in the density of its element.
        normalise: spectra are vectors of unit length.
        covariance_sigma0: a last feature with this value, after normalisation.
        basis_error_exponent: of the basis `gaussian`: its end, see `soap_radial`.
        radial_basis: `gaussian` (QUIP: equally spaced Gaussians), or DScribe's `gto` or
            `polynomial`; Himanen et al., Comput. Phys. Commun. 247, 106949 (2020).
        element_channels: channels that the densities of the elements are mixed into; `None`: each
            element is a channel of its own.
        element_weights: u, a row for each element with as many numbers as there are channels.
            `None`: unit vectors drawn at random, that of an element the same in every model.
    """

    species: tuple[int, ...] | None = None
    cutoff: float = 5.0
    n_max: int = 8
    l_max: int = 6
    atom_sigma: float = 0.5
    cutoff_transition_width: float = 0.5
    central_weight: float = 1.0
    normalise: bool = True
    covariance_sigma0: float = 0.0
    basis_error_exponent: float = 10.0
    radial_basis: RadialBasis = "gaussian"
    element_channels: int | None = None
    element_weights: tuple[tuple[float, ...], ...] | None = None

    def __call__(self, graph: AtomicGraph) -> Float[Array, "atoms features"]:
        """Spectra in QUIP's order: pairs a ≥ b (by channel, then n), of each l = 0 … `l_max`.

        Raises:
            UserError: for fields that are not filled in or impossible.
        """
        return map_atom_blocks(self.environment, graph, *self.pairs(graph))

    def pairs(self, graph: AtomicGraph) -> tuple[Array, Array, Array]:
        """Pair vectors [Å], elements of neighbours and of atoms: what features depend on."""
        element = species_index(graph.atomic_numbers, self._checked_species())
        k = prefix_length(graph, self.cutoff)
        return edge_vectors(graph)[:, :k], element[graph.neighbors[:, :k]], element

    def environment(
        self, vectors: Array, neighbor: Array, own: Array
    ) -> Float[Array, "atoms features"]:
        """Features of some atoms, from their rows of `pairs`."""
        return self._spectrum(self._expansion(vectors, neighbor, own))

    def _expansion(self, vectors: Array, neighbor: Array, own: Array) -> list[Array]:
        """Coefficients c of every degree, `[atoms, channels * n_max, 2l + 1]`."""
        weights = self._weights()
        r = safe_norm(vectors)
        x = jnp.minimum(r / self.cutoff, 1.0)
        even, odd = self._radial(x, r)
        units = vectors / jnp.where(r > 0.0, r, 1.0)[..., None]
        mixed = jnp.asarray(weights, r.dtype)[neighbor]
        expansion = []
        for l, harmonics in enumerate(angular.spherical_harmonics(units, self.l_max)):
            radial = (odd if l % 2 else even)[..., l // 2, :]
            if weights.shape != (1, 1):
                radial = (mixed[..., None] * radial[..., None, :]).reshape(*r.shape, -1)
            expansion.append(jnp.einsum("ijn,ijm->inm", radial, harmonics))
        expansion[0] = expansion[0] + jnp.asarray(self._centre(), r.dtype)[own][..., None]
        return expansion

    def atomic_basis(
        self, vectors: Array, neighbor: Array, own: Array
    ) -> Float[Array, "atoms basis"]:
        """Coefficients of all degrees, sums over neighbours and the atom itself."""
        parts = self._expansion(vectors, neighbor, own)
        return jnp.concatenate([part.reshape(len(part), -1) for part in parts], axis=1)

    def from_atomic_basis(
        self, basis: Float[Array, "atoms basis"]
    ) -> Float[Array, "atoms features"]:
        """Spectra, products of what `atomic_basis` gives."""
        channels = self._weights().shape[1] * self.n_max
        orders = 2 * np.arange(self.l_max + 1) + 1
        parts = jnp.split(basis, np.cumsum(channels * orders)[:-1].tolist(), axis=1)
        return self._spectrum(
            [part.reshape(-1, channels, m) for part, m in zip(parts, orders.tolist(), strict=True)]
        )

    def _radial(self, x: Array, r: Array) -> tuple[Array, Array]:
        """`f_c R_nl` of even and odd degrees, `[atoms, max_neighbors, degrees, n_max]`."""
        table = _table(self._settings, float(jnp.finfo(r.dtype).eps))
        terms, degrees, n_max = table.shape
        weight = transition(r, self.cutoff, self.cutoff_transition_width)
        weighted = chebyshev.polynomials(2.0 * x * x - 1.0, terms, weight)
        flat = jnp.asarray(table.reshape(terms, degrees * n_max), r.dtype)
        values = jnp.einsum("kij,kc->ijc", weighted, flat).reshape(*r.shape, degrees, n_max)
        split = (degrees + 1) // 2
        return values[..., :split, :], values[..., split:, :] * x[..., None, None]

    def _spectrum(self, expansion: list[Array]) -> Array:
        """Features of atoms, `[atoms, pairs * degrees (+ 1)]`."""
        products = jnp.stack([jnp.einsum("iam,ibm->iab", c, c) for c in expansion], axis=-1)
        rows, columns = np.tril_indices(products.shape[1])
        factors = _factors(products.shape[1], self.l_max)
        spectrum = products[:, rows, columns] * jnp.asarray(factors, products.dtype)[None]
        spectrum = spectrum.reshape(len(spectrum), -1)
        if self.normalise:
            spectrum = _normalised(spectrum)
        last = jnp.full((len(spectrum), 1), self.covariance_sigma0, spectrum.dtype)
        return jnp.concatenate([spectrum, last], axis=1)

    def isolated_features(self) -> Float[np.ndarray, "elements features"]:
        """Features of an isolated atom of each element: those of its own density."""
        centre = self._centre()
        products = np.zeros((*centre.shape, centre.shape[1], self.l_max + 1))
        products[..., 0] = centre[:, :, None] * centre[:, None, :]
        rows, columns = np.tril_indices(centre.shape[1])
        spectra = products[:, rows, columns] * _factors(centre.shape[1], self.l_max)
        spectra = spectra.reshape(len(centre), -1)
        if self.normalise and self.central_weight != 0.0:
            spectra = spectra / np.linalg.norm(spectra, axis=1, keepdims=True)
        last = np.full((len(centre), 1), self.covariance_sigma0)
        return np.concatenate([spectra, last], axis=1)

    def _centre(self) -> Float[np.ndarray, "elements channels"]:
        """What the atom itself adds to c of l = 0, by its element."""
        at_centre = radial_functions(np.zeros(1), self._settings)[0, 0]
        alone = at_centre * (self.central_weight / math.sqrt(4.0 * math.pi))
        return np.kron(self._weights(), alone[None, :])

    def _weights(self) -> Float[np.ndarray, "elements channels"]:
        """u; the unit matrix where every element is a channel."""
        species, channels = self._checked_species(), self.element_channels
        if channels is None:
            return np.eye(len(species))
        if self.element_weights is not None:
            return np.array(self.element_weights)
        rows = np.stack([np.random.default_rng(z).normal(size=channels) for z in species])
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    @property
    def _settings(self) -> RadialSettings:
        return RadialSettings(
            self.radial_basis,
            self.n_max,
            self.l_max,
            self.cutoff,
            self.atom_sigma,
            self.basis_error_exponent,
        )

    def _checked_species(self) -> tuple[int, ...]:
        if self.species is None:
            raise UserError(
                "soap: got no species; expected atomic numbers. Give species, or let training take "
                "them from the data."
            )
        if not 0.0 < self.cutoff_transition_width <= self.cutoff:
            raise UserError(
                f"soap.cutoff_transition_width: got {self.cutoff_transition_width} Å; expected a "
                f"positive width of at most the cutoff, {self.cutoff} Å."
            )
        if self.n_max < 1 or self.l_max < 0 or self.atom_sigma <= 0.0:
            raise UserError(
                f"soap: got n_max = {self.n_max}, l_max = {self.l_max}, atom_sigma = "
                f"{self.atom_sigma} Å; expected n_max >= 1, l_max >= 0 and a positive width."
            )
        if self.element_channels is not None or self.element_weights is not None:
            self._check_channels(self.species)
        return self.species

    def _check_channels(self, species: tuple[int, ...]) -> None:
        channels = self.element_channels or 0
        rows = self.element_weights or ((1.0,) * channels,) * len(species)
        if channels < 1 or len(rows) != len(species) or {len(row) for row in rows} != {channels}:
            raise UserError(
                f"soap: got element_channels = {self.element_channels} and element_weights of "
                f"{len(rows)} rows; expected at least one channel, and a row of as many numbers "
                f"for each of the {len(species)} elements."
            )


@functools.cache
def _table(settings: RadialSettings, precision: float) -> Float[np.ndarray, "terms degrees n_max"]:
    """Series in `T_k(2 (r / r_c)² - 1)` of R_nl, even degrees before odd ones.

    Those of odd degrees are divided by `r / r_c`; with `sqrt(4π)` the harmonics are orthonormal.
    """

    def functions(y: np.ndarray) -> np.ndarray:
        x = np.sqrt(0.5 * (1.0 + y))
        values = radial_functions(settings.cutoff * x, settings) / math.sqrt(4.0 * math.pi)
        return np.concatenate([values[:, ::2], values[:, 1::2] / x[:, None, None]], axis=1)

    try:
        return chebyshev.series(functions, precision)
    except (ValueError, np.linalg.LinAlgError) as error:
        raise UserError(
            f"soap: got atom_sigma = {settings.atom_sigma} Å with a cutoff of {settings.cutoff} Å "
            f"and n_max = {settings.n_max}; expected wider atoms, or fewer radial functions "
            f"({error})."
        ) from error


@functools.cache
def _factors(channels: int, l_max: int) -> Float[np.ndarray, "pairs degrees"]:
    """`1 / sqrt(2l + 1)`, times `sqrt(2)` for a pair a > b, which stands for (b, a) too."""
    rows, columns = np.tril_indices(channels)
    both = np.where(rows == columns, 1.0, math.sqrt(2.0))
    return both[:, None] / np.sqrt(2.0 * np.arange(l_max + 1) + 1.0)[None, :]


def _normalised(spectrum: Float[Array, "atoms _"]) -> Float[Array, "atoms _"]:
    """Vectors of unit length; zero stays zero (an atom without neighbours and central weight)."""
    squares = jnp.sum(spectrum * spectrum, axis=-1, keepdims=True)
    return spectrum / jnp.sqrt(jnp.where(squares > 0.0, squares, 1.0))
