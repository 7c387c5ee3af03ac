"""Training: `fit` runs a whole config; `loss`, `optimizer`, `step` and `loop` are its parts."""

from mlip_jax.train.run import Sections, fit, parse, resolved

__all__ = ["Sections", "fit", "parse", "resolved"]
