"""Parameters of D3 for density functionals, as published.

For zero damping S. Grimme et al., J. Chem. Phys. 132, 154104 (2010), for Becke-Johnson damping S.
Grimme, S. Ehrlich, L. Goerigk, J. Comput. Chem. 32, 1456 (2011); for both L. Goerigk, S. Grimme,
Phys. Chem. Chem. Phys. 13, 6670 (2011), and for a few the papers that are named. All agree with
those of the program s-dftd3 1.7.
"""

from collections.abc import Mapping
from typing import Literal

from mlip_jax import config
from mlip_jax.config import UserError

DampingName = Literal["bj", "zero"]

_NAMES: dict[str, tuple[str, ...]] = {"bj": ("s8", "a1", "a2"), "zero": ("s8", "rs6")}
_DEFAULTS: dict[str, dict[str, float]] = {"bj": {"s6": 1.0}, "zero": {"s6": 1.0, "rs8": 1.0}}

_PUBLISHED: dict[str, dict[str, tuple[float, ...]]] = {
    "bj": {
        "b3lyp": (1.9889, 0.3981, 4.4211),
        "b3pw91": (2.8524, 0.4312, 4.4693),
        "b97d": (2.2609, 0.5545, 3.2297),
        "bhlyp": (1.0354, 0.2793, 4.9615),
        "blyp": (2.6996, 0.4298, 4.2359),
        "bp86": (3.2822, 0.3946, 4.8516),
        "bpbe": (4.0728, 0.4567, 4.3908),
        "camb3lyp": (2.0674, 0.3708, 5.4743),
        "hf": (0.9171, 0.3385, 2.8830),
        "hse06": (2.310, 0.383, 5.685),  # Moellmann & Grimme, J. Phys. Chem. C 118, 7615 (2014)
        "lcwpbe": (1.8541, 0.3919, 5.0897),
        "olyp": (2.6205, 0.5299, 2.8065),
        "pbe": (0.7875, 0.4289, 4.4407),
        "pbe0": (1.2177, 0.4145, 4.8593),
        "pbesol": (2.9491, 0.4466, 6.1742),
        "pw6b95": (0.7257, 0.2076, 6.3750),
        "r2scan": (0.78981345, 0.49484001, 5.73083694),  # Ehlert et al., JCP 154, 061101 (2021)
        "revpbe": (2.3550, 0.5238, 3.5016),
        "revpbe0": (1.7588, 0.4679, 3.7619),
        "revtpss": (1.4023, 0.4426, 4.4723),  # Goerigk et al., PCCP 19, 32184 (2017)
        "rpbe": (0.8318, 0.1820, 4.0094),
        "rpw86pbe": (1.3845, 0.4613, 4.5062),
        "scan": (0.0, 0.5380, 5.4200),  # Brandenburg et al., Phys. Rev. B 94, 115144 (2016)
        "tpss": (1.9435, 0.4535, 4.4752),
        "tpss0": (1.2576, 0.3768, 4.5865),
        "tpssh": (2.2382, 0.4529, 4.6550),
    },
    "zero": {
        "b3lyp": (1.703, 1.261),
        "b3pw91": (1.775, 1.176),
        "b97d": (0.909, 0.892),
        "bhlyp": (1.442, 1.370),
        "blyp": (1.682, 1.094),
        "bp86": (1.683, 1.139),
        "bpbe": (2.033, 1.087),
        "camb3lyp": (1.217, 1.378),
        "hf": (1.746, 1.158),
        "hse06": (0.109, 1.129),  # Moellmann & Grimme (2014)
        "lcwpbe": (1.279, 1.355),
        "m06": (0.0, 1.325),
        "m06l": (0.0, 1.581),
        "olyp": (1.764, 0.806),
        "pbe": (0.722, 1.217),
        "pbe0": (0.928, 1.287),
        "pbesol": (0.612, 1.345),
        "pw6b95": (0.862, 1.532),
        "revpbe": (1.010, 0.923),
        "revtpss": (1.3666, 1.3491),  # Goerigk et al. (2017)
        "rpbe": (0.514, 0.872),
        "rpw86pbe": (0.901, 1.224),
        "scan": (0.0, 1.324),  # Brandenburg et al. (2016)
        "tpss": (1.105, 1.166),
        "tpss0": (1.242, 1.252),
        "tpssh": (1.219, 1.223),
    },
}


def known(damping: DampingName) -> list[str]:
    """Functionals with published parameters, in small letters without hyphens."""
    return sorted(_PUBLISHED[damping])


def parameters(
    damping: DampingName, functional: str | None, given: Mapping[str, float | None]
) -> dict[str, float]:
    """Parameters of a damping: those of a functional, and what is given instead.

    Args:
        damping: which one.
        functional: in letters of any size, with or without hyphens; `None` where all are given.
        given: by name (`s6`, `s8`, `a1`, `a2`, `rs6`, `rs8`); `None` is not given.

    Returns:
        `s6`, `s8`, and `a1`, `a2` [bohr], or `rs6`, `rs8`.

    Raises:
        UserError: for an unknown functional, parameters of another damping, or missing ones.
    """
    names = _NAMES[damping]
    result = dict(_DEFAULTS[damping])
    if functional is not None:
        name = functional.lower().replace("-", "")
        if name not in _PUBLISHED[damping]:
            raise config.unknown_name("d3", f"functional ({damping})", functional, known(damping))
        result |= zip(names, _PUBLISHED[damping][name], strict=True)
    foreign = [k for k, v in given.items() if v is not None and k not in {*names, *result}]
    if foreign:
        raise UserError(
            f"d3.{foreign[0]}: got a value for the damping {damping}; expected "
            f"{', '.join(sorted({*names, *result}))}. Leave it out, or choose the other damping."
        )
    result |= {k: v for k, v in given.items() if v is not None}
    missing = [name for name in names if name not in result]
    if missing:
        raise UserError(
            f"d3.{missing[0]}: missing; expected a functional, or {', '.join(names)} for the "
            f"damping {damping}. Set d3.functional, such as pbe."
        )
    return result
