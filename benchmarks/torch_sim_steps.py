"""What a step of torch-sim costs beyond the prediction of our potential that it asks for.

    python benchmarks/torch_sim_steps.py [POTENTIAL] [--systems 8] [--cells 2] [--steps 30]

POTENTIAL is a name or a directory of a potential of silicon. Needs `mlip_jax[torch-sim]`. Steps of
NVE and calls of `inference.predict` for as many systems take turns; figures are medians.
"""

import argparse
import statistics
import time

import ase.build
import numpy as np
import torch
import torch_sim as ts

from mlip_jax.data.structure import Structure
from mlip_jax.inference import predict
from mlip_jax.interop.torch_sim import TorchSimModel


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("potential", nargs="?", default="snap-mlearn-si")
    parser.add_argument("--systems", type=int, default=8)
    parser.add_argument("--cells", type=int, default=2)
    parser.add_argument("--steps", type=int, default=30)
    options = parser.parse_args()
    torch.set_num_threads(1)
    systems = [ase.build.bulk("Si", "diamond", 5.431, cubic=True) for _ in range(options.systems)]
    systems = [atoms.repeat(options.cells) for atoms in systems]
    for seed, atoms in enumerate(systems):
        atoms.rattle(0.05, seed=seed)
    structures = [
        Structure(atoms.numbers, atoms.positions, atoms.cell.array, np.array(atoms.pbc))
        for atoms in systems
    ]
    model = TorchSimModel(options.potential)
    dt = torch.tensor(1e-3 * float(ts.units.MetalUnits.time))  # 1 fs
    kT = torch.tensor(300.0 * float(ts.units.MetalUnits.temperature))
    state = ts.initialize_state(systems, model.device, model.dtype)
    if hasattr(ts, "nve"):  # up to 0.3
        init, update = ts.nve(model, dt=dt, kT=kT)
        state = init(state)
    else:
        state = ts.nve_init(state, model, kT=kT)
    inside: list[float] = []
    alone: list[float] = []
    for _ in range(options.steps):
        started = time.perf_counter()
        state = update(state) if hasattr(ts, "nve") else ts.nve_step(state, model, dt=dt)
        between = time.perf_counter()
        predict(model.potential, structures, shapes=model.shapes, block=0)
        inside.append(between - started)
        alone.append(time.perf_counter() - between)
    step, prediction = statistics.median(inside), statistics.median(alone)
    ratio = statistics.median(a / b for a, b in zip(inside, alone, strict=True))
    print(f"{state.n_systems} systems, {state.n_atoms} atoms, {len(model.shapes)} programs")
    print(f"step {1e3 * step:.1f} ms, predict {1e3 * prediction:.1f} ms, ratio {ratio:.3f}")


if __name__ == "__main__":
    main()
