"""chgnet (PyTorch): its published model, its batched prediction and its ASE calculator."""

import numpy as np
import torch
from chgnet.model import CHGNet
from chgnet.model.dynamics import CHGNetCalculator
from protocol import Program, Task, serve, versions
from pymatgen.io.ase import AseAtomsAdaptor
from structures import to_atoms, velocity_verlet

VERSION = "0.3.0"
TASK = "efs"
"""Energy, forces and stress, as the others compute them; no moments."""


def make_model() -> CHGNet:
    """The published model, which the package brings along."""
    return CHGNet.load(model_name=VERSION, use_device="cpu", check_cuda_mem=False, verbose=False)


def inference(case: dict, settings: dict) -> Program:
    """Evaluation and molecular dynamics of one structure."""
    atoms = to_atoms(case["structures"][0])
    model = make_model()
    graph = model.graph_converter(AseAtomsAdaptor.get_structure(atoms))

    def evaluate() -> Task:
        def run() -> float:
            prediction = model.predict_graph(graph, task=TASK)
            return float(prediction["e"]) * len(atoms)

        return Task(run)

    def dynamics() -> Task:
        atoms.calc = CHGNetCalculator(model, use_device="cpu", check_cuda_mem=False)
        run, reset = velocity_verlet(atoms, case["md_steps"], case["timestep_fs"])
        return Task(run, reset, case["md_steps"])

    modes = {"evaluate": {"eager": evaluate}, "md": {"eager + ase": dynamics}}
    return Program(modes, describe(model, len(graph.atom_graph)))


def screening(case: dict, settings: dict) -> Program:
    """A list of structures through its batched prediction, graphs included."""
    structures = [to_atoms(entry) for entry in case["structures"]]
    model = make_model()

    def converted() -> list:
        return [AseAtomsAdaptor.get_structure(atoms) for atoms in structures]

    def screen(size: int) -> Task:
        def run() -> float:
            found = model.predict_structure(converted(), task=TASK, batch_size=size)
            energies = [float(one["e"]) for one in found]
            return float(np.dot(energies, [len(atoms) for atoms in structures]))

        return Task(run, units=len(structures))

    edges = sum(len(model.graph_converter(one).atom_graph) for one in converted())
    modes = {f"batches of {n}": lambda n=n: screen(n) for n in (4, 16)}
    return Program({"screen": modes}, describe(model, edges))


def describe(model: CHGNet, edges: int) -> dict:
    """The number of parameters and of directed pairs."""
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "edges": edges,
        "versions": versions("chgnet", "torch", "pymatgen", "ase"),
    }


def build(case: dict, settings: dict) -> Program:
    """Build the program that the case asks for."""
    torch.set_num_threads(settings["threads"])
    make = screening if "screen" in case["tasks"] else inference
    return make(case, settings)


if __name__ == "__main__":
    serve(build)
