"""The nequip package (PyTorch): eager or AOTInductor to infer, eager or torch.compile to train."""

import tempfile
from itertools import cycle
from pathlib import Path

import torch
from nequip.data import AtomicDataDict, from_ase
from nequip.integrations.ase import NequIPCalculator
from nequip.integrations.utils import basic_transforms
from nequip.model.inference_models import load_aotinductor_model
from nequip.model.nequip_models import NequIPGNNModel
from nequip.scripts._compile_utils import ASE_TARGET
from nequip.utils.aot import aot_export_model
from nequip.utils.global_state import set_global_state
from protocol import Program, Task, serve, versions
from structures import batches, to_atoms, velocity_verlet

LABELS = (AtomicDataDict.TOTAL_ENERGY_KEY, AtomicDataDict.FORCE_KEY)


def make_model(settings: dict, mode: str) -> torch.nn.Module:
    """The model with random parameters, `mode` being nequip's compile mode."""
    return NequIPGNNModel(
        seed=0,
        model_dtype="float32",
        compile_mode=mode,
        type_names=settings["species"],
        r_max=settings["cutoff"],
        num_layers=settings["layers"],
        l_max=settings["l_max"],
        parity=False,
        num_features=settings["channels"],
        radial_mlp_depth=len(settings["radial_mlp"]),
        radial_mlp_width=settings["radial_mlp"][0],
        num_bessels=settings["radial_basis"],
        polynomial_cutoff_p=settings["envelope_exponent"],
        avg_num_neighbors=settings["average_neighbors"],
        per_type_energy_scales=settings["energy_scale"],
        per_type_energy_shifts=0.0,
    )


def make_transforms(settings: dict) -> list:
    """From positions to nequip's graph, with its default neighbour list (matscipy)."""
    names = settings["species"]
    return basic_transforms({}, settings["cutoff"], names, dict(zip(names, names, strict=True)))


def compile_ahead(model: torch.nn.Module, data: dict) -> torch.nn.Module:
    """`nequip-compile --mode aotinductor --target ase --device cpu`, but from a model in memory."""
    batch_map = {
        "graph": torch.export.Dim.STATIC,
        "node": torch.export.dynamic_shapes.Dim("num_nodes", min=2, max=torch.inf),
        "edge": torch.export.dynamic_shapes.Dim("num_edges", min=2, max=torch.inf),
    }
    fields = {key: data[key] for key in ASE_TARGET["input"]}
    keys = (ASE_TARGET["input"], ASE_TARGET["output"])
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "model.nequip.pt2")
        aot_export_model(
            model=model,
            device="cpu",
            input_fields=keys[0],
            output_fields=keys[1],
            data=fields,
            batch_map=batch_map,
            output_path=path,
            inductor_configs={
                "aot_inductor.metadata": {
                    "r_max": str(5.0),
                    "type_names": " ".join(model.type_names),
                }
            },
        )
        compiled, _ = load_aotinductor_model(path, "cpu", *keys)
    return compiled.eval()


def inference(case: dict, settings: dict) -> Program:
    """Evaluation and molecular dynamics of one structure."""
    atoms = to_atoms(case["structures"][0])
    transforms = make_transforms(settings)
    data = from_ase(atoms)
    for transform in transforms:
        data = transform(data)
    eager = make_model(settings, "eager").eval()
    loaded: dict[str, torch.nn.Module] = {"eager": eager}

    def model(mode: str) -> torch.nn.Module:
        if mode not in loaded:
            loaded[mode] = compile_ahead(eager, data)
        return loaded[mode]

    def evaluate(mode: str) -> Task:
        def run() -> None:
            output = model(mode)(data.copy())
            for key in LABELS:
                output[key].detach().numpy()

        return Task(run)

    def dynamics(mode: str) -> Task:
        atoms.calc = NequIPCalculator(model(mode), device="cpu", transforms=transforms)
        run, reset = velocity_verlet(atoms, case["md_steps"], case["timestep_fs"])
        return Task(run, reset, case["md_steps"])

    modes = ("eager", "aotinductor")
    return Program(
        {
            "evaluate": {mode: lambda mode=mode: evaluate(mode) for mode in modes},
            "md": {mode: lambda mode=mode: dynamics(mode) for mode in modes},
        },
        describe(eager, AtomicDataDict.num_edges(data)),
    )


def training(case: dict, settings: dict) -> Program:
    """Adam steps over prepared batches, as Lightning would run them, without its bookkeeping."""
    transforms = make_transforms(settings)
    graphs = []
    for structure in case["structures"]:
        graph = from_ase(to_atoms(structure))
        for transform in transforms:
            graph = transform(graph)
        graphs.append(graph)
    prepared = [AtomicDataDict.batched_from_list(b) for b in batches(graphs, case["batch_size"])]

    def train(mode: str) -> Task:
        model = make_model(settings, mode).train()
        optimizer = torch.optim.Adam(model.parameters(), lr=settings["learning_rate"])
        stream = cycle(prepared)

        def run() -> None:
            batch = next(stream)
            output = model({key: batch[key] for key in batch if key not in LABELS})
            optimizer.zero_grad()
            loss(output, batch, settings).backward()
            optimizer.step()

        return Task(run)

    modes = {mode: lambda mode=mode: train(mode) for mode in ("eager", "compile")}
    edges = sum(AtomicDataDict.num_edges(batch) for batch in prepared)
    return Program({"train": modes}, describe(make_model(settings, "eager"), edges))


def loss(output: dict, batch: dict, settings: dict) -> torch.Tensor:
    """Weighted mean squared errors of the energy per atom [eV] and the force components [eV/Å]."""
    energy, forces = (output[key] - batch[key] for key in LABELS)
    atoms = batch[AtomicDataDict.NUM_NODES_KEY].reshape(energy.shape)
    energy_weight, force_weight = settings["loss_weights"]
    return energy_weight * (energy / atoms).square().mean() + force_weight * forces.square().mean()


def describe(model: torch.nn.Module, edges: int) -> dict:
    """The number of parameters and of directed pairs."""
    return {
        "parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "edges": int(edges),
        "versions": versions("nequip", "torch", "e3nn", "ase", "matscipy"),
    }


def build(case: dict, settings: dict) -> Program:
    """Build the program that the case asks for."""
    torch.set_num_threads(settings["threads"])
    set_global_state(allow_tf32=False)
    return training(case, settings) if "batch_size" in case else inference(case, settings)


if __name__ == "__main__":
    serve(build)
