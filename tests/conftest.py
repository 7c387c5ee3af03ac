"""Numerical settings of every test; our own modules are imported by the tests, not here."""

import importlib.metadata
import os
import re
from pathlib import Path

# The older emitters where their flag is known, as on the command line (`mlip_jax.compilation`):
# most of the tests' time is the compiler's.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_force_host_platform_device_count=2"
    + " --xla_cpu_use_fusion_emitters=false"
    * importlib.metadata.version("jaxlib").startswith("0.10."),
)
os.environ.setdefault("MPLBACKEND", "agg")

import hypothesis
import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache
from xdist.scheduler import LoadFileScheduling

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_debug_nans", True)
jax.config.update("jax_numpy_rank_promotion", "raise")

OPTIMIZE = os.environ.get("HYPOTHESIS_PROFILE") == "nightly"
"""Every program is compiled as users compile it, not only those of some tests."""

hypothesis.settings.register_profile("default", deadline=None, max_examples=20)
hypothesis.settings.register_profile("nightly", deadline=None, max_examples=200)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    """LLVM optimises the programs of tests that are marked `reference` or `optimized`.

    Those run what users run. Of the others, and of the processes that they start, most of the time
    would be LLVM's.
    """
    marked = any(map(item.get_closest_marker, ("reference", "optimized")))
    fast = not (OPTIMIZE or marked)
    jax.config.update("jax_disable_most_optimizations", fast)
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = str(int(fast))


@pytest.fixture(autouse=True)
def _cache_of_programs_ends_with_the_test():
    """A command that runs in this process turns a cache on disk on, which no later test asks for.

    The workers would read and write it at the same time, and tests would depend on earlier runs.
    """
    before = jax.config.jax_compilation_cache_dir  # pyright: ignore[reportAttributeAccessIssue]
    yield
    if jax.config.jax_compilation_cache_dir != before:  # pyright: ignore[reportAttributeAccessIssue]
        jax.config.update("jax_compilation_cache_dir", before)
        compilation_cache.reset_cache()


@pytest.fixture(autouse=True, scope="module")
def _compiled_programs_end_with_their_file():
    """Frees what was compiled, where it is much: the next file asks for other programs."""
    yield
    _free_programs_beyond(15_000)


@pytest.fixture(autouse=True)
def _compiled_programs_end_before_memory_maps_do():
    """Frees what was compiled before a worker has too many memory maps.

    Every compiled program holds some; Linux allows a process 65530 (`vm.max_map_count`), at which
    XLA's compiler ends the process by a segmentation fault.
    """
    yield
    _free_programs_beyond(45_000)


def _free_programs_beyond(most: int) -> None:
    maps = Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > most:
        jax.clear_caches()


@pytest.fixture(autouse=True)
def _no_network_proxy(monkeypatch):
    """A plain test run reaches no network: a client that tries gets a dead address."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")


class _FilesAndModels(LoadFileScheduling):
    """A file is one worker's work; of the laws, those of one model are.

    The laws of a model share its compiled functions. All in one file, they would hold one worker
    for half of the whole run.
    """

    def _split_scope(self, nodeid: str) -> str:
        scope = super()._split_scope(nodeid)
        case = re.search(r"\[(.*)\]$", nodeid)
        if not scope.endswith("models/test_contract.py") or case is None:
            return scope
        model = [part for part in case[1].split("-") if part not in ("rotation", "reflection")]
        return f"{scope}[{'-'.join(model)}]"


def pytest_collection_modifyitems(config, items):
    """Files that have slow tests come first, so that no worker is left with one at the end."""
    if hasattr(config, "workerinput"):
        slow = {item.path for item in items if item.get_closest_marker("slow")}
        items.sort(key=lambda item: item.path not in slow)


def pytest_xdist_make_scheduler(config, log):
    """Replaces `--dist loadfile`; other ways stay as they are."""
    if config.getvalue("dist") != "loadfile":
        return None
    config.option.loadscopereorder = False  # the order is that of the collection
    return _FilesAndModels(config, log)
