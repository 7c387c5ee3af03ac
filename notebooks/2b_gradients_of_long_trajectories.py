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
# # Gradients of long trajectories
#
# The gradient of a trajectory costs memory, and it grows with the Lyapunov exponent (see
# `2_differentiable_dynamics`). Here is what the library offers against either: checkpoints and
# reversed trajectories; truncated slopes. The system is a dense hot fluid of 64 argon atoms
# (Lennard-Jones, parameters of [Rahman 1964](https://doi.org/10.1103/PhysRev.136.A405)).
#
# With the environment variable `MLIP_JAX_SMALL` set, trajectories are short.

# %%
import dataclasses
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from ase.build import bulk

import mlip_jax as mj
from mlip_jax import units
from mlip_jax.data.formats.ase_files import from_atoms
from mlip_jax.models.pair import LennardJones
from mlip_jax.simulate import differentiable, gates
from mlip_jax.simulate.reversible import reversible_fn
from mlip_jax.simulate.settings import EnsembleConfig

jax.config.update("jax_enable_x64", True)
SMALL = bool(os.environ.get("MLIP_JAX_SMALL"))
ROOT = Path(mj.__file__).parents[1]
plt.style.use(ROOT / "notebooks/notebooks.mplstyle")

model = LennardJones((18,), cutoff=6.5, trainable=False)
argon_variables = {"constants": {"epsilon": np.array([0.0103]), "sigma": np.array([3.4])}}
argon = mj.Potential(model, argon_variables, {18: 0.0})
copies = (2, 2, 2) if SMALL else (4, 2, 2)
argon_crystal = from_atoms(bulk("Ar", "fcc", a=5.5, cubic=True) * copies)

# %% [markdown]
# ## What a gradient costs in memory
#
# `simulate.differentiable` does the same for every ensemble of the library, with neighbour lists
# that follow the atoms. It stores all (`segment=0`), or the states at the starts of segments and
# computes the rest again (by default, [Griewank
# 1992](https://doi.org/10.1080/10556789208805505)). `simulate.reversible` stores nothing: its
# positions and momenta are integers, so that the trajectory can be run backwards bit for bit
# ([Levesque and Verlet 1993](https://doi.org/10.1007/BF01054333)). What the compiler asks for:

# %%
TIMESTEP = 5.0
start = differentiable.begin(argon, argon_crystal, EnsembleConfig("nve", 800.0), TIMESTEP)
start = start._replace(
    state=differentiable.with_room(start.compiled, start.variables, start.state, 200)
)
weights = np.random.default_rng(1).normal(size=(argon_crystal.num_atoms, 3))


def loss_of(run):
    """Makes the gradient of a weighted sum of the last positions by the first momenta."""

    def loss(momenta):
        result = run(start.variables, differentiable.moved(start.state, momenta=momenta))
        return jnp.sum(weights * differentiable.unwrapped(result.state))

    return jax.jit(jax.grad(loss))


def methods(length):
    """The three ways to the same gradient."""
    return {
        "all stored": differentiable.trajectory_fn(start.compiled, length, segment=0),
        "checkpoints": differentiable.trajectory_fn(start.compiled, length),
        "reversed": reversible_fn(start.compiled, TIMESTEP, length),
    }


lengths = (32,) if SMALL else (100, 1000, 10000)
momenta = start.state.integrator.momentum
memory, slopes = {}, {}
for length in lengths:
    for name, run in methods(length).items():
        program = loss_of(run).lower(momenta).compile()
        size = program.memory_analysis().temp_size_in_bytes / 2**20
        memory.setdefault(name, []).append(size)
        if length == lengths[0]:
            slopes[name] = np.asarray(program(momenta))
        elif length == lengths[-1] and name == "checkpoints":
            finite = np.isfinite(program(momenta)).all()
            print(f"{length} steps, {name}: {size:.0f} MiB, finite: {finite}")

exact = slopes["all stored"]
for name, values in slopes.items():
    print(f"{name:12s} differs by {np.abs(values - exact).max() / np.abs(exact).max():.1e}")

# %%
figure, panel = plt.subplots()
for name, sizes in memory.items():
    panel.plot(lengths, sizes, "o-", label=name)
panel.set(
    xlabel="length [steps]", ylabel="memory of the gradient [MiB]", xscale="log", yscale="log"
)
panel.legend()
plt.show()

# %% [markdown]
# ## Truncated slopes
#
# For averages the long way back is not needed. The mean potential energy $\langle U \rangle$ of
# the fluid under a Langevin thermostat has a slope by the size $\sigma$ of the atoms, and
# statistical mechanics knows it without any trajectory derivative:
#
# $$ \frac{d\langle U\rangle}{d\sigma} = \Big\langle\frac{\partial U}{\partial\sigma}\Big\rangle -
# \frac{1}{kT}\Big( \Big\langle U \frac{\partial U}{\partial\sigma}\Big\rangle - \langle U\rangle
# \Big\langle\frac{\partial U}{\partial\sigma}\Big\rangle\Big) $$
#
# `gates.truncated(n)` stops derivatives at every n-th step. With short windows the slope is
# biased, for the atoms have no time to answer; with long ones its variance grows.

# %%
KELVIN, LENGTH, SEEDS = 300.0, 200 if SMALL else 1200, range(2 if SMALL else 6)
WINDOWS = (50,) if SMALL else (5, 15, 50, 150, 400)
thermostat = EnsembleConfig("langevin", KELVIN, friction=0.005)
start = differentiable.begin(argon, argon_crystal, thermostat, TIMESTEP)
state = differentiable.with_room(start.compiled, start.variables, start.state, 5 * LENGTH)


def of_size(sigma):
    """Variables for atoms of another size [Å]."""
    return {"constants": {**start.variables["constants"], "sigma": jnp.reshape(sigma, (1,))}}


def noted(variables, state):
    """U [eV] and dU/dσ [eV/Å] of a state."""
    energy = lambda sigma: start.compiled.evaluate(of_size(sigma), state).energy  # noqa: E731
    return jax.value_and_grad(energy)(variables["constants"]["sigma"][0])


sample = jax.jit(
    differentiable.trajectory_fn(start.compiled, 5 * LENGTH, observe=noted, interval=10)
)
samples, states = [], []
for seed in SEEDS:
    integrator = state.integrator.set(rng=jax.random.PRNGKey(seed))
    result = sample(start.variables, dataclasses.replace(state, integrator=integrator))
    samples.append(np.stack(result.observables)[:, LENGTH // 20 :])
    states.append(result.state)
U, dU = np.concatenate(samples, axis=1)
exact = dU.mean() - np.cov(U, dU)[0, 1] / (units.BOLTZMANN * KELVIN)
print(f"d<U>/dσ = {exact:.2f} eV/Å, of which direct {dU.mean():.2f} eV/Å")


# %%
def slopes_with(gate):
    """Slopes of the mean energy of a trajectory by σ [eV/Å], for each seed."""
    observe = lambda variables, state: state.energy  # noqa: E731
    run = differentiable.trajectory_fn(
        start.compiled, LENGTH, observe=observe, interval=10, gate=gate
    )

    def mean(sigma, state):
        return jnp.mean(run(of_size(sigma), state).observables)

    slope = jax.jit(jax.grad(mean))
    return np.array([slope(3.4, state) for state in states])


found = np.array([slopes_with(gates.truncated(window)) for window in WINDOWS])
figure, panel = plt.subplots()
picoseconds = 1e-3 * TIMESTEP * np.array(WINDOWS)
panel.plot(picoseconds, found, "o", color="C0", alpha=0.5)
panel.plot(picoseconds, found.mean(axis=1), color="C0", label="truncated, and its mean")
panel.axhline(exact, color="C1", label="from fluctuations")
panel.axhline(dU.mean(), color="#333333", ls=":", label="direct part only")
panel.set(xlabel="window [ps]", ylabel=r"d$\langle U\rangle$/d$\sigma$  [eV/Å]", xscale="log")
panel.legend()
plt.show()
print(np.c_[picoseconds, found.mean(axis=1), found.std(axis=1)])

# %% [markdown]
# For averages, `simulate.reweighting` uses the fluctuations themselves (DiffTRe, [Thaler and
# Zavadlav 2021](https://doi.org/10.1038/s41467-021-27241-4)): no trajectory is differentiated at
# all. Gradients through trajectories are for short ones, and for what is no average: paths,
# barriers, responses.
