"""Figures of properties: of crystals, and of trajectories."""

from typing import Any

import numpy as np
from matplotlib import ticker
from matplotlib.figure import Figure

from mlip_jax import units
from mlip_jax.properties.angles import AngularDistribution
from mlip_jax.properties.barrier import Barrier
from mlip_jax.properties.defects import Defect
from mlip_jax.properties.elastic import VOIGT, ElasticConstants
from mlip_jax.properties.equation_of_state import EquationOfState, curve
from mlip_jax.properties.green_kubo import W_M_K, Conductivity
from mlip_jax.properties.lattice_dynamics import LatticeDynamics
from mlip_jax.properties.moduli import directional_young
from mlip_jax.properties.panels import finish, grid
from mlip_jax.properties.structure import RadialDistribution
from mlip_jax.properties.transport import Diffusion, Spectrum

_COLOR, _DARK, _SECOND = "#2f6fb2", "#333333", "#d1495b"
_PLANES = {"xy": (0, 1), "yz": (1, 2), "xz": (0, 2)}


def elastic(found: ElasticConstants) -> Figure:
    """The matrix of elastic constants, and Young's modulus along the directions of three planes."""
    stiffness = np.asarray(found.stiffness) / units.GPA
    figure = Figure(figsize=(9.0, 4.0), layout="constrained")
    left = figure.add_subplot(1, 2, 1)
    limit = np.abs(stiffness).max()
    left.imshow(stiffness, cmap="RdBu_r", vmin=-1.6 * limit, vmax=1.6 * limit)
    for i in range(6):
        for j in range(6):
            shown = 0.0 if abs(stiffness[i, j]) < 0.05 else stiffness[i, j]
            left.text(j, i, f"{shown:.1f}", ha="center", va="center", fontsize=8)
    names = ["xyz"[a] + "xyz"[b] for a, b in VOIGT]
    left.set_xticks(range(6), names)
    left.set_yticks(range(6), names)
    left.set_title("elastic constants [GPa]")
    right = figure.add_subplot(1, 2, 2, projection="polar")
    angles = np.linspace(0.0, 2.0 * np.pi, 361)
    for (name, (a, b)), style in zip(_PLANES.items(), ("-", "--", ":"), strict=True):
        directions = np.zeros((len(angles), 3))
        directions[:, a], directions[:, b] = np.cos(angles), np.sin(angles)
        right.plot(angles, directional_young(stiffness, directions), style, label=f"{name} plane")
    right.yaxis.set_major_locator(ticker.MaxNLocator(4))
    right.set_title("Young's modulus [GPa]")
    right.legend(frameon=False, loc="lower left", bbox_to_anchor=(-0.2, -0.12), fontsize=8)
    return figure


def equation_of_state(found: EquationOfState, atoms: int) -> Figure:
    """Energies and pressures against the volume, each of an atom, with the curve through them.

    Args:
        found: of a cell.
        atoms: in the cell.
    """
    figure, (left, right) = grid(2, height=3.6)
    volumes = np.linspace(found.volumes.min(), found.volumes.max(), 201)
    energies, pressures = (np.asarray(values) for values in curve(found, volumes))
    left.plot(volumes / atoms, energies / atoms, color=_COLOR, label="Birch-Murnaghan")
    left.plot(found.volumes / atoms, found.energies / atoms, "o", color=_DARK, label="potential")
    finish(left, "volume [Å$^3$/atom]", "energy [eV/atom]")
    right.plot(volumes / atoms, pressures / units.GPA, color=_COLOR)
    right.axhline(0.0, color=_DARK, linewidth=0.8)
    finish(right, "volume [Å$^3$/atom]", "pressure [GPa]")
    return figure


def phonons(found: LatticeDynamics) -> Figure:
    """Bands and density of states side by side, and the thermodynamics below."""
    figure = Figure(figsize=(9.0, 7.0), layout="constrained")
    places = figure.add_gridspec(2, 3, height_ratios=(3, 2), width_ratios=(1, 1, 1))
    bands = figure.add_subplot(places[0, :2])
    _bands(bands, found)
    dos = figure.add_subplot(places[0, 2], sharey=bands)
    dos.plot(found.dos, found.dos_frequencies, color=_COLOR)
    dos.fill_betweenx(found.dos_frequencies, 0.0, found.dos, color=_COLOR, alpha=0.15)
    finish(dos, "density of states [1/THz]", "")
    thermal = found.thermodynamics
    atoms = found.primitive.num_atoms
    columns = (
        (1e3 * thermal.free_energies / atoms, "free energy [meV/atom]"),
        (thermal.entropies / units.BOLTZMANN / atoms, "entropy [k$_B$/atom]"),
        (thermal.heat_capacities / units.BOLTZMANN / atoms, "heat capacity [k$_B$/atom]"),
    )
    for column, (values, name) in enumerate(columns):
        panel = figure.add_subplot(places[1, column])
        panel.plot(thermal.temperatures, values, color=_COLOR)
        finish(panel, "temperature [K]", name)
    return figure


def radial_distribution(found: RadialDistribution) -> Figure:
    """The function, and the number of neighbours within a distance."""
    figure, (left, right) = grid(2, height=3.6)
    left.plot(found.distances, found.values, color=_COLOR)
    left.axhline(1.0, color=_DARK, linewidth=0.8)
    finish(left, "distance [Å]", "g(r)")
    right.plot(found.distances, found.neighbors, color=_COLOR)
    finish(right, "distance [Å]", "neighbours within")
    return figure


def angular_distribution(found: AngularDistribution) -> Figure:
    """The distribution over angles."""
    figure, (panel,) = grid(1, height=3.6)
    panel.plot(found.angles, found.values, color=_COLOR)
    panel.set_xticks(range(0, 181, 30))
    finish(panel, "angle [degrees]", "density [1/degree]")
    return figure


def diffusion(found: Diffusion) -> Figure:
    """Mean square displacements with their errors, the line, and the same on logarithmic axes."""
    figure, (left, right) = grid(2, height=3.6)
    times, curve = 1e-3 * found.lags, found.displacements
    begin, end = np.searchsorted(found.lags, found.window)
    left.fill_between(times, curve - found.errors, curve + found.errors, color=_COLOR, alpha=0.2)
    left.plot(times, curve, color=_COLOR, label="mean over atoms and frames")
    ends = times[[begin, end]]
    line = found.intercept + 2 * found.dimensions * found.coefficient * np.array(found.window)
    left.plot(ends, line, "--", color=_DARK, label="line")
    finish(left, "lag [ps]", "mean square displacement [Å$^2$]")
    right.plot(times[1:], curve[1:], color=_COLOR)
    middle = (begin + end) // 2
    right.plot(ends, curve[middle] / times[middle] * ends, "--", color=_DARK, label="slope 1")
    finish(right, "lag [ps]", "mean square displacement [Å$^2$]", log="xy")
    return figure


def vibrations(correlation: Any, spectrum: Spectrum, interval: float) -> Figure:
    """The autocorrelation of velocities, and its spectrum; `interval` [fs] between frames."""
    figure, (left, right) = grid(2, height=3.6)
    left.plot(1e-3 * interval * np.arange(len(correlation)), correlation, color=_COLOR)
    left.axhline(0.0, color=_DARK, linewidth=0.8)
    finish(left, "lag [ps]", "velocity autocorrelation")
    right.plot(spectrum.frequencies, spectrum.density, color=_COLOR)
    finish(right, "frequency [THz]", "density of states [1/THz]")
    return figure


def conductivity(found: Conductivity) -> Figure:
    """The running integral with its errors, and the spectrum of the flux; lines: the value."""
    figure, (left, right) = grid(2, height=3.6)
    times, value = 1e-3 * found.lags, W_M_K * found.value
    curve, errors = W_M_K * found.running, W_M_K * found.running_errors
    left.fill_between(times, curve - errors, curve + errors, color=_COLOR, alpha=0.2)
    left.plot(times, curve, color=_COLOR, label="integral of the autocorrelation")
    error = W_M_K * found.error
    left.axhspan(value - error, value + error, color=_SECOND, alpha=0.15)
    left.axhline(value, color=_SECOND, linewidth=1.0, label="cepstral")
    finish(left, "lag [ps]", "thermal conductivity [W/(m K)]")
    right.plot(found.frequencies, W_M_K * found.spectrum, color=_COLOR, alpha=0.4, linewidth=0.6,
               label="spectrum")  # fmt: skip
    right.plot(found.frequencies, W_M_K * found.smooth, color=_SECOND, label="cepstral")
    finish(right, "frequency [THz]", "spectrum of the flux [W/(m K)]", log="y")
    return figure


def defect(found: Defect, where: str) -> Figure:
    """How far atoms have moved, by their distances from a defect; `where` names these."""
    figure, (panel,) = grid(1, height=3.6)
    panel.plot(found.distances, found.displacements, "o", color=_COLOR, markersize=4, alpha=0.7)
    finish(panel, f"{where} [Å]", "displacement [Å]")
    return figure


def barrier(found: Barrier) -> Figure:
    """Energy along the path."""
    figure, (panel,) = grid(1, height=3.6)
    panel.plot(found.path, found.energies, "o-", color=_COLOR, markersize=4)
    panel.axhline(found.forward, color=_SECOND, linewidth=0.8, linestyle=":")
    finish(panel, "path [Å]", "energy [eV]")
    return figure


def _bands(panel: Any, found: LatticeDynamics) -> None:
    """Lines of the path one after the other; a break in the path has two names."""
    reciprocal = np.linalg.inv(found.primitive.cell).T
    start, ticks, names = 0.0, [], []
    for line, values in zip(found.path.lines, found.bands, strict=True):
        steps = np.linalg.norm(np.diff(line.points @ reciprocal, axis=0), axis=1)
        along = start + np.concatenate([[0.0], np.cumsum(steps)])
        panel.plot(along, values, color=_COLOR, linewidth=1.0)
        if ticks and names[-1] != line.start:
            names[-1] = f"{names[-1]}|{line.start}"
        elif not ticks:
            ticks, names = [start], [line.start]
        ticks, names, start = [*ticks, along[-1]], [*names, line.end], along[-1]
    for tick in ticks:
        panel.axvline(tick, color=_DARK, linewidth=0.5, alpha=0.5)
    panel.axhline(0.0, color=_SECOND if not found.stable else _DARK, linewidth=0.8)
    finish(panel, "", "frequency [THz]; negative: imaginary" if not found.stable else
           "frequency [THz]")  # fmt: skip
    panel.set_xticks(ticks, [name.replace("G", "Γ") for name in names])
    panel.set_xlim(0.0, start)
    if found.stable:
        panel.set_ylim(bottom=0.0)
