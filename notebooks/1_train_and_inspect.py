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
# # Train a potential, and look at what came out
#
# A config, written in Python, trains a network of [Behler and Parrinello
# (2007)](https://doi.org/10.1103/PhysRevLett.98.146401) on the silicon data that come with the
# repository ([DFT with PBE](../experiments/silicon_pbe/README.md), 275 structures). Then the
# folder of the run is read as any later program would read it: learning curves, parity, errors of
# each phase.
#
# With the environment variable `MLIP_JAX_SMALL` set, this notebook trains for a few epochs only.

# %%
import os
import shutil
from collections import Counter
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib import ticker

import mlip_jax as mj
from mlip_jax.data.formats import LabelKeys
from mlip_jax.inference import predict_and_compare, summarize
from mlip_jax.train.log import read_metrics

SMALL = bool(os.environ.get("MLIP_JAX_SMALL"))
ROOT = Path(mj.__file__).parents[1]
SILICON = ROOT / "experiments/silicon_pbe"
RUN = Path("runs/train_and_inspect")
plt.style.use(ROOT / "notebooks/notebooks.mplstyle")

# %% [markdown]
# ## The data
#
# Labels have to be named: nothing is guessed. Their units are eV, eV/Å and eV/Å³, which is what
# the library expects where nothing else is said, and the sign of the stress is checked against
# the energies before a training begins. Each family of structures is one of the phases below.

# %%
labels = {"energy": "REF_energy", "forces": "REF_forces", "stress": "REF_stress"}
train = mj.read(SILICON / "train.extxyz.gz", keys=LabelKeys(**labels))
test = mj.read(SILICON / "test.extxyz.gz", keys=LabelKeys(**labels))
print(f"{len(train)} structures to train on, {len(test)} to test")
print(Counter(structure.config_type for structure in train))

# %%
COLORS = dict(zip(sorted({s.config_type for s in train}), plt.cm.tab20.colors, strict=False))
atom = next(s.labels.energy for s in train if s.config_type == "isolated_atom")
figure, panel = plt.subplots()
for phase, color in COLORS.items():
    crystals = [s for s in train if s.config_type == phase and s.pbc.all()]
    volumes = [abs(np.linalg.det(s.cell)) / s.num_atoms for s in crystals]
    energies = [s.labels.energy / s.num_atoms - atom for s in crystals]
    if crystals:
        panel.plot(volumes, energies, "o", color=color, label=phase.replace("_", " "))
panel.set(xlabel="volume [Å$^3$/atom]", ylabel="energy over free atoms [eV/atom]")
panel.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
plt.show()

# %% [markdown]
# ## The config
#
# The same dictionary, written as YAML, is what `mlip-jax train` reads. The fields of the model
# are those of its class; what the data can tell (species, scales of descriptors) is left out and
# computed. A misspelt key stops here, with the nearest known one.

# %%
config = {
    "data": {
        "train": str(SILICON / "train.extxyz.gz"),
        "test": str(SILICON / "test.extxyz.gz"),
        "valid": 0.1,
        "labels": labels,
    },
    "model": {
        "behler_parrinello": {
            "cutoff": 6.0,
            "num_radial": 12,
            "num_angular": 6,
            "hidden": [24, 24],
        }
    },
    "loss": {
        "energy": {"weight": 10.0},
        "forces": {"weight": 1.0},
        "stress": {"weight": 1000.0},
    },
    "optimizer": {
        "name": "adamw",
        "learning_rate": {
            "schedule": "warmup_cosine_decay_schedule",
            "init_value": 1e-4,
            "peak_value": 5e-3,
            "warmup_epochs": 1,
        },
        "clip_by_global_norm": 10.0,
    },
    "training": {"epochs": 4 if SMALL else 40, "batch_size": 8, "ema": 0.9 if SMALL else 0.99},
}
sections = mj.train.parse(config)
try:
    mj.train.parse({**config, "training": {"epoch": 40}})
except mj.UserError as error:
    print(error)

# %%
shutil.rmtree(RUN, ignore_errors=True)
mj.train.fit(sections, RUN, progress=False)
print(*sorted(path.name for path in RUN.iterdir()), sep="\n")

# %% [markdown]
# ## Learning curves
#
# `metrics.jsonl` has one line for each epoch. Errors of training are those of the parameters as
# they were during the epoch; those of validation belong to their moving average, which is what is
# kept.

# %%
records = read_metrics(RUN / "metrics.jsonl")
figure, panels = plt.subplots(1, 3, figsize=(10.0, 3.2))
UNITS = {"energy": "meV/atom", "forces": "meV/Å", "stress": "meV/Å$^3$"}
for panel, (name, unit) in zip(panels, UNITS.items(), strict=True):
    for group in ("train", "valid"):
        epochs = [r["epoch"] for r in records if r[group]]
        values = [1e3 * r[group][f"{name}_mae"] for r in records if r[group]]
        panel.plot(epochs, values, label=group)
    panel.set(xlabel="epoch", ylabel=f"MAE of {name} [{unit}]", yscale="log")
    panel.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    panel.yaxis.set_major_formatter("{x:g}")
    panel.yaxis.set_minor_formatter("")
panels[0].legend()
plt.show()

# %% [markdown]
# ## Errors of the test set
#
# A potential is a folder of YAML, safetensors and checksums; opening it runs no code. What it was
# fitted to, and how, is on its card.

# %%
potential = mj.load(RUN / "potential")
print(potential.card["training"])
compared = predict_and_compare(potential, test)
errors = summarize(compared, test)
for name, unit in UNITS.items():
    total = errors["total"][name]
    print(f"{name}: MAE {1e3 * total['mae']:.2f}, RMSE {1e3 * total['rmse']:.2f} {unit}")

# %%
AXES = {"energy": "eV/atom", "forces": "eV/Å", "stress": "eV/Å$^3$"}
figure, panels = plt.subplots(2, 3, figsize=(10.0, 5.6), height_ratios=(2, 1), sharex="col")
for (above, below), (name, unit) in zip(panels.T, AXES.items(), strict=True):
    pair = compared[name]
    for phase, color in COLORS.items():
        chosen = np.array([test[i].config_type == phase for i in pair.structure])
        label, predicted = pair.label[chosen], pair.predicted[chosen]
        style = {"color": color, "ms": 3.5, "alpha": 0.8}
        above.plot(label, predicted, "o", label=phase.replace("_", " "), **style)
        below.plot(label, 1e3 * (predicted - label), "o", **style)
    ends = [pair.label.min(), pair.label.max()]
    above.plot(ends, ends, color="#333333", lw=0.8, zorder=0)
    below.axhline(0.0, color="#333333", lw=0.8, zorder=0)
    above.set(title=name, ylabel=f"predicted [{unit}]")
    below.set(xlabel=f"DFT [{unit}]", ylabel=f"difference [m{unit}]")
figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside right center", markerscale=2)
plt.show()

# %% [markdown]
# Two frames whose atoms were pushed together, with forces of up to 17 eV/Å, dominate the error of
# the forces. A mean over a mixed set says little: a potential meant for diamond is to be judged
# by the diamond families. So errors are kept by family (`config_type`) and by element; here there
# is one element.

# %%
families = errors["per_config_type"]
order = sorted(families, key=lambda phase: families[phase]["forces"]["mae"])
figure, panels = plt.subplots(1, 3, figsize=(10.0, 3.8), sharey=True)
for panel, (name, unit) in zip(panels, UNITS.items(), strict=True):
    values = [1e3 * families[phase].get(name, {}).get("mae", np.nan) for phase in order]
    panel.barh([phase.replace("_", " ") for phase in order], values, color="#2f6fb2")
    panel.axvline(1e3 * errors["total"][name]["mae"], color="#d1495b", lw=1.2)
    panel.set(xlabel=f"MAE of {name} [{unit}]")
    panel.grid(axis="y", visible=False)
panels[1].set_title("red: the whole test set")
plt.show()
print(errors["per_element"])

# %% [markdown]
# ## The worst structures
#
# Before a fit is blamed, its worst structures should be looked at: often the label is at fault.

# %%
force_errors = np.abs(compared["forces"].predicted - compared["forces"].label)
owners = compared["forces"].structure
worst = sorted(range(len(test)), key=lambda i: -force_errors[owners == i].max(initial=0.0))[:5]
for index in worst:
    largest = force_errors[owners == index].max()
    print(f"{test[index].config_type:20s} {test[index].num_atoms:2d} atoms: {largest:.3f} eV/Å")

# %% [markdown]
# All this, and more, is in `report.html` of the run. The same from the command line:
#
# ```sh
# mlip-jax train config.yaml --output runs/si
# mlip-jax evaluate runs/si/potential test.extxyz.gz --output errors.json --plots errors
# ```
