# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Phonons and thermal conductivity of silicon from three families of potential
#
# [SNAP](https://doi.org/10.1016/j.jcp.2014.12.018), an [atomic cluster
# expansion](https://doi.org/10.1103/PhysRevB.99.014104) and a network of [Behler and
# Parrinello](https://doi.org/10.1103/PhysRevLett.98.146401) are fitted to the same crystals of
# silicon (PBE, from the repository: strained, rattled, heated). Their phonons, which the data
# contain at a few wave vectors only, are compared with neutron scattering.
#
# With the environment variable `MLIP_JAX_SMALL` set, models, data and supercell are small.

# %%
import os
import shutil
from pathlib import Path

import ase.io
import jax
import matplotlib.pyplot as plt
import numpy as np
from ase.build import bulk

import mlip_jax as mj
from mlip_jax import units
from mlip_jax.data.formats import LabelKeys
from mlip_jax.data.formats.ase_files import from_atoms
from mlip_jax.properties.conduction import conduction
from mlip_jax.properties.green_kubo import W_M_K
from mlip_jax.properties.lattice_dynamics import lattice_dynamics
from mlip_jax.simulate import engine
from mlip_jax.simulate.series import read_series
from mlip_jax.simulate.settings import EnsembleConfig, SimulationConfig

jax.config.update("jax_enable_x64", True)
SMALL = bool(os.environ.get("MLIP_JAX_SMALL"))
ROOT = Path(mj.__file__).parents[1]
SILICON = ROOT / "experiments/silicon_pbe"
plt.style.use(ROOT / "notebooks/notebooks.mplstyle")

# %% [markdown]
# ## Three fits from one config
#
# The first two are linear in their parameters and solved for exactly; the network is trained. All
# else, data and weights of the loss, is the same.

# %%
labels = {"energy": "REF_energy", "forces": "REF_forces", "stress": "REF_stress"}
folder = Path("runs/phonons")
folder.mkdir(parents=True, exist_ok=True)
for name in ("train", "test"):
    frames = ase.io.read(SILICON / f"{name}.extxyz.gz", index=":")
    crystals = [f for f in frames if f.info["config_type"].startswith(("diamond", "isolated"))]
    ase.io.write(folder / f"{name}.extxyz", crystals)
solved = {
    "solver": {"name": "bayesian_ridge", "posterior": False, "grades": False},
    "training": {"precision": "float64", "batch_size": 4, "devices": 1, "report": False},
}
trained = {
    "optimizer": {
        "name": "adam",
        "learning_rate": {"schedule": "cosine_decay_schedule", "init_value": 3e-3, "alpha": 0.01},
        "clip_by_global_norm": 10.0,
    },
    "training": {"epochs": 40 if SMALL else 150, "batch_size": 2, "ema": 0.9, "report": False},
}
ace = {
    "cutoff": 5.0,
    "n_max": [6, 4] if SMALL else [8, 5, 3],
    "l_max": [0, 3] if SMALL else [0, 4, 3],
    "degree": [6, 5] if SMALL else [8, 7, 5],
}
network = {"cutoff": 6.0, "num_radial": 12, "num_angular": 6, "hidden": [24, 24]}
families = {
    "SNAP": {"model": {"snap": {"cutoff": 5.0, "twojmax": 4 if SMALL else 6}}, **solved},
    "cluster expansion": {"model": {"ace": ace}, **solved},
    "network": {"model": {"behler_parrinello": network}, **trained},
}
shared = {
    "data": {
        "train": str(folder / "train.extxyz"),
        "train_size": 60 if SMALL else None,
        "labels": labels,
    },
    "loss": {
        "energy": {"weight": 10.0},
        "forces": {"weight": 10.0},
        "stress": {"weight": 1000.0},
    },
}
potentials = {}
for name, sections in families.items():
    run = folder / name.replace(" ", "_")
    shutil.rmtree(run, ignore_errors=True)
    potentials[name] = mj.train.fit(mj.train.parse({**shared, **sections}), run, progress=False)

# %% [markdown]
# The test file has crystals that are rattled more than those of the training: there a network knows
# less than a linear model does.

# %%
test = mj.read(folder / "test.extxyz", keys=LabelKeys(**labels))
for name, potential in potentials.items():
    total = mj.evaluate(potential, test)["total"]
    energy, forces = (1e3 * total[key]["mae"] for key in ("energy", "forces"))
    print(f"{name:18s} MAE: {energy:5.1f} meV/atom, {forces:5.0f} meV/Å")

# %% [markdown]
# ## Bands
#
# All at the lattice constant of PBE, 5.476 Å. Force constants are exact second derivatives of the
# energy of a supercell; phonopy interpolates.

# %%
copies = (2, 2, 2) if SMALL else (4, 4, 4)
crystal = from_atoms(bulk("Si", "diamond", a=5.476))
phonons = {name: lattice_dynamics(p, crystal, copies) for name, p in potentials.items()}
for name, found in phonons.items():
    print(f"{name:18s} stable: {found.stable}, lowest frequency {found.lowest:.2f} THz")

# %% [markdown]
# Neutron scattering at room temperature: [Dolling (1963)](https://www.osti.gov/biblio/4122279)
# and [Nilsson and Nelin (1972)](https://doi.org/10.1103/PhysRevB.6.3777), as listed by [Giannozzi
# et al. (1991)](https://doi.org/10.1103/PhysRevB.43.7231). Frequencies of PBE itself lie somewhat
# lower.

# %%
EXPERIMENT = {"G": (15.53,), "X": (4.49, 12.32, 13.90), "L": (3.43, 11.35, 12.60, 14.68)}
figure, (bands, density) = plt.subplots(1, 2, figsize=(10.0, 4.4), width_ratios=(3, 1), sharey=True)
for number, (name, found) in enumerate(phonons.items()):
    reciprocal, begin, corners = np.linalg.inv(found.primitive.cell).T, 0.0, []
    for line, values in zip(found.path.lines, found.bands, strict=True):
        steps = np.linalg.norm(np.diff(line.points @ reciprocal, axis=0), axis=1)
        along = begin + np.concatenate([[0.0], np.cumsum(steps)])
        bands.plot(along, values, color=f"C{number}", lw=1.1)
        corners += [(along[0], line.start), (along[-1], line.end)]
        begin = along[-1]
    density.plot(found.dos, found.dos_frequencies, color=f"C{number}", label=name)
for place, corner in corners:
    measured = EXPERIMENT.get(corner, ())
    bands.plot([place] * len(measured), measured, "o", color="#333333", ms=4, zorder=5)
    bands.axvline(place, color="#333333", lw=0.5, alpha=0.5)
ticks = {}
for place, corner in corners:
    ticks.setdefault(round(place, 6), {})[corner] = None  # two names where the path is broken
bands.set_xticks(list(ticks), ["|".join(names).replace("G", "Γ") for names in ticks.values()])
bands.set(xlim=(0.0, begin), ylabel="frequency [THz]; dots: neutrons")
bands.grid(axis="x", visible=False)
density.set(xlabel="density of states [1/THz]", xlim=(0.0, None))
density.legend(loc="lower right")
plt.show()

# %%
for name, found in phonons.items():
    pairs = [(found.corners[corner], value) for corner, v in EXPERIMENT.items() for value in v]
    off = [
        frequencies[np.abs(frequencies - value).argmin()] - value for frequencies, value in pairs
    ]
    print(f"{name:18s} mean deviation {np.mean(off):+.2f} THz, largest {np.abs(off).max():.2f} THz")

# %% [markdown]
# ## Heat capacity
#
# Integrals over all phonons forgive more than single frequencies do.

# %%
figure, panel = plt.subplots(figsize=(5.0, 3.4))
for name, found in phonons.items():
    heat = found.thermodynamics.heat_capacities / units.BOLTZMANN / found.primitive.num_atoms
    panel.plot(found.thermodynamics.temperatures, heat, label=name)
panel.axhline(3.0, color="#333333", lw=0.8, ls=":")
panel.set(xlabel="temperature [K]", ylabel="heat capacity [k$_B$/atom]")
panel.legend()
plt.show()

# %% [markdown]
# ## Thermal conductivity
#
# How heat travels depends on how phonons scatter: on the anharmonic part, which the bands do not
# show. Here by [Green and Kubo](https://doi.org/10.1143/JPSJ.12.570): the flux of heat of an
# equilibrium trajectory, which follows from the derivatives of the energies of single atoms
# whatever the potential, and the [cepstral analysis](https://doi.org/10.1038/s41598-017-15843-2)
# of its spectrum. A cell of so few atoms has few long waves, and a trajectory so short large
# errors: this compares potentials, not with experiment.

# %%
cubic = from_atoms(bulk("Si", "diamond", a=5.476, cubic=True))
copies, steps = ((1, 1, 1), 1000) if SMALL else ((2, 2, 2), 10000)
TIMESTEP, FRAMES, KELVIN, HIGHEST = 2.0, 4, 300.0 if SMALL else 1000.0, 40.0
conductions = {}
for name, potential in potentials.items():
    run = Path("runs/conduction") / name.replace(" ", "_")
    shutil.rmtree(run, ignore_errors=True)
    simulation = SimulationConfig(
        steps=steps,
        timestep=TIMESTEP,
        initial_temperature=2 * KELVIN,  # half of it goes into potential energy
        supercell=copies,
        trajectory_interval=FRAMES,
    )
    engine.run(potential, cubic, EnsembleConfig("nve", KELVIN), simulation, run)
    series = read_series(run / "trajectory.extxyz", f"{steps // FRAMES // 5}:")  # equilibrium
    conductions[name] = conduction(potential, series, TIMESTEP * FRAMES, highest=HIGHEST)

# %%
figure, (integral, spectrum) = plt.subplots(1, 2, figsize=(9.0, 3.4))
for number, (name, found) in enumerate(conductions.items()):
    heat, color = found.conductivity, f"C{number}"
    label = f"{name}: {W_M_K * heat.value:.1f} ± {W_M_K * heat.error:.1f}"
    integral.plot(1e-3 * heat.lags, W_M_K * heat.running, color=color, label=label)
    integral.axhline(W_M_K * heat.value, color=color, lw=0.8, ls=":")
    spectrum.plot(heat.frequencies, W_M_K * heat.spectrum, color=color, lw=0.4, alpha=0.3)
    spectrum.plot(heat.frequencies, W_M_K * heat.smooth, color=color)
    print(f"{name:18s} {found.temperature:.0f} K, {heat.coefficients} cepstral coefficients")
integral.set(xlabel="lag [ps]", ylabel="thermal conductivity [W/(m K)]")
integral.legend(fontsize=8)
spectrum.set(xlabel="frequency [THz]", ylabel="spectrum of the flux [W/(m K)]", yscale="log")
plt.show()
