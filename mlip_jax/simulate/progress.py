"""Progress of a simulation."""

from types import TracebackType
from typing import Any

from mlip_jax.data.structure import Structure
from mlip_jax.simulate.settings import SimulationConfig


class Progress:
    """Steps done and speed; shows a bar where asked to.

    The first chunk compiles, and so does one that made room: they are kept apart from the rest.
    """

    def __init__(self, config: SimulationConfig, structure: Structure, show: bool):
        self._config, self._atoms = config, structure.num_atoms
        self._steps, self._seconds = 0, 0.0
        self._compiling: list[tuple[int, float]] = []
        self._bar, self._task = _bar() if show else None, None

    def __enter__(self) -> "Progress":
        if self._bar is not None:
            self._bar.start()
            self._task = self._bar.add_task("MD", total=self._config.num_steps, speed="compiling")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, steps: int, seconds: float, compiled: bool) -> None:
        """Counts a chunk."""
        if compiled or not self._compiling:
            self._compiling.append((steps, seconds))
        else:
            self._steps += steps
            self._seconds += seconds
        if self._bar is not None and self._task is not None:
            speed = f"{self.nanoseconds_per_day:.3g} ns/day" if self._steps else "compiling"
            self._bar.update(self._task, advance=steps, speed=speed)

    @property
    def compile_seconds(self) -> float:
        """Time of the chunks that compiled, beyond what their steps take in the steady state."""
        step = self._seconds / self._steps if self._steps else 0.0
        return sum(seconds - steps * step for steps, seconds in self._compiling)

    @property
    def microseconds_per_atom_step(self) -> float:
        """Of the steady state; NaN before there is one."""
        if self._steps == 0:
            return float("nan")
        return 1e6 * self._seconds / (self._steps * self._atoms)

    @property
    def nanoseconds_per_day(self) -> float:
        """Of the steady state; NaN before there is one."""
        if self._steps == 0:
            return float("nan")
        return 86400.0 * self._steps * self._config.timestep * 1e-6 / self._seconds


def _bar() -> Any:
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress

    return RichProgress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[speed]}"),
        TimeRemainingColumn(),
    )
