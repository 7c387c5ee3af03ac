"""mace-torch (PyTorch): its `ScaleShiftMACE` and ASE calculator, eager."""

import os
from itertools import cycle

# e3nn 0.4 keeps its constants in a pickle, which torch would not load.
os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] = "1"

import numpy as np
import torch
from e3nn import o3
from mace import data, modules
from mace.calculators import MACECalculator
from mace.tools import AtomicNumberTable, torch_geometric
from protocol import Program, Task, serve, versions
from structures import batches, to_atoms, velocity_verlet


def make_model(settings: dict) -> torch.nn.Module:
    """The model with random parameters."""
    torch.manual_seed(0)
    irreps = "+".join(f"{n}x{l}{'eo'[l % 2]}" for l, n in enumerate(settings["channels"]))
    block = modules.interaction_classes["RealAgnosticResidualInteractionBlock"]
    count = len(settings["atomic_numbers"])
    return modules.ScaleShiftMACE(
        r_max=settings["cutoff"],
        num_bessel=settings["radial_basis"],
        num_polynomial_cutoff=settings["envelope_exponent"],
        max_ell=settings["l_max"],
        interaction_cls=block,
        interaction_cls_first=block,
        num_interactions=settings["layers"],
        num_elements=count,
        hidden_irreps=o3.Irreps(irreps),
        MLP_irreps=o3.Irreps("16x0e"),
        atomic_energies=np.zeros(count),
        avg_num_neighbors=settings["average_neighbors"],
        atomic_numbers=settings["atomic_numbers"],
        correlation=settings["correlation"],
        gate=torch.nn.functional.silu,
        radial_MLP=settings["radial_mlp"],
        atomic_inter_scale=settings["energy_scale"],
        atomic_inter_shift=0.0,
    )


def make_graph(atoms, settings: dict) -> data.AtomicData:
    """The graph of a structure, with its labels where it has any."""
    table = AtomicNumberTable(settings["atomic_numbers"])
    keys = data.KeySpecification()
    if atoms.calc is not None:
        atoms.info["energy"] = atoms.get_potential_energy()
        atoms.arrays["forces"] = atoms.get_forces()
        keys = data.KeySpecification({"energy": "energy"}, {"forces": "forces"})
    config = data.config_from_atoms(atoms, key_specification=keys)
    return data.AtomicData.from_config(config, z_table=table, cutoff=settings["cutoff"])


def batched(graphs: list[data.AtomicData]) -> dict:
    """One batch as the model takes it."""
    loader = torch_geometric.dataloader.DataLoader(graphs, batch_size=len(graphs), shuffle=False)
    return next(iter(loader)).to_dict()


def inference(case: dict, settings: dict) -> Program:
    """Evaluation and molecular dynamics of one structure."""
    atoms = to_atoms(case["structures"][0])
    graph = make_graph(atoms, settings)
    model = make_model(settings).eval()
    for parameter in model.parameters():
        parameter.requires_grad = False

    def evaluate() -> Task:
        batch = batched([graph])

        def run() -> None:
            output = model(
                {key: value.clone() for key, value in batch.items()}, compute_stress=True
            )
            output["energy"].detach().numpy(), output["forces"].detach().numpy()

        return Task(run)

    def dynamics() -> Task:
        atoms.calc = MACECalculator(models=[model], device="cpu", default_dtype="float32")
        run, reset = velocity_verlet(atoms, case["md_steps"], case["timestep_fs"])
        return Task(run, reset, case["md_steps"])

    modes = {"evaluate": {"eager": evaluate}, "md": {"eager + ase": dynamics}}
    return Program(modes, describe(model, graph.edge_index.shape[1]))


def training(case: dict, settings: dict) -> Program:
    """Adam steps over prepared batches, without mace's bookkeeping."""
    graphs = [make_graph(to_atoms(entry), settings) for entry in case["structures"]]
    prepared = [batched(group) for group in batches(graphs, case["batch_size"])]
    energy_weight, force_weight = settings["loss_weights"]

    def train() -> Task:
        model = make_model(settings).train()
        optimizer = torch.optim.Adam(model.parameters(), lr=settings["learning_rate"])
        stream = cycle(prepared)

        def run() -> None:
            batch = next(stream)
            fields = {key: value.clone() for key, value in batch.items()}
            output = model(fields, training=True, compute_force=True)
            counts = batch["ptr"][1:] - batch["ptr"][:-1]
            energy = ((output["energy"] - batch["energy"]) / counts).square().mean()
            forces = (output["forces"] - batch["forces"]).square().mean()
            optimizer.zero_grad()
            (energy_weight * energy + force_weight * forces).backward()
            optimizer.step()

        return Task(run)

    edges = sum(batch["edge_index"].shape[1] for batch in prepared)
    return Program({"train": {"eager": train}}, describe(make_model(settings), edges))


def describe(model: torch.nn.Module, edges: int) -> dict:
    """The number of parameters and of directed pairs."""
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "edges": int(edges),
        "versions": versions("mace-torch", "torch", "e3nn", "ase", "matscipy"),
    }


def build(case: dict, settings: dict) -> Program:
    """Build the program that the case asks for."""
    torch.set_num_threads(settings["threads"])
    torch.set_default_dtype(torch.float32)
    return training(case, settings) if "batch_size" in case else inference(case, settings)


if __name__ == "__main__":
    serve(build)
