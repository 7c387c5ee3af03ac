"""`import mlip_jax` is cheap, touches nothing, and its names resolve lazily."""

import json
import subprocess
import sys

import pytest

import mlip_jax

HEAVY = ("jax_md", "e3nn_jax", "ase", "orbax", "matplotlib", "torch", "optax", "pymatgen", "grain")

# Runs in a fresh interpreter: jax itself is imported first, then everything that reads files or
# the environment raises for our modules; Python's own import machinery has doors of its own.
PROBE = """
import builtins, io, json, os, sys
import jax

settings = dict(jax.config.values)

def forbidden(*args, **kwargs):
    raise AssertionError(f"touched {args}")

class Environment(dict):
    __getitem__ = get = __contains__ = __setitem__ = setdefault = pop = update = forbidden

builtins.open = io.open = os.open = os.listdir = os.mkdir = os.getenv = os.putenv = forbidden
environment, os.environ = dict(os.environ), Environment()
before = set(sys.modules)
import mlip_jax
loaded = sorted(set(sys.modules) - before)
changed = [k for k, v in jax.config.values.items() if settings.get(k) is not v]
sys.stdout.write(json.dumps({"loaded": loaded, "changed": changed}))
"""


@pytest.fixture(scope="module")
def probe() -> dict[str, list[str]]:
    done = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_import_loads_nothing_heavy(probe):
    assert [m for m in probe["loaded"] if m.partition(".")[0] in HEAVY] == []
    assert [m for m in probe["loaded"] if m.startswith("mlip_jax.")] == []


def test_import_changes_no_setting_of_jax(probe):
    assert probe["changed"] == []


@pytest.mark.parametrize("name", mlip_jax.__all__)
def test_public_names_resolve(name):
    value = getattr(mlip_jax, name)
    assert value is getattr(mlip_jax, name)
    assert name in dir(mlip_jax)


def test_unknown_names_are_attribute_errors():
    with pytest.raises(AttributeError, match="no attribute 'loda'"):
        mlip_jax.loda  # noqa: B018
