"""Units, signs and axis order, fixed once.

Inside: eV, Å, fs, amu, e, μ_B, K. `stress = dE/dε / V` in eV/Å^3, tension positive (as in ASE);
`virial = -dE/dε` in eV. Cell vectors are rows. Other units exist only at the door: a factor in the
tables below times a value in the foreign unit is the value in ours.
"""

import math

# CODATA 2018, exact by definition of the SI where possible.
ELEMENTARY_CHARGE = 1.602176634e-19  # C
AVOGADRO = 6.02214076e23  # 1/mol
BOLTZMANN = 8.617333262e-5  # eV/K
HARTREE = 27.211386245988  # eV
BOHR = 0.529177210903  # Å
AMU = 1.66053906660e-27  # kg
COULOMB = HARTREE * BOHR  # e^2/(4πε0) = 14.3996 eV Å

AMU_A2_FS2 = AMU * 1e10 / ELEMENTARY_CHARGE
"""One amu Å^2/fs^2 in eV (about 103.64): kinetic energy is `0.5 * m * v^2` times this."""

ACCELERATION = 1.0 / AMU_A2_FS2
"""Acceleration [Å/fs^2] of 1 amu under 1 eV/Å."""

TIME_UNIT = math.sqrt(AMU_A2_FS2)
"""The time [fs] Å sqrt(amu/eV) of an integrator that knows eV, Å and amu only (about 10.18)."""

GPA = 1e9 * 1e-30 / ELEMENTARY_CHARGE
"""One GPa in eV/Å^3."""

ENERGY = {
    "eV": 1.0,
    "meV": 1e-3,
    "hartree": HARTREE,
    "rydberg": 0.5 * HARTREE,
    "kcal/mol": 4184.0 / (ELEMENTARY_CHARGE * AVOGADRO),
    "kJ/mol": 1000.0 / (ELEMENTARY_CHARGE * AVOGADRO),
}
LENGTH = {"angstrom": 1.0, "bohr": BOHR, "nm": 10.0}
PRESSURE = {
    "eV/angstrom^3": 1.0,
    "GPa": GPA,
    "kbar": 0.1 * GPA,
    "hartree/bohr^3": HARTREE / BOHR**3,
}
FORCE = {
    f"{energy}/{length}": ENERGY[energy] / LENGTH[length] for energy in ENERGY for length in LENGTH
}
