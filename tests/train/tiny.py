"""A tiny model and small labelled structures, for tests of training."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mlip_jax import models
from mlip_jax.data.batching import BatchConfig, BatchSource
from mlip_jax.data.lists import NeighborLists
from mlip_jax.data.structure import Structure, StructureLabels
from mlip_jax.graph import AtomOutputs, edge_vectors, safe_norm
from mlip_jax.train.engine import Task
from mlip_jax.train.loss import LossConfig, PropertyLoss
from mlip_jax.train.optimizer import OptimizerConfig
from mlip_jax.train.settings import TrainingConfig

CUTOFF = 3.0
REFERENCE = {14: -5.0}


class Tiny(nn.Module):
    """Energy of an atom: a dense network of two smooth radial sums."""

    species: tuple[int, ...] | None = (14,)
    cutoff: float = CUTOFF
    width: int = 4

    @nn.compact
    def __call__(self, graph):
        r = safe_norm(edge_vectors(graph))
        inside = r < self.cutoff
        smooth = jnp.where(inside, jnp.where(inside, 1 - r / self.cutoff, 0.0) ** 3, 0.0)
        features = jnp.stack([jnp.sum(smooth, 1), jnp.sum(smooth * jnp.where(inside, r, 0), 1)], 1)
        dtype = features.dtype
        hidden = nn.tanh(nn.Dense(self.width, use_bias=False, dtype=dtype, name="hidden")(features))
        energies = nn.Dense(1, use_bias=False, dtype=dtype, name="readout")(hidden)[:, 0]
        return AtomOutputs(energies=energies)


class Magnetic(Tiny):
    """With moments, a tenth of the energies' absolute values."""

    def __call__(self, graph):
        outputs = Tiny.__call__(self, graph)
        return dataclasses.replace(outputs, magmoms=0.1 * jnp.abs(outputs.energies))


def structures(count=12, seed=0, missing=()):
    """Rattled crystals with random labels; `missing` lists (index, names of labels left out)."""
    generator = np.random.default_rng(seed)
    result = []
    for index in range(count):
        atoms = 2 + index % 3
        cell = np.diag([2.5 * atoms, 3.1, 3.2]) + generator.normal(0, 0.05, (3, 3))
        positions = np.arange(atoms)[:, None] * np.array([[2.4, 0.3, 0.1]])
        positions = positions + generator.normal(0, 0.1, positions.shape)
        labels = StructureLabels(
            energy=float(generator.normal(0, 0.1) + atoms * REFERENCE[14]),
            forces=generator.normal(0, 0.1, (atoms, 3)),
            stress=np.eye(3) * generator.normal(0, 0.01),
        )
        drop = dict(missing).get(index, ())
        labels = StructureLabels(
            **{k: None if k in drop else getattr(labels, k) for k in ("energy", "forces", "stress")}
        )
        result.append(
            Structure(
                atomic_numbers=np.full(atoms, 14),
                positions=positions,
                cell=cell,
                pbc=np.array([True, True, True]),
                labels=labels,
                weight=1.0 + 0.5 * (index % 2),
                name=f"tiny:{index}",
            )
        )
    return result


def source(items, batch_size=4, devices=1, shuffle=True, dtype=np.float32, seed=0):
    """Batches of structures."""
    config = BatchConfig(batch_size=batch_size, devices=devices, shuffle=shuffle, seed=seed)
    requirements = models.Requirements(CUTOFF)
    lists = NeighborLists(items, CUTOFF)
    return BatchSource(items, lists, config, REFERENCE, dtype, requirements)


def task(devices=1, optimizer=None, loss=None, items=None, valid=True, **training):
    """A complete task."""
    training.setdefault("epochs", 3)
    training.setdefault("batch_size", 4)
    config = TrainingConfig(devices=devices, workers=0, **training)
    items = structures() if items is None else items
    dtype = np.dtype(config.precision)
    train = source(items, config.batch_size, devices, dtype=dtype, seed=config.seed)
    model = Tiny()
    graph = source(items, config.batch_size, dtype=dtype).batch(0, 0).graph
    variables = model.init(jax.random.key(config.seed), graph)
    variables = jax.tree.map(lambda x: x.astype(dtype), variables)
    held_out = structures(5, seed=1)
    return Task(
        model=model,
        variables=variables,
        loss=loss or LossConfig(stress=PropertyLoss(weight=0.1)),
        optimizer=optimizer or OptimizerConfig(name="adam", learning_rate=1e-2),
        training=config,
        structures=items,
        train=train,
        valid=source(held_out, 4, devices, shuffle=False, dtype=dtype) if valid else None,
    )
