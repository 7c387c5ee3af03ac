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
# # A published universal potential at constant pressure
#
# [Nequix](https://arxiv.org/abs/2508.16067), a NequIP network for 89 elements, is loaded by its
# name and heats a crystal of rock salt at constant pressure, to see how much it expands.
#
# **The weights are not part of this repository.** Where they are not on this machine, this cell
# says where their authors publish them, and the notebook ends here: put the files below a
# directory that the environment variable `MLIP_JAX_PATH` names. With `MLIP_JAX_SMALL` set, the
# simulation is a few steps long.

# %%
import json
import os
import shutil
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from ase.build import bulk

import mlip_jax as mj
from mlip_jax.data.formats.ase_files import from_atoms
from mlip_jax.simulate import engine
from mlip_jax.simulate.settings import BarostatConfig, EnsembleConfig, Schedule, SimulationConfig

SMALL = bool(os.environ.get("MLIP_JAX_SMALL"))
ROOT = Path(mj.__file__).parents[1]
plt.style.use(ROOT / "notebooks/notebooks.mplstyle")

potential = mj.load("nequix-mp-1")
print(potential.card["published"])

# %% [markdown]
# ## The crystal
#
# Energies of a cubic cell of sodium chloride at several sizes: the minimum is the lattice
# constant at rest.

# %%
sizes = np.linspace(5.5, 5.9, 5 if SMALL else 9)
cells = [from_atoms(bulk("NaCl", "rocksalt", a=a, cubic=True)) for a in sizes]
energies = np.array([found.energy / 8 for found in mj.predict(potential, cells)])
curve = np.polynomial.Polynomial.fit(sizes, energies, 4)
candidates = curve.deriv().roots()
candidates = candidates[np.isreal(candidates)].real
rest = candidates[np.abs(candidates - 5.7).argmin()]
figure, panel = plt.subplots(figsize=(5.0, 3.4))
fine = np.linspace(sizes[0], sizes[-1], 200)
panel.plot(fine, 1e3 * (curve(fine) - curve(rest)), label="polynomial")
panel.plot(sizes, 1e3 * (energies - curve(rest)), "o", color="#333333", label="Nequix-MP-1")
panel.axvline(rest, color="C1", lw=0.9, ls=":")
panel.set(xlabel="lattice constant [Å]", ylabel="energy [meV/atom]", title=f"minimum {rest:.3f} Å")
panel.legend()
plt.show()

# %% [markdown]
# ## Molecular dynamics at constant pressure
#
# Stochastic velocity rescaling ([Bussi et al. 2007](https://doi.org/10.1063/1.2408420)) and
# stochastic cell rescaling ([Bernetti and Bussi 2020](https://doi.org/10.1063/5.0020514)); the
# temperature follows a schedule. Neighbour lists grow when they have to, and files are complete
# at any time.

# %%
steps, timestep, copies = (20, 2.0, 1) if SMALL else (3000, 2.0, 2)
end = steps * timestep
ensemble = EnsembleConfig(
    kind="csvr",
    temperature=Schedule((0.2 * end, end), (100.0, 900.0)),
    barostat=BarostatConfig(pressure=0.0, relaxation_time=300.0, compressibility=0.04),
)
simulation = SimulationConfig(
    steps=steps,
    timestep=timestep,
    initial_temperature=200.0,  # half of it goes into potential energy
    supercell=(copies,) * 3,
    thermo_interval=5,
    trajectory_interval=20,
    chunk=20,
)
start = from_atoms(bulk("NaCl", "rocksalt", a=rest, cubic=True))
run = Path("runs/universal")
shutil.rmtree(run, ignore_errors=True)
result = engine.run(potential, start, ensemble, simulation, run)
print(f"{result.structure.num_atoms} atoms, {result.steps} steps, ended by {result.stop_reason!r}")
print(f"{result.microseconds_per_atom_step:.0f} μs per atom and step")

# %%
lines = [json.loads(line) for line in (run / "thermo.jsonl").read_text().splitlines()]
thermo = {key: np.array([line[key] for line in lines]) for key in lines[0]}
frames = mj.read(run / "trajectory.extxyz")
lattice = np.array([np.cbrt(abs(np.linalg.det(frame.cell))) for frame in frames]) / copies
times = 1e-3 * timestep * simulation.trajectory_interval * np.arange(len(frames))
picoseconds = 1e-3 * thermo["time_fs"]
wanted = np.interp(thermo["time_fs"], (0.2 * end, end), (100.0, 900.0))

figure, panels = plt.subplots(1, 3, figsize=(10.5, 3.2))
panels[0].plot(picoseconds, thermo["temperature_K"], lw=0.8)
panels[0].plot(picoseconds, wanted, color="C1", label="asked for")
panels[0].set(xlabel="time [ps]", ylabel="temperature [K]")
panels[0].legend()
panels[1].plot(picoseconds, thermo["pressure_GPa"], lw=0.8)
panels[1].set(xlabel="time [ps]", ylabel="pressure [GPa]")
panels[2].plot(times, lattice)
panels[2].axhline(rest, color="C1", ls=":", label="at rest")
panels[2].set(xlabel="time [ps]", ylabel="lattice constant [Å]")
panels[2].legend()
plt.show()

# %% [markdown]
# ## Thermal expansion
#
# The measured value is 4.0e-5 / K at room temperature, and rises with it. A line through one
# short heating run of a small cell is an average over all temperatures, and no more than an
# estimate.

# %%
kelvin = np.interp(1e3 * times, (0.2 * end, end), (100.0, 900.0))
late = 1e3 * times >= 0.2 * end
slope, origin = np.polyfit(kelvin[late], lattice[late], 1)
print(f"linear expansion: {slope / rest:.1e} / K")

figure, panel = plt.subplots(figsize=(5.0, 3.4))
panel.plot(kelvin[late], lattice[late], ".", label="frames")
ends = np.array([100.0, 900.0])
panel.plot(ends, origin + slope * ends, color="C1", label=f"{slope / rest:.1e} / K")
panel.set(xlabel="temperature asked for [K]", ylabel="lattice constant [Å]")
panel.legend()
plt.show()

# %% [markdown]
# What else there is: `mlip-jax potentials` lists all names;
# `mj.interop.ase.MLIPCalculator("nequix-mp-1")` is a calculator of ASE; `mlip-jax relax
# nequix-mp-1 crystals.extxyz --all --cell full -o relaxed.extxyz` relaxes many structures at
# once.
