"""Molecular dynamics and relaxation on jax-md.

`engine.run` simulates into files, `relax.fire` relaxes positions, `batch_relax.relax_many` those of
many structures and their cells at once; `jax_md_energy` hands a potential to jax-md itself.
`differentiable`, `reversible`, `implicit` and `reweighting` take derivatives through simulations.
This package imports jax-md (seconds) only when one of its modules is used.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlip_jax.simulate.energy import jax_md_energy

__all__ = ["jax_md_energy"]


def __getattr__(name: str) -> Any:
    if name == "jax_md_energy":
        from mlip_jax.simulate.energy import jax_md_energy

        return jax_md_energy
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
