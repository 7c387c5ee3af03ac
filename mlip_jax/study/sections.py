"""A study file, validated: the base config, the axes, how runs are run, timed and reported."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from mlip_jax import config
from mlip_jax.config import UserError, unknown_name
from mlip_jax.inference import ERROR_UNITS
from mlip_jax.study.axes import Axis, parse_axes


@dataclasses.dataclass(frozen=True)
class RunsConfig:
    """The section `runs`.

    Attributes:
        workers: runs at a time. They share the cores of the machine; on one GPU let there be one.
        address: scheduler of a `dask.distributed` cluster that the runs are sent to; its workers
            must see the same files. Without it, several workers are a local cluster.
    """

    workers: Annotated[int, Field(ge=1)] = 1
    address: Annotated[str, Field(min_length=1)] | None = None


@dataclasses.dataclass(frozen=True)
class CostConfig:
    """The section `cost`: time of energies, forces and stress of each fitted potential.

    It is measured after all runs, one potential at a time, in this process, after compilation and
    with the neighbour list given.

    Attributes:
        structure: file, beside the study or in the working directory; the test file of each run
            (its training file where it has none) where null.
        index: frame of the file; the first of the largest where null.
        atoms: the structure is repeated along its shortest periodic vectors up to so many atoms.
        repeats: evaluations, of whose times the median counts.
        precision: of the computation, whatever a potential was trained in.
        block: atoms processed at a time, see `AtomicGraph.block`.
    """

    structure: str | None = None
    index: int | None = None
    atoms: Annotated[int, Field(ge=1)] = 64
    repeats: Annotated[int, Field(ge=1)] = 7
    precision: Literal["float32", "float64"] = "float32"
    block: Annotated[int, Field(ge=0)] = 0


@dataclasses.dataclass(frozen=True)
class ReportConfig:
    """The section `report`.

    Attributes:
        errors_on: the set whose errors are drawn.
        error: which error.
        properties: drawn, where runs have them.
        x: axis of numbers along which learning curves go; there are none without such an axis.
        average: axis over which means and standard deviations are taken.
        panels: axis each of whose values gets panels of its own.
    """

    errors_on: Literal["train", "valid", "test", "replay"] = "test"
    error: Literal["mae", "rmse"] = "mae"
    properties: tuple[str, ...] = ("energy", "forces", "stress")
    x: str = "train_size"
    average: str = "seed"
    panels: str | None = None


@dataclasses.dataclass(frozen=True)
class _File:
    """The top level of a study file; `base`, `axes` and `exclude` are checked by `axes`."""

    base: Any
    axes: dict[str, Any]
    title: str = ""
    exclude: tuple[dict[str, Any], ...] = ()
    runs: RunsConfig = dataclasses.field(default_factory=RunsConfig)
    cost: CostConfig | None = dataclasses.field(default_factory=CostConfig)
    report: ReportConfig = dataclasses.field(default_factory=ReportConfig)


@dataclasses.dataclass(frozen=True, eq=False)
class Study:
    """A validated study.

    Attributes:
        title: of the report.
        base: a config as a mapping, or the path of one, in which `{axis}` stands for the value of
            an axis.
        axes: in the order of the file, the last varying fastest.
        exclude: combinations that are left out: values, or lists of values, by axis.
        runs: how they are run.
        cost: how it is measured; not at all where `None`.
        report: what is drawn.
        directory: of the study file.
        source: what the file says.
    """

    title: str
    base: Mapping[str, Any] | str
    axes: tuple[Axis, ...]
    exclude: tuple[Mapping[str, Any], ...]
    runs: RunsConfig
    cost: CostConfig | None
    report: ReportConfig
    directory: Path
    source: Mapping[str, Any]


def load(path: Path, overrides: Sequence[str] = ()) -> Study:
    """Reads a study file; `overrides` are assignments such as `runs.workers=2`.

    Raises:
        UserError: as `parse` does, and for a file that is missing or no YAML.
    """
    mapping = config.apply_overrides(config.load_yaml(path), overrides)
    return parse(mapping, path.absolute().parent, title=path.absolute().parent.name)


def parse(mapping: Mapping[str, Any], directory: Path, title: str = "study") -> Study:
    """Validates a study, all but the configs that it expands to.

    Args:
        mapping: what the file says.
        directory: beside which paths are looked up.
        title: where the file gives none.

    Raises:
        UserError: for unknown or missing keys, axes that mean nothing, values that are not there.
    """
    file = config.parse(_File, mapping, "study")
    base = mapping["base"]  # not through JSON, in which every key is text
    if not isinstance(base, str | dict):
        raise UserError("study.base: expected the path of a config, or a config itself.")
    axes = parse_axes(mapping["axes"], base)
    study = Study(
        title=file.title or title,
        base=base,
        axes=axes,
        exclude=tuple(mapping.get("exclude") or ()),
        runs=file.runs,
        cost=file.cost,
        report=file.report,
        directory=directory,
        source=mapping,
    )
    _check_exclude(study)
    _check_report(file.report, axes, mapping.get("report") or {})
    return study


def _check_exclude(study: Study) -> None:
    labels = {axis.name: axis.labels for axis in study.axes}
    for number, combination in enumerate(study.exclude):
        for name, value in combination.items():
            if name not in labels:
                raise unknown_name(f"study.exclude.{number}", "axis", name, labels)
            for one in value if isinstance(value, list) else [value]:
                if one not in labels[name]:
                    where = f"study.exclude.{number}.{name}"
                    raise unknown_name(where, "value", one, [str(v) for v in labels[name]])


def _check_report(report: ReportConfig, axes: Sequence[Axis], stated: Mapping[str, Any]) -> None:
    for name in report.properties:
        if name not in ERROR_UNITS:
            raise unknown_name("study.report.properties", "property", name, ERROR_UNITS)
    by_name = {axis.name: axis for axis in axes}
    for key in ("x", "average", "panels"):
        name = stated.get(key)
        if name is not None and name not in by_name:
            raise unknown_name(f"study.report.{key}", "axis", name, by_name)
    axis = by_name.get(report.x)
    if axis is not None and not all(_is_number(label) for label in axis.labels):
        raise UserError(
            f"study.report.x: got the axis {axis.name}, whose values are not numbers; expected an "
            "axis of numbers, along which an error can be drawn."
        )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
