"""State dicts of other programs: `config.json` and `weights.safetensors`, each array taken once."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from jaxtyping import Float

from mlip_jax import config
from mlip_jax.config import UserError


class StateDict:
    """Arrays by name, in float64, and which of them are still to be taken.

    Attributes:
        path: the file they are from.
    """

    def __init__(self, path: Path):
        """Reads a file.

        Raises:
            UserError: where it is missing or damaged.
        """
        self.path = path
        try:
            self._arrays = dict(safetensors.numpy.load_file(str(path)))
        except FileNotFoundError:
            raise UserError(f"{path}: no such file (working directory: {Path.cwd()}).") from None
        except (safetensors.SafetensorError, OSError) as error:
            raise UserError(
                f"{path}: cannot be read as safetensors ({error}). Get the file again."
            ) from None
        self._left = set(self._arrays)

    def __contains__(self, name: str) -> bool:
        return name in self._arrays

    def names(self, prefix: str) -> list[str]:
        """Names that begin like this, in order."""
        return sorted(name for name in self._arrays if name.startswith(prefix))

    def __getitem__(self, name: str) -> Float[np.ndarray, "..."]:
        """An array in float64, of whatever shape; see `take`."""
        array = self._number(name)
        self._left.discard(name)
        return array

    def take(self, name: str, shape: Sequence[int]) -> Float[np.ndarray, "..."]:
        """An array in float64.

        Args:
            name: in the file.
            shape: that it has to have.

        Raises:
            UserError: where it is missing, has another shape, or holds what is no number.
        """
        array = self[name]
        if array.shape != tuple(shape):
            raise UserError(
                f"{self.path}: {name}: got the shape {list(array.shape)}; expected {list(shape)}. "
                "Do the weights belong to this config?"
            )
        return array

    def _number(self, name: str) -> np.ndarray:
        if name not in self._arrays:
            raise UserError(
                f"{self.path}: the array {name} is missing. Do the weights belong to this config?"
            )
        array = np.asarray(self._arrays[name], dtype=np.float64)
        if not np.isfinite(array).all():
            raise UserError(f"{self.path}: {name}: got numbers that are not finite.")
        return array

    def linear(
        self, name: str, inputs: int, outputs: int, index: int = 0, bias: bool = True
    ) -> dict[str, np.ndarray]:
        """A linear layer of PyTorch as parameters `kernel_i` and `bias_i` of `nn.dense`.

        Args:
            name: of the layer, before `.weight` and `.bias`.
            inputs: their number.
            outputs: their number.
            index: i.
            bias: it has one.
        """
        layer = {f"kernel_{index}": self.take(f"{name}.weight", (outputs, inputs)).T}
        if bias:
            layer[f"bias_{index}"] = self.take(f"{name}.bias", (outputs,))
        return layer

    def ignore(self, names: Iterable[str]) -> None:
        """Marks arrays that repeat what the config says."""
        self._left -= set(names)

    def check_all_taken(self) -> None:
        """Refuses arrays that nobody asked for.

        Raises:
            UserError: naming the first of them.
        """
        if self._left:
            first = sorted(self._left)[0]
            raise UserError(
                f"{self.path}: got the array {first} ({len(self._left)} like it), which this "
                "config has no place for. Do the weights belong to this config?"
            )


def read_config(path: Path) -> dict[str, Any]:
    """The mapping in a JSON file.

    Raises:
        UserError: where it is missing or no such JSON, naming the line.
    """
    try:
        value = json.loads(config.read_text(path))
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: line {error.lineno}: got {error.msg}; expected JSON.") from None
    if not isinstance(value, dict):
        raise UserError(f"{path}: got a {type(value).__name__}; expected a mapping.")
    return value


def config_and_state(files: Sequence[Path], name: str) -> tuple[dict[str, Any], StateDict]:
    """What is in a `.json` and a `.safetensors` file; see `config_and_weights`."""
    where, arrays = config_and_weights(files, name)
    return read_config(where), StateDict(arrays)


def given(arguments: Mapping[str, Any], name: str, form: str) -> Any:
    """A value of a config.

    Raises:
        UserError: where it is missing.
    """
    if name not in arguments:
        raise UserError(f"{form}: the config has no {name!r}; expected all arguments of the model.")
    return arguments[name]


def config_and_weights(files: Sequence[Path], name: str) -> tuple[Path, Path]:
    """The `.json` and the `.safetensors` among files.

    Raises:
        UserError: for other files; it names the format `name`.
    """
    paths = {Path(file).suffix: Path(file) for file in files}
    if set(paths) != {".json", ".safetensors"} or len(files) != 2:
        got = ", ".join(Path(file).name for file in files) or "no files"
        raise UserError(f"{name}: got {got}; expected one .json and one .safetensors.")
    return paths[".json"], paths[".safetensors"]
