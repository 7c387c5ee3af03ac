"""matgl (PyTorch, PyG): its `TensorNet` with gated readout and its ASE calculator, eager."""

from itertools import cycle

import numpy as np
import torch
from matgl.apps.pes import Potential
from matgl.ext.ase import Atoms2Graph, PESCalculator
from matgl.models import TensorNet
from protocol import Program, Task, serve, versions
from structures import batches, to_atoms, velocity_verlet
from torch_geometric.data import Batch


def make_potential(settings: dict, stresses: bool) -> Potential:
    """The model with random parameters, for energies, forces and, if asked for, stresses."""
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
        def run() -> None:
            energy, forces, *_ = potential(graph, lattice)
            energy.detach().numpy(), forces.detach().numpy()

        return Task(run)

    def dynamics() -> Task:
        atoms.calc = PESCalculator(potential)
        run, reset = velocity_verlet(atoms, case["md_steps"], case["timestep_fs"])
        return Task(run, reset, case["md_steps"])

    modes = {"evaluate": {"eager": evaluate}, "md": {"eager + ase": dynamics}}
    return Program(modes, describe(potential, graph.edge_index.shape[1]))


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
    return training(case, settings) if "batch_size" in case else inference(case, settings)


if __name__ == "__main__":
    serve(build)
