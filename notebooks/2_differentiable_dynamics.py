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
# # Derivatives of trajectories
#
# A potential is a pure function, so a trajectory is one, too, and `jax.grad` goes through it.
# This notebook writes one from scratch, for Lennard-Jones argon and for a NequIP network of
# silicon, and shows how fast such a gradient grows, and why.
#
# With the environment variable `MLIP_JAX_SMALL` set, trajectories are short and the training is
# brief.

# %%
import os
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from ase.build import bulk

import mlip_jax as mj
from mlip_jax import elements, units
from mlip_jax.data.formats.ase_files import from_atoms
from mlip_jax.models.pair import LennardJones

jax.config.update("jax_enable_x64", True)
SMALL = bool(os.environ.get("MLIP_JAX_SMALL"))
ROOT = Path(mj.__file__).parents[1]
SILICON = ROOT / "experiments/silicon_pbe"
plt.style.use(ROOT / "notebooks/notebooks.mplstyle")

# %% [markdown]
# ## Two potentials
#
# Argon: 32 atoms of a dense hot fluid, with the parameters of [Rahman
# (1964)](https://doi.org/10.1103/PhysRev.136.A405). Silicon: 8 atoms of diamond, with a small
# [NequIP](https://doi.org/10.1038/s41467-022-29939-5) that is trained here, in a minute, on the
# data of the repository.

# %%
model = LennardJones((18,), cutoff=6.5, trainable=False)
argon_variables = {"constants": {"epsilon": np.array([0.0103]), "sigma": np.array([3.4])}}
argon = mj.Potential(model, argon_variables, {18: 0.0})
argon_crystal = from_atoms(bulk("Ar", "fcc", a=5.5, cubic=True) * (2, 2, 2))
silicon_crystal = from_atoms(bulk("Si", "diamond", a=5.47, cubic=True))

# %%
config = {
    "data": {
        "train": str(SILICON / "train.extxyz.gz"),
        "train_size": 32 if SMALL else 180,
        "labels": {"energy": "REF_energy", "forces": "REF_forces", "stress": "REF_stress"},
    },
    "model": {"nequip": {"cutoff": 4.5, "num_layers": 2, "num_features": 8, "parity": False}},
    "loss": {"forces": {"weight": 10.0}, "stress": None},
    "optimizer": {"name": "adam", "learning_rate": 1e-2, "clip_by_global_norm": 10.0},
    "training": {"epochs": 2 if SMALL else 20, "batch_size": 16, "ema": 0.9, "report": False},
}
shutil.rmtree("runs/nequip", ignore_errors=True)
silicon = mj.train.fit(mj.train.parse(config), Path("runs/nequip"), progress=False)

# %% [markdown]
# ## A trajectory from scratch
#
# `mj.simulate.jax_md_energy` gives an energy function and a neighbour function. Velocity Verlet
# is three lines, a trajectory is a `lax.scan` over it. Units are Å, eV and amu, so that time is
# in Å (amu/eV)$^{1/2}$ = 10.18 fs (`units.TIME_UNIT`).
#
# To every step a *kick* is added, an array of zeros. Its gradient is what the end of the
# trajectory owes to the momenta of every earlier time: one backward pass shows the gradient at
# all lengths.


# %%
def trajectory_of(potential, structure, timestep):
    """Makes `(positions, momenta, kicks [steps atoms 3]) -> ((positions, momenta), energies)`."""
    energy_fn, neighbor_fn = mj.simulate.jax_md_energy(
        potential, structure, skin=1.0, precision="float64"
    )
    first = neighbor_fn.allocate(structure.positions, extra_capacity=8)
    masses = np.array([elements.MASSES[z] for z in structure.atomic_numbers])[:, None]
    dt = timestep / units.TIME_UNIT

    def step(state, kick):
        positions, momenta, neighbors, forces = state
        momenta = momenta + kick + 0.5 * dt * forces
        positions = positions + dt * momenta / masses
        neighbors = jax.lax.stop_gradient(neighbors.update(positions))
        energy, slope = jax.value_and_grad(energy_fn)(positions, neighbor=neighbors)
        momenta = momenta - 0.5 * dt * slope
        return (positions, momenta, neighbors, -slope), energy

    def trajectory(positions, momenta, kicks):
        neighbors = first.update(positions)
        slope = jax.grad(energy_fn)(positions, neighbor=neighbors)
        step_again = jax.checkpoint(step)  # within a step nothing is stored
        state = (positions, momenta, neighbors, -slope)
        state, energies = jax.lax.scan(step_again, state, kicks)
        return state[:2], energies

    return trajectory, masses


def drawn_momenta(masses, kelvin, seed=0):
    """Momenta of a temperature, without drift."""
    momenta = np.random.default_rng(seed).normal(size=(len(masses), 3))
    momenta *= np.sqrt(units.BOLTZMANN * kelvin * masses)
    return momenta - momenta.mean(axis=0)


# %% [markdown]
# ## The gradient grows at the Lyapunov rate
#
# The loss is a smooth function of the last positions. Its gradient by the momenta of the time $t$
# before the end is $(\partial x_\mathrm{end} / \partial p_{-t})^\mathsf{T}\, \partial L /
# \partial x_\mathrm{end}$. The Jacobian is a product of as many matrices as there are steps, and
# in a chaotic system its largest singular value grows like $e^{\lambda t}$, $\lambda$ the largest
# Lyapunov exponent. That is a property of the physics, and no fault of the program: it is the
# same rate at which two trajectories part that began side by side. We measure it so, forwards:
# the second trajectory is a tangent (`jax.jvp`), rescaled after each piece ([Benettin et al.
# 1980](https://doi.org/10.1007/BF02128236)).


# %%
def growth(potential, structure, timestep, kelvin, length, piece):
    """Times before the end [ps], norms of the gradient, Lyapunov exponent [1/ps]."""
    trajectory, masses = trajectory_of(potential, structure, timestep)
    momenta = drawn_momenta(masses, kelvin)
    weights = np.random.default_rng(1).normal(size=structure.positions.shape)

    @jax.jit
    def tangent(state, direction):
        run = lambda x, p: trajectory(x, p, jnp.zeros((piece, *x.shape)))[0]  # noqa: E731
        state, moved = jax.jvp(run, state, direction)
        size = jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in moved))
        return state, jax.tree.map(lambda leaf: leaf / size, moved), jnp.log(size)

    @jax.jit
    @jax.grad
    def slopes(kicks, state):
        (positions, _), _ = trajectory(*state, kicks)
        return jnp.sum(weights * positions)

    state = (jnp.array(structure.positions), jnp.array(momenta))
    direction = jax.tree.map(jnp.zeros_like, state)
    direction = (jnp.array(weights - weights.mean(axis=0)), direction[1])
    logarithms = []
    for _ in range(2 * length // piece):
        state, direction, logarithm = tangent(state, direction)
        logarithms.append(float(logarithm))
    rates = np.array(logarithms[len(logarithms) // 4 :]) / (1e-3 * piece * timestep)
    norms = jnp.linalg.norm(slopes(jnp.zeros((length, *weights.shape)), state), axis=(1, 2))
    return 1e-3 * timestep * np.arange(length, 0, -1), np.asarray(norms), rates.mean()


systems = {
    "Lennard-Jones argon, 32 atoms": (argon, argon_crystal, 5.0, 800.0, 400 if SMALL else 1600),
    "NequIP silicon, 8 atoms": (silicon, silicon_crystal, 1.5, 2500.0, 200 if SMALL else 1600),
}
figure, panel = plt.subplots()
for number, (name, arguments) in enumerate(systems.items()):
    times, norms, rate = growth(*arguments, piece=50)
    style = {"color": f"C{number}"}
    panel.plot(times, norms, label=name, **style)
    middle = len(times) // 2
    line = norms[middle] * np.exp(rate * (times - times[middle]))
    panel.plot(times, line, "--", lw=1.0, label=rf"$\lambda$ = {rate:.2f} / ps, forwards", **style)
panel.set(xlabel="time before the end [ps]", yscale="log")
panel.set_ylabel("|dL/dp|  [Å / (amu eV)$^{1/2}$]")
panel.legend()
plt.show()

# %% [markdown]
# The gradient first grows linearly in time, as free flight does, then exponentially at the rate
# that was measured forwards. A loss at the end of a long trajectory has a gradient that is right
# to all digits, and useless: it is the slope of a landscape as rough as that ([Metz et al.
# 2021](https://arxiv.org/abs/2111.05803)).
#
# The library answers the two prices of such gradients, memory and chaos, with checkpoints
# (`simulate.differentiable`), reversed trajectories (`simulate.reversible`), truncated and clipped
# slopes (`simulate.gates`), and for averages with reweighting (`simulate.reweighting`): see
# `2b_gradients_of_long_trajectories`.
