"""QUIP's Gaussian approximation potentials through quippy: its calculator, and ASE's dynamics."""

from protocol import Program, Task, serve, versions
from quippy.potential import Potential
from structures import to_atoms, velocity_verlet


def build(case: dict, settings: dict) -> Program:
    """Evaluation, which in QUIP includes the list of neighbours, and dynamics of one structure."""
    (parameters,) = (name for name in settings["files"] if name.endswith(".xml"))
    calculator = Potential(param_filename=parameters)
    atoms = to_atoms(case["structures"][0])
    atoms.calc = calculator
    run, reset = velocity_verlet(atoms, case["md_steps"], case["timestep_fs"])

    def nudge() -> None:
        """The calculator keeps the results of positions that it has seen."""
        atoms.positions[0, 0] += 1e-7

    def evaluate() -> Task:
        properties = ["energy", "forces", "stress"]
        return Task(lambda: calculator.calculate(atoms, properties, ["positions"]), nudge)

    def dynamics() -> Task:
        return Task(run, reset, units=case["md_steps"])

    return Program(
        {"evaluate": {"calculate": evaluate}, "md": {"ASE": dynamics}},
        {"parameters": 0, "edges": case["pairs"], "versions": versions("quippy-ase", "ase")},
    )


if __name__ == "__main__":
    serve(build)
