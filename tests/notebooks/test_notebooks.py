"""Every notebook runs from its first cell to its last, at small size, in a kernel of its own."""

import os
from pathlib import Path

import jupytext
import nbclient
import pytest

from mlip_jax.interop import catalogue
from tests.interop import published

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.py"))
UNIVERSAL = "5_universal_potential"
MAX_SECONDS, MAX_LINES = 600, 150


def code(path):
    """The cells of code of a notebook."""
    return [cell.source for cell in jupytext.read(path).cells if cell.cell_type == "code"]


def execute(name, folder):
    """Runs a notebook in an empty folder, with this library; the number of its figures.

    What `conftest` sets for tests, two devices and no display of figures, is not passed on.
    """
    environment = {k: v for k, v in os.environ.items() if k not in ("XLA_FLAGS", "MPLBACKEND")}
    places = [os.environ.get(catalogue.SEARCH_PATH), str(published.SHARED / "reference")]
    environment[catalogue.SEARCH_PATH] = os.pathsep.join(filter(None, places))
    environment |= {"MLIP_JAX_SMALL": "1", "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    notebook = jupytext.read(ROOT / "notebooks" / f"{name}.py")
    client = nbclient.NotebookClient(
        notebook,
        timeout=MAX_SECONDS,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
    )
    client.execute(env=environment)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return sum("image/png" in output.get("data", {}) for output in outputs)


@pytest.mark.slow
@pytest.mark.optimized
@pytest.mark.parametrize("name", [path.stem for path in NOTEBOOKS if path.stem != UNIVERSAL])
def test_a_notebook_runs_and_draws_its_figures(name, tmp_path):
    text = (ROOT / "notebooks" / f"{name}.py").read_text(encoding="utf-8")
    assert execute(name, tmp_path) >= text.count("plt.show()") > 0


@pytest.mark.slow
@pytest.mark.reference
@pytest.mark.skipif(not published.potentials("nequix"), reason=published.REASON)
def test_the_notebook_of_a_published_potential_runs(tmp_path):
    assert execute(UNIVERSAL, tmp_path) > 0


def test_there_are_notebooks():
    assert {path.stem for path in NOTEBOOKS} >= {"1_train_and_inspect", UNIVERSAL}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_short_and_know_the_small_size(path):
    lines = [line for cell in code(path) for line in cell.splitlines() if line.strip()]
    assert len(lines) <= MAX_LINES
    assert any("MLIP_JAX_SMALL" in cell for cell in code(path))
