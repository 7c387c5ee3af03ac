"""Nequix (JAX, equinox, e3nn-jax) without its GPU kernel: its calculator, its loss, ASE's MD."""

import json
import tempfile
from itertools import cycle
from pathlib import Path

import checkpoint
import equinox as eqx
import jax
import jraph
import numpy as np
import optax
from ase.calculators.calculator import Calculator
from nequix.calculator import NequixCalculator
from nequix.data import atomic_numbers_to_indices, dict_to_graphstuple, preprocess_graph
from nequix.model import Nequix, load_model
from nequix.train import loss
from protocol import Program, Task, serve, versions
from structures import batches, to_atoms, velocity_verlet


def published(files: list[str]) -> Nequix:
    """A published model, by way of a file in the program's own format: JSON, then the arrays."""
    config, arrays = checkpoint.read(files)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.nqx"
        with path.open("wb") as file:
            file.write(json.dumps(config).encode() + b"\n")
            for name in config["parameter_shapes"]:
                np.save(file, arrays[name])
        return load_model(path, kernel=False)[0]


def make_model(settings: dict) -> Nequix:
    """The published model, or one with random parameters; its input is the one-hot species."""
    if "files" in settings:
        return published(settings["files"])
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


class GivenNequix(NequixCalculator):
    """Nequix's calculator around a model that is there already."""

    def __init__(self, model: Nequix, indices: dict[int, int]) -> None:
        Calculator.__init__(self)
        self.model, self.cutoff, self.atom_indices = model, model.cutoff, indices
        self.backend = "jax"
        self._capacity, self._capacity_multiplier = None, 1.1


def inference(case: dict, settings: dict, indices: dict[int, int]) -> Program:
    """Evaluation and molecular dynamics of one structure."""
    atoms = to_atoms(case["structures"][0])
    model = make_model(settings)
    calculator = GivenNequix(model, indices)
    graph = dict_to_graphstuple(preprocess_graph(atoms, indices, model.cutoff, False))
    padded = calculator._pad_graph_jax(graph)

    def evaluate() -> Task:
        predict = eqx.filter_jit(model)

        def run() -> float:
            return float(jax.device_get(predict(padded)[:2])[0][0])

        return Task(run)

    def dynamics() -> Task:
        atoms.calc = calculator
        run, reset = velocity_verlet(atoms, case["md_steps"], case["timestep_fs"])
        return Task(run, reset, case["md_steps"])

    modes = {"evaluate": {"jit": evaluate}, "md": {"jit + ase": dynamics}}
    return Program(modes, describe(model, graph.n_edge.sum()))


def screening(case: dict, settings: dict, indices: dict[int, int]) -> Program:
    """A list of structures in padded batches, as the program makes them for training.

    Its calculator would compile anew for almost every structure.
    """
    structures = [to_atoms(entry) for entry in case["structures"]]
    model = make_model(settings)

    def make_graph(atoms) -> jraph.GraphsTuple:
        return dict_to_graphstuple(preprocess_graph(atoms, indices, model.cutoff, False))

    edges = [int(make_graph(atoms).n_edge.sum()) for atoms in structures]
    largest = max(edges), max(map(len, structures))
    usual = sum(edges) / len(edges), sum(map(len, structures)) / len(structures)

    def screen(size: int) -> Task:
        predict = eqx.filter_jit(model)
        room_edges, room_atoms = (
            64 * (int(max(large, size * mean)) // 64 + 2)
            for large, mean in zip(largest, usual, strict=True)
        )

        def run() -> float:
            total = 0.0
            graphs = map(make_graph, structures)
            for batch in jraph.dynamically_batch(graphs, room_atoms, room_edges, 2 * size + 1):
                energies, _, _ = jax.device_get(predict(batch))
                total += float(energies[np.asarray(jraph.get_graph_padding_mask(batch))].sum())
            return total

        return Task(run, units=len(structures))

    modes = {f"batches of {size}": lambda size=size: screen(size) for size in (4, 16)}
    return Program({"screen": modes}, describe(model, sum(edges)))


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
    numbers = settings["atomic_numbers"]
    if "files" in settings:
        numbers = checkpoint.read(settings["files"])[0]["atomic_numbers"]
    indices = atomic_numbers_to_indices(numbers)
    if "batch_size" in case:
        return training(case, settings, indices)
    make = screening if "screen" in case.get("tasks", ()) else inference
    return make(case, settings, indices)


if __name__ == "__main__":
    serve(build)
