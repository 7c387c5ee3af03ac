"""InstaDeep's mlip (JAX, flax, e3j): its force field, JAX-MD engine or ASE calculator, and step."""

import logging
from itertools import cycle

import jax
import numpy as np
import optax
from mlip.data.chemical_system import ChemicalSystem
from mlip.data.dataset_info import DatasetInfo
from mlip.data.helpers.dynamically_batch import dynamically_batch
from mlip.graph import Graph
from mlip.models import ForceField
from mlip.models.loss import MSELoss
from mlip.models.mace.network import Mace
from mlip.models.nequip.network import Nequip
from mlip.simulation.ase.mlip_ase_calculator import MLIPForceFieldASECalculator
from mlip.simulation.configs.jax_md_config import JaxMDSimulationConfig
from mlip.simulation.enums import MDIntegrator
from mlip.simulation.jax_md import JaxMDSimulationEngine
from mlip.training.ema import exponentially_moving_average
from mlip.training.training_state import init_training_state
from mlip.training.training_step import make_train_step
from protocol import Program, Task, serve, versions
from structures import batches, to_atoms, velocity_verlet


def make_force_field(settings: dict) -> ForceField:
    """The force field with random parameters, for energies and forces."""
    common = {
        "num_layers": settings["layers"],
        "l_max": settings["l_max"],
        "num_rbf": settings["radial_basis"],
        "radial_mlp_hidden": settings["radial_mlp"],
        "avg_num_neighbors": settings["average_neighbors"],
    }
    info = DatasetInfo(
        atomic_energies_map=dict.fromkeys(settings["atomic_numbers"], 0.0),
        graph_cutoff_angstrom=settings["cutoff"],
        avg_num_neighbors=settings["average_neighbors"],
        scaling_stdev=settings["energy_scale"],
    )
    if settings["model"] == "mace":
        config = Mace.Config(
            **common,
            num_channels=settings["channels"][0],
            node_symmetry=len(settings["channels"]) - 1,
            correlation=settings["correlation"],
            residual_connection_first_layer=True,
        )
        return ForceField.from_mlip_network(Mace(config, info))
    irreps = "+".join(f"{n}x{l}{'eo'[l % 2]}" for l, n in enumerate(settings["channels"]))
    config = Nequip.Config(**common, target_irreps=irreps)
    return ForceField.from_mlip_network(Nequip(config, info))


def make_graph(atoms, cutoff: float, labels: bool) -> Graph:
    """The graph of a structure as mlip builds it, `cutoff` in Å."""
    system = ChemicalSystem.from_ase_atoms(atoms, get_property_fields=labels)
    return Graph.from_chemical_system(system, cutoff)


def pad(graphs: list[Graph], nodes: int, edges: int) -> Graph:
    """One batch of `nodes` atoms and `edges` pairs, and a dummy graph that takes the padding."""
    sizes = {"n_node": nodes + 1, "n_edge": edges + 1, "n_graph": len(graphs) + 1}
    return next(dynamically_batch(graphs, **sizes))


def inference(case: dict, settings: dict) -> Program:
    """Evaluation and molecular dynamics of one structure."""
    atoms = to_atoms(case["structures"][0])
    force_field = make_force_field(settings)
    graph = make_graph(atoms, settings["cutoff"], labels=False)
    edges = len(graph.senders)
    steps = case["md_steps"]

    def evaluate() -> Task:
        predict = jax.jit(lambda graph: force_field.calculate(graph).to_prediction())
        padded = pad([graph], len(atoms), edges)

        def run() -> None:
            prediction = predict(padded)
            jax.device_get((prediction.energy, prediction.forces))

        return Task(run)

    def engine() -> Task:
        config = JaxMDSimulationConfig(
            md_integrator=MDIntegrator.NVE_VELOCITY_VERLET,
            num_steps=steps,
            num_episodes=1,
            snapshot_interval=steps,
            timestep_fs=case["timestep_fs"],
            temperature_kelvin=case["temperature_K"],
        )
        simulation = JaxMDSimulationEngine(atoms, force_field, config)
        start, empty = simulation._internal_state, simulation.state.positions

        def reset() -> None:
            simulation._internal_state = start
            for name in ("positions", "forces", "velocities", "temperature", "kinetic_energy"):
                setattr(simulation.state, name, empty)
            simulation.state.potential_energy = empty

        def run() -> None:
            simulation.run()
            jax.block_until_ready(simulation._internal_state.jax_md_state.position)

        return Task(run, reset, steps)

    def dynamics() -> Task:
        copy = atoms.copy()
        copy.calc = MLIPForceFieldASECalculator(copy, 1.1, force_field)
        run, reset = velocity_verlet(copy, steps, case["timestep_fs"])
        return Task(run, reset, steps)

    modes = {"evaluate": {"jit": evaluate}, "md": {"jax-md engine": engine, "jit + ase": dynamics}}
    return Program(modes, describe(force_field, edges))


def training(case: dict, settings: dict) -> Program:
    """Adam in mlip's own training step over prepared batches, padded to the largest of them."""
    force_field = make_force_field(settings)
    graphs = [make_graph(to_atoms(s), settings["cutoff"], labels=True) for s in case["structures"]]
    grouped = batches(graphs, case["batch_size"])
    nodes = max(sum(int(g.n_node[0]) for g in group) for group in grouped)
    edges = max(sum(len(g.senders) for g in group) for group in grouped)
    prepared = [pad(group, nodes, edges) for group in grouped]
    optimizer = optax.adam(settings["learning_rate"])
    average = exponentially_moving_average()
    energy_weight, force_weight = settings["loss_weights"]
    loss = MSELoss(lambda _: energy_weight, lambda _: force_weight, lambda _: 0.0)

    def train() -> Task:
        step = make_train_step(force_field.predictor, loss, optimizer, average, case["batch_size"])
        state = [init_training_state(force_field.params, optimizer, average)]
        stream = cycle(prepared)

        def run() -> None:
            state[0], _ = jax.block_until_ready(step(state[0], next(stream), 0))

        return Task(run)

    return Program(
        {"train": {"jit": train}}, describe(force_field, sum(len(g.senders) for g in graphs))
    )


def describe(force_field: ForceField, edges: int) -> dict:
    """The number of parameters and of directed pairs."""
    return {
        "parameters": int(sum(np.size(leaf) for leaf in jax.tree.leaves(force_field.params))),
        "edges": int(edges),
        "versions": versions("mlip", "jax", "jaxlib", "e3j", "e3nn-jax", "flax", "jax-md", "ase"),
    }


def build(case: dict, settings: dict) -> Program:
    """Build the program that the case asks for."""
    logging.getLogger("mlip").setLevel(logging.WARNING)
    return training(case, settings) if "batch_size" in case else inference(case, settings)


if __name__ == "__main__":
    serve(build)
