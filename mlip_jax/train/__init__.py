"""Training: `fit` runs a whole config, `untrained` its beginning.

`loss`, `optimizer`, `step` and `loop` are the parts.
"""

from mlip_jax.train.run import Sections, fit, parse, resolved, untrained

__all__ = ["Sections", "fit", "parse", "resolved", "untrained"]
