"""Diffusion, correlation of velocities and vibrational spectra of trajectories.

Sums over all pairs of frames are correlations, done by Fourier transforms: G. R. Kneller, V.
Keiner, M. Kneller & M. Schiller, Comput. Phys. Commun. 91, 191 (1995). All functions but
`diffusion` and `without_drift` are pure, can be jitted, and differentiated by what they are given.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mlip_jax.config import UserError
from mlip_jax.inference import require_precision


class Diffusion(NamedTuple):
    """Mean square displacements, and the line through them.

    Attributes:
        lags: fs.
        displacements: mean square displacement of an atom at each lag, Å^2.
        errors: standard error of these from parts of the trajectory, Å^2.
        coefficient: D, Å^2/fs.
        error: standard error of D from parts of the trajectory.
        window: lags that D was fitted to, fs.
        intercept: of the line, Å^2.
        dimensions: d, of `2 d D t`, the line's slope.
    """

    lags: Float[np.ndarray, " lags"]
    displacements: Float[np.ndarray, " lags"]
    errors: Float[np.ndarray, " lags"]
    coefficient: float
    error: float
    window: tuple[float, float]
    intercept: float
    dimensions: int


class Spectrum(NamedTuple):
    """A vibrational spectrum.

    Attributes:
        frequencies: THz.
        density: 1/THz; its integral over all frequencies is 1.
    """

    frequencies: Float[Array, " frequencies"]
    density: Float[Array, " frequencies"]


def mean_square_displacements(
    positions: Float[Array, "frames atoms 3"], lags: int
) -> Float[Array, " lags"]:
    """`<|r(t + lag) - r(t)|²>` over atoms and all frames t, Å^2, for lags of 0, 1, … frames.

    Args:
        positions: Å, not wrapped.
        lags: how many; at most the number of frames.
    """
    frames = len(positions)
    moved = positions - jnp.mean(positions, axis=0, keepdims=True)
    squares = jnp.mean(jnp.sum(moved**2, axis=-1), axis=1)
    until = jnp.concatenate([jnp.zeros_like(squares[:1]), jnp.cumsum(squares)])
    lag = np.arange(lags)
    both = until[frames - lag] + until[-1] - until[lag]
    return both / (frames - lag) - 2.0 * correlations(moved, lags)


def correlations(values: Float[Array, "frames atoms 3"], lags: int) -> Float[Array, " lags"]:
    """`<a(t) · a(t + lag)>` over atoms and all frames t, for lags of 0, 1, … frames."""
    frames = len(values)
    # Zeros behind the frames keep the end of the series from meeting its beginning.
    transformed = jnp.fft.rfft(values, n=2 * frames, axis=0)
    power = jnp.sum(transformed.real**2 + transformed.imag**2, axis=(1, 2))
    sums = jnp.fft.irfft(power, n=2 * frames)[:lags]
    return sums / (frames - np.arange(lags)) / values.shape[1]


def velocity_autocorrelation(
    momenta: Float[Array, "frames atoms 3"], masses: Float[Array, " atoms"], lags: int
) -> Float[Array, " lags"]:
    """Mass-weighted autocorrelation of velocities, over its value at no lag.

    Args:
        momenta: sqrt(amu eV).
        masses: amu.
        lags: frames, from 0 on.
    """
    found = correlations(momenta / jnp.sqrt(masses)[None, :, None], lags)
    return found / found[0]


def vibrational_spectrum(autocorrelation: Float[Array, " lags"], interval: float) -> Spectrum:
    """Density of states of vibrations: the cosine transform of an autocorrelation.

    The autocorrelation is faded out by half of Hann's window, so that lines are about as wide as
    one over its longest lag. In a harmonic crystal this is the phonon density of states (J. M.
    Dickey & A. Paskin, Phys. Rev. 188, 1407 (1969)).

    Args:
        autocorrelation: of velocities, 1 at no lag.
        interval: fs between frames.
    """
    lags = len(autocorrelation)
    faded = autocorrelation * np.cos(0.5 * np.pi * np.arange(lags) / lags) ** 2
    even = jnp.concatenate([faded, jnp.zeros_like(faded[:1]), faded[:0:-1]])
    picoseconds = 1e-3 * interval
    density = 2.0 * picoseconds * jnp.real(jnp.fft.rfft(even))
    return Spectrum(jnp.fft.rfftfreq(2 * lags, picoseconds), density)


def without_drift(
    values: Float[np.ndarray, "frames atoms 3"], weights: Float[np.ndarray, " atoms"]
) -> Float[np.ndarray, "frames atoms 3"]:
    """Vectors less their weighted mean over atoms: positions weighted by masses."""
    return values - np.average(values, axis=1, weights=weights)[:, None, :]


def diffusion(
    positions: Float[np.ndarray, "frames atoms 3"],
    interval: float,
    *,
    parts: int = 5,
    window: tuple[float, float] = (0.2, 1.0),
    dimensions: int = 3,
) -> Diffusion:
    """The coefficient of diffusion by Einstein's relation, `<|Δr|²> = 2 d D t`.

    Lags go to half of a part, of which there are several one after the other; errors are those of
    the mean of the parts, which are taken as independent. At short lags atoms fly or rattle: look
    at the plot, and choose a window in which the curve is a line.

    Args:
        positions: Å, not wrapped; of the atoms in question, without drift.
        interval: fs between frames.
        parts: into which the trajectory is cut, 2 or more.
        window: part of the lags that the line is fitted to.
        dimensions: d, in which atoms move.

    Raises:
        UserError: for too few frames, or an impossible window.
    """
    if parts < 2 or not 0.0 <= window[0] < window[1] <= 1.0:
        raise UserError(
            f"diffusion: got {parts} parts and window {window}; expected two or more, and "
            "0 <= begin < end <= 1."
        )
    require_precision("float64")
    length = len(positions) // parts
    lags = length // 2 + 1
    first, last = int(np.ceil(window[0] * (lags - 1))), int(np.floor(window[1] * (lags - 1)))
    if last - first < 2:
        raise UserError(
            f"diffusion: got {len(positions)} frames in {parts} parts; the window {window} has "
            f"{max(last - first + 1, 0)} lags, expected 3 or more. Give more frames, fewer parts, "
            "or a wider window."
        )
    whole = np.asarray(mean_square_displacements(jnp.asarray(positions), lags))
    pieces = [jnp.asarray(positions[i * length : (i + 1) * length]) for i in range(parts)]
    curves = np.array([mean_square_displacements(piece, lags) for piece in pieces])
    times = interval * np.arange(lags)
    chosen = slice(first, last + 1)

    def line(curve: np.ndarray) -> tuple[float, float]:
        slope, intercept = np.polyfit(times[chosen], curve[chosen], 1)
        return float(slope) / (2 * dimensions), float(intercept)

    coefficient, intercept = line(whole)
    single = np.array([line(curve)[0] for curve in curves])
    return Diffusion(
        lags=times,
        displacements=whole,
        errors=np.std(curves, axis=0, ddof=1) / np.sqrt(parts),
        coefficient=coefficient,
        error=float(np.std(single, ddof=1) / np.sqrt(parts)),
        window=(float(times[first]), float(times[last])),
        intercept=intercept,
        dimensions=dimensions,
    )
