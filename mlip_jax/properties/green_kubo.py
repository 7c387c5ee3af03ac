"""Thermal conductivity from the fluctuations of the flux of heat in equilibrium.

Green and Kubo: `κ = 1 / (3 V k_B T²) ∫ <J(0) · J(t)> dt`, the mean over three directions; once as
the integral up to a lag, once as the power spectrum at frequency zero, whose logarithm is smoothed
by few cepstral coefficients (L. Ercole, A. Marcolongo & S. Baroni, Sci. Rep. 7, 15835 (2017)). The
second one says how many coefficients are needed, and how large the error is.

Right for solids, and for fluids of one element; with several diffusing elements other currents
have to be taken off first.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.scipy import special
from jaxtyping import Float

from mlip_jax import units
from mlip_jax.config import UserError
from mlip_jax.inference import require_precision
from mlip_jax.properties.transport import correlations

W_M_K = units.ELEMENTARY_CHARGE / (1e-15 * 1e-10)
"""One eV/(fs Å K) in W/(m K)."""

_FEWEST = 40
"""Frequencies below the limit that an error estimate asks for."""


class Conductivity(NamedTuple):
    """Thermal conductivity [eV/(fs Å K)], and what it was taken from.

    Attributes:
        value: of the cepstral analysis.
        error: its standard error, were the number of coefficients given; with the number taken
            from the same series, values were seen to scatter by 1.3 to 1.8 times as much.
        coefficients: number of cepstral coefficients kept.
        frequencies: THz.
        spectrum: the flux's power spectrum as conductivity, its noise included.
        smooth: the same spectrum with those coefficients only; its first value is `value`.
        lags: fs.
        running: integral of the autocorrelation up to each lag.
        running_errors: standard error of these, from parts of the series.
    """

    value: float
    error: float
    coefficients: int
    frequencies: Float[np.ndarray, " frequencies"]
    spectrum: Float[np.ndarray, " frequencies"]
    smooth: Float[np.ndarray, " frequencies"]
    lags: Float[np.ndarray, " lags"]
    running: Float[np.ndarray, " lags"]
    running_errors: Float[np.ndarray, " lags"]


def conductivity(
    fluxes: Float[np.ndarray, "frames 3"],
    interval: float,
    volume: float,
    temperature: float,
    *,
    highest: float | None = None,
    longest: float | None = None,
    parts: int = 5,
) -> Conductivity:
    """Thermal conductivity of an isotropic system.

    Args:
        fluxes: J of equally spaced frames, eV Å/fs; not over the volume.
        interval: fs between frames.
        volume: Å^3.
        temperature: K, the mean of the run.
        highest: THz, frequencies up to which the spectrum is looked at: a few times the highest
            vibration at most, else noise beyond it is fitted; all where not given.
        longest: fs, of the running integral; a tenth of the series where not given.
        parts: into which the series is cut for the errors of the running integral.

    Raises:
        UserError: for a series that is too short, numbers that are not positive, or float64 where
            jax is limited to 32 bits.
    """
    require_precision("float64")
    fluxes = np.asarray(fluxes, np.float64)
    _check(fluxes, interval, volume, temperature, parts)
    scale = 1.0 / (volume * units.BOLTZMANN * temperature**2)
    frequencies, spectrum = _periodogram(fluxes, interval, scale, highest)
    value, error, kept, smooth = _cepstral(spectrum, directions=fluxes.shape[1])
    lags = _lags(len(fluxes), interval, longest, parts)
    running = _running(fluxes, interval, scale, lags)
    length = len(fluxes) // parts
    pieces = [fluxes[i * length : (i + 1) * length] for i in range(parts)]
    curves = np.array([_running(piece, interval, scale, lags) for piece in pieces])
    return Conductivity(
        value=value,
        error=error,
        coefficients=kept,
        frequencies=frequencies,
        spectrum=spectrum,
        smooth=smooth,
        lags=interval * np.arange(lags),
        running=running,
        running_errors=np.std(curves, axis=0, ddof=1) / np.sqrt(parts),
    )


def _periodogram(
    fluxes: np.ndarray, interval: float, scale: float, highest: float | None
) -> tuple[np.ndarray, np.ndarray]:
    """Frequencies [THz] up to a limit, and half of the spectrum at each, the mean of directions."""
    frames = len(fluxes)
    power = np.abs(np.fft.rfft(fluxes - fluxes.mean(axis=0), axis=0)) ** 2
    spectrum = 0.5 * scale * interval / frames * power.mean(axis=1)
    frequencies = np.fft.rfftfreq(frames, 1e-3 * interval)
    # The mean was taken off: the value at zero says nothing, its neighbour stands for it.
    spectrum[0] = spectrum[1]
    limit = frequencies[-1] if highest is None else highest
    within = frequencies <= limit
    if np.count_nonzero(within) < _FEWEST:
        raise UserError(
            f"conductivity: got {np.count_nonzero(within)} frequencies up to {limit:g} THz; "
            f"expected {_FEWEST} or more. Give a longer series, or a higher limit."
        )
    return frequencies[within], spectrum[within]


def _cepstral(spectrum: np.ndarray, directions: int) -> tuple[float, float, int, np.ndarray]:
    """Value at zero, standard error, number of coefficients, smooth spectrum.

    Ercole et al. (2017), eqs. 13 to 20: the logarithm of a spectrum averaged over ℓ directions
    scatters by ψ'(ℓ) about its mean plus ψ(ℓ) - log ℓ, at every frequency alike. Akaike's criterion
    says where coefficients become noise.
    """
    logarithm = np.log(np.maximum(spectrum, np.finfo(float).tiny))
    # Even about both ends, as the whole spectrum is.
    whole = np.concatenate([logarithm, logarithm[-2:0:-1]])
    size = len(whole)
    cepstrum = np.fft.ifft(whole).real[: len(logarithm)]
    scatter = float(special.polygamma(1, float(directions)))
    variance = scatter / size * np.where(np.arange(len(cepstrum)) == 0, 2.0, 1.0)
    # What is left out, against its variance, and twice the number that is kept.
    excess = np.append(np.cumsum((cepstrum**2 / variance)[::-1])[::-1][1:], 0.0)
    kept = int(np.argmin(excess + 2.0 * np.arange(1, len(cepstrum) + 1))) + 1
    chosen = np.where(np.arange(len(cepstrum)) < kept, cepstrum, 0.0)
    padded = np.concatenate([chosen, chosen[-2:0:-1]])
    bias = float(special.digamma(float(directions))) - np.log(directions)
    smooth = np.exp(np.fft.fft(padded).real[: len(logarithm)] - bias)
    error = float(smooth[0] * np.sqrt((4 * kept - 2) / size * scatter))
    return float(smooth[0]), error, kept, smooth


def _running(fluxes: np.ndarray, interval: float, scale: float, lags: int) -> np.ndarray:
    """Integral of the autocorrelation up to each lag (trapezia), mean of the directions."""
    # `correlations` takes atoms with three components: the flux is that of one.
    values = jnp.asarray((fluxes - fluxes.mean(axis=0))[:, None, :])
    found = np.asarray(correlations(values, lags)) / fluxes.shape[1]
    steps = 0.5 * (found[1:] + found[:-1])
    return scale * interval * np.concatenate([[0.0], np.cumsum(steps)])


def _lags(frames: int, interval: float, longest: float | None, parts: int) -> int:
    part = frames // parts
    lags = part // 2 if longest is None else int(longest / interval) + 1
    if not 2 <= lags <= part:
        raise UserError(
            f"conductivity: {frames} frames, {interval:g} fs apart, in {parts} parts allow lags "
            f"up to {(part - 1) * interval:g} fs; got {longest} fs. Change it, or give more frames."
        )
    return lags


def _check(
    fluxes: np.ndarray, interval: float, volume: float, temperature: float, parts: int
) -> None:
    for name, value in (
        ("interval", interval),
        ("volume", volume),
        ("temperature", temperature),
    ):
        if not value > 0.0:
            raise UserError(f"conductivity: got {name} {value:g}; expected a positive number.")
    if parts < 2 or len(fluxes) < 4 * parts:
        raise UserError(
            f"conductivity: got {len(fluxes)} frames in {parts} parts; expected two parts or more, "
            "of four frames or more each."
        )
    if not np.all(np.isfinite(fluxes)):
        frame = int(np.argmax(~np.all(np.isfinite(fluxes), axis=1)))
        raise UserError(f"conductivity: the flux of frame {frame} is {fluxes[frame]}.")
