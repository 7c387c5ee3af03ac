"""Constants against ase.units (CODATA 2014 there, 2018 here: equal to some 1e-8)."""

import ase.units
import pytest

from mlip_jax import units


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (units.HARTREE, ase.units.Hartree),
        (units.BOHR, ase.units.Bohr),
        (units.COULOMB, ase.units.Hartree * ase.units.Bohr),
        (units.BOLTZMANN, ase.units.kB),
        (units.GPA, ase.units.GPa),
        (units.ENERGY["kcal/mol"], ase.units.kcal / ase.units.mol),
        (units.ENERGY["kJ/mol"], ase.units.kJ / ase.units.mol),
        (units.ENERGY["rydberg"], ase.units.Ry),
        (units.LENGTH["nm"], ase.units.nm),
        (units.PRESSURE["kbar"], 1000.0 * ase.units.bar),
        (units.PRESSURE["hartree/bohr^3"], ase.units.Hartree / ase.units.Bohr**3),
        (units.FORCE["hartree/bohr"], ase.units.Hartree / ase.units.Bohr),
        (units.FORCE["meV/nm"], 1e-3 / ase.units.nm),
        (units.TIME_UNIT, 1.0 / ase.units.fs),
    ],
)
def test_constants_equal_those_of_ase(ours, theirs):
    # kB changed by 6e-7 when the SI was redefined; everything else by less.
    assert ours == pytest.approx(theirs, rel=1e-6)


def test_mass_times_velocity_squared_is_an_energy():
    # 1 amu (Å/fs)²: ase's velocity unit is Å / (Å sqrt(amu/eV)).
    assert pytest.approx(1.0 / ase.units.fs**2, rel=1e-7) == units.AMU_A2_FS2
    assert pytest.approx(1.0, rel=1e-15) == units.ACCELERATION * units.AMU_A2_FS2
