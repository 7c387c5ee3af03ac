"""Our own models, or a published potential, under `jit`, `simulate` and `train`."""

import dataclasses
from itertools import cycle
from pathlib import Path

import jax
import numpy as np
from mlip_jax_dynamics import dynamics_tasks
from protocol import Program, Task, serve, versions
from structures import batches

from mlip_jax import compilation
from mlip_jax.data.batching import Batch, make_labels
from mlip_jax.data.collate import collate, exact_bucket, make_graph
from mlip_jax.data.structure import Structure, StructureLabels
from mlip_jax.graph import AtomicGraph
from mlip_jax.models import requirements
from mlip_jax.models.initial import initial_variables
from mlip_jax.models.mace import MACE
from mlip_jax.models.nequip import NequIP
from mlip_jax.models.tensornet import TensorNet
from mlip_jax.neighbors.host import neighbor_list
from mlip_jax.potential import Potential, predict_fn

BLOCKS = {"jit": 0, "jit, blocks of 8": 8, "jit, blocks of 16": 16, "jit, blocks of 32": 32}


def make_model(settings: dict) -> NequIP | MACE | TensorNet:
    """The model; its parameters come from `init`."""
    if settings["model"] == "tensornet":
        return TensorNet(
            species=tuple(settings["atomic_numbers"]),
            cutoff=settings["cutoff"],
            num_layers=settings["layers"],
            num_features=settings["channels"][0],
            radial_basis="gaussian",
            num_radial=settings["radial_basis"],
            gaussian_range=settings["cutoff"] + 1.0,
            readout="gated",
            energy_scale=settings["energy_scale"],
        )
    if settings["model"] == "mace":
        irreps = [f"{n}x{l}{'eo'[l % 2]}" for l, n in enumerate(settings["channels"])]
        return MACE(
            species=tuple(settings["atomic_numbers"]),
            cutoff=settings["cutoff"],
            num_layers=settings["layers"],
            hidden_irreps="+".join(irreps),
            max_ell=settings["l_max"],
            correlation=settings["correlation"],
            num_bessels=settings["radial_basis"],
            polynomial_cutoff_p=settings["envelope_exponent"],
            radial_mlp=tuple(settings["radial_mlp"]),
            avg_num_neighbors=settings["average_neighbors"],
            energy_scale=settings["energy_scale"],
        )
    return NequIP(
        species=tuple(settings["atomic_numbers"]),
        cutoff=settings["cutoff"],
        num_layers=settings["layers"],
        l_max=settings["l_max"],
        parity=False,
        num_features=tuple(settings["channels"]),
        num_bessels=settings["radial_basis"],
        polynomial_cutoff_p=settings["envelope_exponent"],
        radial_mlp_depth=len(settings["radial_mlp"]),
        radial_mlp_width=settings["radial_mlp"][0],
        avg_num_neighbors=settings["average_neighbors"],
        energy_scale=settings["energy_scale"],
    )


def make_potential(settings: dict, structure: Structure) -> Potential:
    """The published potential that the settings name, or one with random parameters."""
    if "files" in settings:
        from mlip_jax.interop import weights

        return weights.read(settings["format"], [Path(name) for name in settings["files"]])
    model = make_model(settings)
    variables = initial_variables(model, 0, make_graph(structure, model.cutoff))
    return Potential(model, variables, dict.fromkeys(settings["atomic_numbers"], 0.0))


def to_structure(entry: dict) -> Structure:
    """A structure of a request with its labels, if any."""
    labels = StructureLabels()
    if "forces" in entry:
        labels = StructureLabels(energy=entry["energy"], forces=np.asarray(entry["forces"]))
    return Structure(
        atomic_numbers=np.asarray(entry["numbers"]),
        positions=np.asarray(entry["positions"]),
        cell=np.asarray(entry["cell"]),
        pbc=np.ones(3, bool),
        labels=labels,
    )


def inference(case: dict, settings: dict) -> Program:
    """Evaluation and molecular dynamics of one structure."""
    structure = to_structure(case["structures"][0])
    potential = make_potential(settings, structure)
    model, needs = potential.model, requirements(potential.model)
    variables = potential.variables_in(np.float32)
    predict = predict_fn(model)

    reference = float(potential.reference_energy(structure.atomic_numbers).sum())

    def prepare_graph(block: int) -> AtomicGraph:
        return make_graph(
            structure,
            needs.cutoff,
            prefix_cutoffs=needs.prefix_cutoffs,
            pair_cutoffs=needs.pair_cutoffs,
            reverse=needs.reverse,
            block=block,
        )

    def evaluate(block: int) -> Task:
        blocked = jax.device_put(prepare_graph(block))

        @jax.jit
        def compute(variables, graph):
            prediction = predict(variables, graph)
            return prediction.energy, prediction.forces, prediction.stress

        times = case.get("evaluations", 1)

        def run() -> float:
            energy = 0.0
            for _ in range(times):
                energy = float(jax.device_get(compute(variables, blocked))[0][0])
            return reference + energy

        return Task(run, units=times)

    tasks = {"evaluate": evaluate} | dynamics_tasks(potential, structure, case)
    modes = {
        task: {mode: lambda make=make, block=block: make(block) for mode, block in BLOCKS.items()}
        for task, make in tasks.items()
    }
    return Program(modes, describe(variables, int(np.sum(prepare_graph(0).edge_mask))))


def screening(case: dict, settings: dict) -> Program:
    """Energies, forces and stresses of a list of structures, neighbour lists included."""
    from mlip_jax.inference import predict

    structures = [to_structure(entry) for entry in case["structures"]]
    potential = make_potential(settings, structures[0])
    cutoff = requirements(potential.model).cutoff
    lists = [neighbor_list(s.positions, s.cell, s.pbc, cutoff) for s in structures]

    def screen() -> Task:
        def run() -> float:
            return sum(one.energy for one in predict(potential, structures))

        return Task(run, units=len(structures))

    edges = sum(len(pairs.neighbors) for pairs in lists)
    described = describe(potential.variables_in(np.float32), edges)
    return Program({"screen": {"predict": screen}}, described)


def training(case: dict, settings: dict) -> Program:
    """Adam in our training step over prepared batches, padded to the largest of them."""
    # Only here: whoever evaluates does not load optimisers.
    from jax.sharding import Mesh

    from mlip_jax.train import optimizer as optimizers
    from mlip_jax.train import step as steps
    from mlip_jax.train.loss import LossConfig, PropertyLoss

    structures = [to_structure(entry) for entry in case["structures"]]
    model = make_model(settings)
    lists = [neighbor_list(s.positions, s.cell, s.pbc, model.cutoff) for s in structures]
    longest = max(pairs.max_count() for pairs in lists)
    grouped = batches(list(zip(structures, lists, strict=True)), case["batch_size"])
    zero = dict.fromkeys(settings["atomic_numbers"], 0.0)

    def batch(members: list, block: int) -> Batch:
        own, pairs = zip(*members, strict=True)
        bucket = dataclasses.replace(exact_bucket(pairs, block=block), max_neighbors=longest)
        labels = make_labels(own, bucket, zero, ("energy", "forces"))
        return Batch(collate(own, pairs, bucket), labels)

    variables = initial_variables(model, 0, batch(grouped[0], 0).graph)
    energy_weight, force_weight = settings["loss_weights"]
    loss = LossConfig(PropertyLoss(energy_weight), PropertyLoss(force_weight))
    config = optimizers.OptimizerConfig(name="adam", learning_rate=settings["learning_rate"])
    optimizer = optimizers.build(config, variables["params"], 1, 1)
    mesh = Mesh(np.array(jax.devices()[:1]), (steps.AXIS,))

    def train(block: int) -> Task:
        prepared = [steps.put_batch(batch(members, block), mesh) for members in grouped]
        step = jax.jit(
            steps.step_fn(predict_fn(model), loss, optimizer, None, mesh), donate_argnums=0
        )
        parameters = jax.tree.map(np.array, variables["params"])
        # Placed as the step returns it: else the second call would compile again.
        placed = steps.init_state(optimizer, parameters, None)
        state = [jax.device_put(placed, steps.replicated(mesh))]
        constants, weights = steps.constants_of(variables), loss.weights(0)
        stream = cycle(prepared)

        def run() -> None:
            state[0], _ = jax.block_until_ready(step(state[0], constants, next(stream), weights))

        return Task(run)

    modes = {mode: lambda block=block: train(block) for mode, block in BLOCKS.items()}
    edges = sum(len(pairs.neighbors) for pairs in lists)
    return Program({"train": modes}, describe(variables, edges))


def describe(variables, edges: int) -> dict:
    """The number of parameters and of directed pairs."""
    return {
        "parameters": int(sum(np.size(leaf) for leaf in jax.tree.leaves(variables["params"]))),
        "edges": edges,
        "versions": versions("mlip_jax", "jax", "jaxlib", "flax", "e3nn-jax", "jax-md", "ase"),
    }


def build(case: dict, settings: dict) -> Program:
    """Build the program that the case asks for."""
    compilation.use_older_emitters()
    if "batch_size" in case:
        return training(case, settings)
    make = screening if "screen" in case.get("tasks", ()) else inference
    return make(case, settings)


if __name__ == "__main__":
    serve(build)
