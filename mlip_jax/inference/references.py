"""Reference energies of a potential fitted anew to other data: the first step of fine-tuning."""

import dataclasses
from collections.abc import Sequence

from mlip_jax.config import UserError
from mlip_jax.data.statistics import StatisticsConfig, fit_reference_energies
from mlip_jax.data.structure import Structure, StructureLabels
from mlip_jax.inference.prediction import predict
from mlip_jax.potential import Potential


def refit_reference_energies(
    potential: Potential, structures: Sequence[Structure], *, precision: str = "float32"
) -> Potential:
    """A potential whose reference energies are those of other data, all else being the same.

    Another level of theory, or corrections that labels have or do not have, show first as an energy
    for each element. Forces and stresses do not change. What is fitted, by `data.statistics`, is
    the error of the energies: what these compositions do not determine moves by the mean error per
    atom, and elements that are not among them keep their energies.

    Args:
        potential: for instance a published one.
        structures: with energies; those without are left aside.
        precision: see `predict`.

    Returns:
        The potential; its card says in `reference_energies` what was fitted.

    Raises:
        UserError: where no structure has an energy, or as `predict` does.
    """
    energies = [structure.labels.energy for structure in structures]
    labelled = [s for s, energy in zip(structures, energies, strict=True) if energy is not None]
    if not labelled:
        raise UserError(
            f"reference energies: none of {len(structures)} structures has an energy. Check the "
            "label keys of the data."
        )
    predictions = predict(potential, labelled, precision=precision)
    errors = []
    for structure, prediction in zip(labelled, predictions, strict=True):
        assert structure.labels.energy is not None
        error = StructureLabels(energy=structure.labels.energy - prediction.energy)
        errors.append(dataclasses.replace(structure, labels=error))
    config = StatisticsConfig(reference_energies="least_squares")
    shifts, report = fit_reference_energies(errors, config)
    references = {z: e + shifts.get(int(z), 0.0) for z, e in potential.reference_energies.items()}
    card = {"structures": len(labelled), "report": str(report)}
    return dataclasses.replace(
        potential,
        reference_energies=references,
        card={**potential.card, "reference_energies": card},
    )
