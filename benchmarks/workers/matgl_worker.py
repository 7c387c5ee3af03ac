"""matgl (PyTorch, PyG): its `TensorNet` or published potentials, its ASE calculator, eager."""

from itertools import cycle

import checkpoint
import numpy as np
import torch
from matgl.apps.pes import Potential
from matgl.ext.ase import Atoms2Graph, PESCalculator
from matgl.models import M3GNet, TensorNet
from protocol import Program, Task, serve, versions
from structures import batches, to_atoms, velocity_verlet
from torch_geometric.data import Batch


def published(files: list[str]) -> Potential:
    """A published potential, with stresses."""
    config, arrays = checkpoint.read(files)
    model_class = {"M3GNet": M3GNet, "TensorNet": TensorNet}[config["architecture"]]
    arguments = {name: value for name, value in config["init_args"].items() if name != "dtype"}
    model = model_class(**arguments | {"element_types": tuple(arguments["element_types"])})
    weights = {
        name.removeprefix("model."): torch.from_numpy(value)
        for name, value in arrays.items()
        if name.startswith("model.")
    }
    model.load_state_dict(weights)
    return Potential(
        model,
        data_mean=config["data_mean"],
        data_std=config["data_std"],
        element_refs=np.asarray(config["element_refs"]),
    )


def make_potential(settings: dict, stresses: bool) -> Potential:
    """The published potential, or one with random parameters, with stresses if asked for."""
    if "files" in settings:
        return published(settings["files"])
    torch.manual_seed(0)
    model = TensorNet(
        element_types=tuple(settings["species"]),
        units=settings["channels"][0],
        nblocks=settings["layers"],
        num_rbf=settings["radial_basis"],
        rbf_type="Gaussian",
        activation_type="swish",
        cutoff=settings["cutoff"],
        is_intensive=False,
    )
    return Potential(model, data_std=settings["energy_scale"], calc_stresses=stresses)


def make_graph(atoms, settings: dict) -> tuple:
    """The graph of a structure and its lattice as the potential takes it."""
    graph, lattice, _ = Atoms2Graph(tuple(settings["species"]), settings["cutoff"]).get_graph(atoms)
    return graph, lattice.reshape(1, 3, 3)


def inference(case: dict, settings: dict) -> Program:
    """Evaluation and molecular dynamics of one structure."""
    atoms = to_atoms(case["structures"][0])
    potential = make_potential(settings, stresses=True).eval()
    for parameter in potential.parameters():
        parameter.requires_grad = False
    graph, lattice = make_graph(atoms, settings)

    def evaluate() -> Task:
        def run() -> float:
            energy, forces, *_ = potential(graph, lattice)
            forces.detach().numpy()
            return float(energy.detach())

        return Task(run)

    def dynamics() -> Task:
        atoms.calc = PESCalculator(potential)
        run, reset = velocity_verlet(atoms, case["md_steps"], case["timestep_fs"])
        return Task(run, reset, case["md_steps"])

    modes = {"evaluate": {"eager": evaluate}, "md": {"eager + ase": dynamics}}
    return Program(modes, describe(potential, graph.edge_index.shape[1]))


def screening(case: dict, settings: dict) -> Program:
    """A list of structures, one at a time or in batches."""
    structures = [to_atoms(entry) for entry in case["structures"]]
    potential = make_potential(settings, stresses=True).eval()
    for parameter in potential.parameters():
        parameter.requires_grad = False

    def screen(size: int) -> Task:
        def run() -> float:
            total = 0.0
            for start in range(0, len(structures), size):
                members = [
                    make_graph(atoms, settings) for atoms in structures[start : start + size]
                ]
                graphs, lattices = zip(*members, strict=True)
                graph = Batch.from_data_list(list(graphs)) if size > 1 else graphs[0]
                energy, forces, *_ = potential(graph, torch.cat(lattices))
                forces.detach().numpy()
                total += float(energy.detach().sum())
            return total

        return Task(run, units=len(structures))

    edges = sum(make_graph(atoms, settings)[0].edge_index.shape[1] for atoms in structures)
    sizes = {"one by one": 1, "batches of 4": 4, "batches of 16": 16}
    modes = {mode: lambda size=size: screen(size) for mode, size in sizes.items()}
    return Program({"screen": modes}, describe(potential, edges))


def training(case: dict, settings: dict) -> Program:
    """Adam steps over prepared batches, without Lightning's bookkeeping."""
    structures = [to_atoms(entry) for entry in case["structures"]]
    graphs = [make_graph(atoms, settings) for atoms in structures]
    prepared = []
    for members in batches(list(zip(structures, graphs, strict=True)), case["batch_size"]):
        own, pairs = zip(*members, strict=True)
        energies = np.array([atoms.get_potential_energy() for atoms in own], np.float32)
        forces = np.concatenate([atoms.get_forces() for atoms in own]).astype(np.float32)
        prepared.append(
            (
                Batch.from_data_list([graph for graph, _ in pairs]),
                torch.cat([lattice for _, lattice in pairs]),
                torch.tensor([len(atoms) for atoms in own]),
                torch.from_numpy(energies),
                torch.from_numpy(forces),
            )
        )
    energy_weight, force_weight = settings["loss_weights"]

    def train() -> Task:
        potential = make_potential(settings, stresses=False).train()
        optimizer = torch.optim.Adam(potential.parameters(), lr=settings["learning_rate"])
        stream = cycle(prepared)

        def run() -> None:
            graph, lattices, counts, energies, forces = next(stream)
            energy, force, *_ = potential(graph, lattices)
            loss = energy_weight * ((energy - energies) / counts).square().mean()
            loss = loss + force_weight * (force - forces).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

        return Task(run)

    edges = sum(graph.edge_index.shape[1] for graph, _ in graphs)
    return Program({"train": {"eager": train}}, describe(make_potential(settings, False), edges))


def describe(potential: Potential, edges: int) -> dict:
    """The number of parameters and of directed pairs."""
    return {
        "parameters": sum(p.numel() for p in potential.model.parameters()),
        "edges": int(edges),
        "versions": versions("matgl", "torch", "torch-geometric", "ase", "pymatgen"),
    }


def build(case: dict, settings: dict) -> Program:
    """Build the program that the case asks for."""
    torch.set_num_threads(settings["threads"])
    torch.set_default_dtype(torch.float32)
    if "files" in settings:
        settings["species"] = checkpoint.read(settings["files"])[0]["init_args"]["element_types"]
    if "batch_size" in case:
        return training(case, settings)
    make = screening if "screen" in case.get("tasks", ()) else inference
    return make(case, settings)


if __name__ == "__main__":
    serve(build)
