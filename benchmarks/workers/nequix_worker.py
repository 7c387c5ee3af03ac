"""Nequix (JAX, equinox, e3nn-jax) without its GPU kernel: its calculator, its loss, ASE's MD."""

from itertools import cycle

import equinox as eqx
import jax
import jraph
import numpy as np
import optax
from ase.calculators.calculator import Calculator
from nequix.calculator import NequixCalculator
from nequix.data import atomic_numbers_to_indices, dict_to_graphstuple, preprocess_graph
from nequix.model import Nequix
from nequix.train import loss
from protocol import Program, Task, serve, versions
from structures import batches, to_atoms, velocity_verlet


def make_model(settings: dict) -> Nequix:
    """The model with random parameters; its input is the one-hot species, not an embedding."""
    channels = settings["channels"]
    irreps = "+".join(f"{n}x{l}{'eo'[l % 2]}" for l, n in enumerate(channels))
    return Nequix(
        jax.random.key(0),
        n_species=len(settings["species"]),
        lmax=settings["l_max"],
        cutoff=settings["cutoff"],
        hidden_irreps=irreps,
        n_layers=settings["layers"],
        radial_basis_size=settings["radial_basis"],
        radial_mlp_size=settings["radial_mlp"][0],
        radial_mlp_layers=len(settings["radial_mlp"]),
        radial_polynomial_p=float(settings["envelope_exponent"]),
        avg_n_neighbors=settings["average_neighbors"],
        scale=settings["energy_scale"],
        layer_norm=False,
        kernel=False,
    )


class RandomNequix(NequixCalculator):
    """Nequix's calculator around a model that was not read from a file."""

    def __init__(self, model: Nequix, indices: dict[int, int]) -> None:
        Calculator.__init__(self)
        self.model, self.cutoff, self.atom_indices = model, model.cutoff, indices
        self.backend = "jax"
        self._capacity, self._capacity_multiplier = None, 1.1


def inference(case: dict, settings: dict, indices: dict[int, int]) -> Program:
    """Evaluation and molecular dynamics of one structure."""
    atoms = to_atoms(case["structures"][0])
    model = make_model(settings)
    calculator = RandomNequix(model, indices)
    graph = dict_to_graphstuple(preprocess_graph(atoms, indices, model.cutoff, False))
    padded = calculator._pad_graph_jax(graph)

    def evaluate() -> Task:
        predict = eqx.filter_jit(model)

        def run() -> None:
            jax.device_get(predict(padded)[:2])

        return Task(run)

    def dynamics() -> Task:
        atoms.calc = calculator
        run, reset = velocity_verlet(atoms, case["md_steps"], case["timestep_fs"])
        return Task(run, reset, case["md_steps"])

    modes = {"evaluate": {"jit": evaluate}, "md": {"jit + ase": dynamics}}
    return Program(modes, describe(model, graph.n_edge.sum()))


def labelled(atoms, indices: dict[int, int], cutoff: float) -> jraph.GraphsTuple:
    """A graph with labels; the loss reads a stress even without weight, so it gets zeros."""
    graph = dict_to_graphstuple(preprocess_graph(atoms, indices, cutoff, True))
    return graph._replace(globals=graph.globals | {"stress": np.zeros((1, 3, 3), np.float32)})


def training(case: dict, settings: dict, indices: dict[int, int]) -> Program:
    """Adam steps on nequix's loss over prepared batches, padded to the largest of them."""
    model = make_model(settings)
    graphs = [labelled(to_atoms(s), indices, model.cutoff) for s in case["structures"]]
    merged = [jraph.batch_np(batch) for batch in batches(graphs, case["batch_size"])]
    nodes = max(int(batch.n_node.sum()) for batch in merged) + 1
    edges = max(int(batch.n_edge.sum()) for batch in merged)
    prepared = [jraph.pad_with_graphs(b, nodes, edges, case["batch_size"] + 1) for b in merged]
    optimizer = optax.adam(settings["learning_rate"])
    energy_weight, force_weight = settings["loss_weights"]

    @eqx.filter_jit
    def step(model, state, batch):
        gradient = eqx.filter_grad(loss, has_aux=True)
        grads, _ = gradient(model, batch, energy_weight, force_weight, 0.0, "mse")
        updates, state = optimizer.update(grads, state)
        return eqx.apply_updates(model, updates), state

    def train() -> Task:
        current = [model, optimizer.init(eqx.filter(model, eqx.is_array))]
        stream = cycle(prepared)

        def run() -> None:
            current[:] = jax.block_until_ready(step(*current, next(stream)))

        return Task(run)

    real = sum(int(batch.n_edge.sum()) for batch in merged)
    return Program({"train": {"jit": train}}, describe(model, real))


def describe(model: Nequix, edges: int) -> dict:
    """The number of parameters and of directed pairs."""
    leaves = jax.tree.leaves(eqx.filter(model, eqx.is_array))
    return {
        "parameters": int(sum(np.size(leaf) for leaf in leaves)),
        "edges": int(edges),
        "versions": versions("nequix", "jax", "jaxlib", "e3nn-jax", "equinox", "ase", "matscipy"),
    }


def build(case: dict, settings: dict) -> Program:
    """Build the program that the case asks for."""
    indices = atomic_numbers_to_indices(settings["atomic_numbers"])
    make = training if "batch_size" in case else inference
    return make(case, settings, indices)


if __name__ == "__main__":
    serve(build)
