"""Chemical elements: symbols, masses, and the index of an element in a model's list."""

from collections.abc import Iterable, Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

# The index is Z; 0 stands for padding.
_SYMBOLS = (
    "X H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As "
    "Se Br Kr Rb Sr Y Zr Nb Mo Tc Ru Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd "
    "Tb Dy Ho Er Tm Yb Lu Hf Ta W Re Os Ir Pt Au Hg Tl Pb Bi Po At Rn Fr Ra Ac Th Pa U Np Pu Am "
    "Cm Bk Cf Es Fm Md No Lr Rf Db Sg Bh Hs Mt Ds Rg Cn Nh Fl Mc Lv Ts Og"
)
SYMBOLS = tuple(_SYMBOLS.split())

# Standard atomic weights (IUPAC 2016 and, beyond uranium, the most stable isotope) [amu].
MASSES = (
    1.0,
    1.008,
    4.002602,
    6.94,
    9.012183,
    10.81,
    12.011,
    14.007,
    15.999,
    18.998403,
    20.1797,
    22.989769,
    24.305,
    26.981538,
    28.085,
    30.973762,
    32.06,
    35.45,
    39.948,
    39.0983,
    40.078,
    44.955908,
    47.867,
    50.9415,
    51.9961,
    54.938044,
    55.845,
    58.933194,
    58.6934,
    63.546,
    65.38,
    69.723,
    72.63,
    74.921595,
    78.971,
    79.904,
    83.798,
    85.4678,
    87.62,
    88.90584,
    91.224,
    92.90637,
    95.95,
    97.90721,
    101.07,
    102.9055,
    106.42,
    107.8682,
    112.414,
    114.818,
    118.71,
    121.76,
    127.6,
    126.90447,
    131.293,
    132.905452,
    137.327,
    138.90547,
    140.116,
    140.90766,
    144.242,
    144.91276,
    150.36,
    151.964,
    157.25,
    158.92535,
    162.5,
    164.93033,
    167.259,
    168.93422,
    173.054,
    174.9668,
    178.49,
    180.94788,
    183.84,
    186.207,
    190.23,
    192.217,
    195.084,
    196.966569,
    200.592,
    204.38,
    207.2,
    208.9804,
    208.98243,
    209.98715,
    222.01758,
    223.01974,
    226.02541,
    227.02775,
    232.0377,
    231.03588,
    238.02891,
    237.04817,
    244.06421,
    243.06138,
    247.07035,
    247.07031,
    251.07959,
    252.083,
    257.09511,
    258.09843,
    259.101,
    262.11,
    267.122,
    268.126,
    271.134,
    270.133,
    269.1338,
    278.156,
    281.165,
    281.166,
    285.177,
    286.182,
    289.19,
    289.194,
    293.204,
    293.208,
    294.214,
)


# Covalent radii of H to Cm [Å]; B. Cordero et al., Dalton Trans. 2832 (2008): sp3 carbon, and Mn,
# Fe and Co of low spin.
_RADII = (
    "0.31 0.28 1.28 0.96 0.84 0.76 0.71 0.66 0.57 0.58 1.66 1.41 1.21 1.11 1.07 1.05 1.02 1.06 "
    "2.03 1.76 1.70 1.60 1.53 1.39 1.39 1.32 1.26 1.24 1.32 1.22 1.22 1.20 1.19 1.20 1.20 1.16 "
    "2.20 1.95 1.90 1.75 1.64 1.54 1.47 1.46 1.42 1.39 1.45 1.44 1.42 1.39 1.39 1.38 1.39 1.40 "
    "2.44 2.15 2.07 2.04 2.03 2.01 1.99 1.98 1.98 1.96 1.94 1.92 1.92 1.89 1.90 1.87 1.87 1.75 "
    "1.70 1.62 1.51 1.44 1.41 1.36 1.36 1.32 1.45 1.46 1.48 1.40 1.50 1.50 2.60 2.21 2.15 2.06 "
    "2.00 1.96 1.90 1.87 1.80 1.69 "
)
COVALENT_RADII = tuple(float(radius) for radius in _RADII.split())

# Cohesive energies of H to Cm, solids at 0 K [eV/atom]; C. Kittel, Introduction to Solid State
# Physics, 8th ed. (2005), chapter 3, table 1; for H half of the dissociation energy of H2; nan: not
# measured.
_COHESION = (
    "2.24 nan 1.63 3.32 5.81 7.37 4.92 2.60 0.84 0.02 1.113 1.51 3.39 4.63 3.43 2.85 1.40 0.080 "
    "0.934 1.84 3.90 4.85 5.31 4.10 2.92 4.28 4.39 4.44 3.49 1.35 2.81 3.85 2.96 2.46 1.22 0.116 "
    "0.852 1.72 4.37 6.25 7.57 6.82 6.85 6.74 5.75 3.89 2.95 1.16 2.52 3.14 2.75 2.19 1.11 0.16 "
    "0.804 1.90 4.47 4.32 3.70 3.40 nan 2.14 1.86 4.14 4.05 3.04 3.14 3.29 2.42 1.60 4.43 6.44 "
    "8.10 8.90 8.03 8.17 6.94 5.84 3.81 0.67 1.88 2.03 2.18 1.50 nan 0.202 nan 1.66 4.25 6.20 "
    "nan 5.55 4.73 3.60 2.73 3.99 "
)
COHESIVE_ENERGIES = tuple(float(energy) for energy in _COHESION.split())


def atomic_number(symbol: str | int) -> int:
    """Z of an element given by its symbol or its atomic number.

    Raises:
        ValueError: for something that names no element.
    """
    if isinstance(symbol, int | np.integer) and not isinstance(symbol, bool):
        if 1 <= int(symbol) < len(SYMBOLS):
            return int(symbol)
    elif isinstance(symbol, str) and symbol in SYMBOLS[1:]:
        return SYMBOLS.index(symbol)
    raise ValueError(
        f"element: got {symbol!r}; expected a symbol such as 'Si' or an atomic number from 1 to "
        f"{len(SYMBOLS) - 1}."
    )


def symbols(atomic_numbers: Iterable[int]) -> list[str]:
    """Symbols of atomic numbers."""
    return [SYMBOLS[int(z)] for z in atomic_numbers]


def species_index(
    atomic_numbers: Int[Array, " atoms"], species: Sequence[int]
) -> Int[Array, " atoms"]:
    """Index of each atom's element in `species`; 0 for padding (Z = 0).

    Elements outside `species` must be refused on the host (`Potential.check_species`); here they
    give 0.
    """
    table = np.zeros(len(SYMBOLS), dtype=np.int32)
    table[np.asarray(species, dtype=np.int64)] = np.arange(len(species))
    return jnp.asarray(table)[atomic_numbers]
