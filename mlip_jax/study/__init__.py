"""Studies: a config expanded over axes, run, timed, tabulated and drawn.

study = load(Path("study.yaml"))
rows = conduct(study, Path("out"))
"""

from mlip_jax.study.expand import Variant, plan
from mlip_jax.study.run import StudyInterrupted, collect, conduct, describe, survey
from mlip_jax.study.sections import Study, load, parse

__all__ = [
    "Study",
    "StudyInterrupted",
    "Variant",
    "collect",
    "conduct",
    "describe",
    "load",
    "parse",
    "plan",
    "survey",
]
