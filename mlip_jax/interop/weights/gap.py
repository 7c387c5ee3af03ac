"""Gaussian approximation potentials as QUIP writes them: an XML file and files of sparse points.

Supported are the descriptors `soap` with a dot-product kernel and `distance_2b` with a Gaussian
kernel, for any number of elements, and energies of isolated atoms. The files are those of
`gap_fit`; Klawohn et al., J. Chem. Phys. 159, 174108 (2023).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree.ElementTree import Element

import flax.linen as nn
import numpy as np
from jaxtyping import Float

from mlip_jax import elements
from mlip_jax.config import UserError
from mlip_jax.descriptors import distance
from mlip_jax.descriptors.angles import element_pairs
from mlip_jax.descriptors.distance import DistanceKernel
from mlip_jax.descriptors.soap import SOAP
from mlip_jax.interop.weights import gap_descriptor, xml_tree
from mlip_jax.interop.weights.gap_descriptor import Arguments
from mlip_jax.models.local import Local
from mlip_jax.models.sum import Sum
from mlip_jax.nn.gaussian_process import GaussianProcess
from mlip_jax.nn.linear import Linear
from mlip_jax.potential import Potential

_KERNELS = {"distance_2b": ("1", "ard_se"), "soap": ("2", "dot_product")}
"""Number and name of the covariance that goes with a descriptor."""


class Process(NamedTuple):
    """One Gaussian process of the file.

    Attributes:
        arguments: of the descriptor.
        delta: standard deviation of the energy, eV.
        theta: width of a Gaussian kernel.
        zeta: exponent of a dot-product kernel.
        points: sparse points.
        weights: coefficients of the kernel at the sparse points, their cutoffs included.
        where: file and line, for messages.
    """

    arguments: Arguments
    delta: float
    theta: float
    zeta: int
    points: Float[np.ndarray, "points dimensions"]
    weights: Float[np.ndarray, " points"]
    where: str


class Term(NamedTuple):
    """A model, its variables, and the energy [eV] that it gives isolated atoms."""

    model: Local
    variables: dict[str, Any]
    isolated: dict[int, float]


def read(files: Sequence[Path]) -> Potential:
    """Reads a GAP.

    Args:
        files: the XML file; files of sparse points are looked for beside it where not given.

    Returns:
        The potential; the reference energy of an element is QUIP's energy of an isolated atom.

    Raises:
        UserError: naming file and line of what is damaged, missing or not supported.
    """
    path, given = _xml_of(files)
    root = xml_tree.read(path)
    _check_kind(path, root)
    processes = [_process(path, given, node) for node in root.iter("gpCoordinates")]
    if not processes:
        raise UserError(f"{path}: holds no <gpCoordinates>; expected a GAP written by gap_fit.")
    species = _species(processes)
    terms = [_soap_term(group) for group in _groups(processes, "soap")]
    terms += [_pair_term(group, species) for group in _groups(processes, "distance_2b")]
    model: nn.Module = terms[0].model
    variables = terms[0].variables
    if len(terms) > 1:
        model = Sum(tuple(term.model for term in terms))
        variables = {
            kind: {
                f"terms_{i}": term.variables[kind]
                for i, term in enumerate(terms)
                if kind in term.variables
            }
            for kind in ("params", "constants")
        }
    energies = _isolated_atoms(path, root)
    references = {
        z: energies.get(z, 0.0) + sum(term.isolated.get(z, 0.0) for term in terms) for z in species
    }
    names = [path.name, *sorted(found.name for found in given.values())]
    return Potential(model, variables, references, {"imported": {"format": "gap", "files": names}})


def _xml_of(files: Sequence[Path]) -> tuple[Path, dict[str, Path]]:
    paths = [Path(file) for file in files]
    found = [path for path in paths if path.suffix == ".xml"]
    if len(found) != 1:
        names = ", ".join(path.name for path in paths) or "no files"
        raise UserError(f"gap: got {names}; expected one .xml and its .sparseX files.")
    return found[0], {path.name: path for path in paths if path != found[0]}


def _check_kind(path: Path, root: Element) -> None:
    """Refuses files that hold more than a GAP."""
    for node in root.iter("Potential"):
        words = xml_tree.attribute(path, node, "init_args").split()
        if words[:2] != ["IP", "GAP"]:
            raise xml_tree.fault(path, node, f"got {' '.join(words)!r}; only `IP GAP` is supported")
    for node in root.iter("GAP_data"):
        if node.get("do_core", "F").upper().startswith("T"):
            raise xml_tree.fault(path, node, "a core potential (do_core) is not supported")


def _isolated_atoms(path: Path, root: Element) -> dict[int, float]:
    """The table e0 [eV]."""
    table = {}
    for node in root.iter("e0"):
        z = _number(path, node, xml_tree.attribute(path, node, "Z"))
        table[int(z)] = _number(path, node, xml_tree.attribute(path, node, "value"))
    return table


def _process(path: Path, given: dict[str, Path], node: Element) -> Process:
    text = (node.findtext("descriptor") or "").strip()
    where = f"{path}, line {node.get(xml_tree.LINE)}"
    arguments = gap_descriptor.parse(text, where)
    got, expected = node.get("covariance_type"), _KERNELS[arguments.kind][0]
    if got != expected:
        name = _KERNELS[arguments.kind][1]
        raise xml_tree.fault(
            path,
            node,
            f"{arguments.kind} has covariance_type {got}; expected {expected} ({name})",
        )
    for name, neutral in (("signal_mean", 0.0), ("n_permutations", 1.0)):
        value = _number(path, node, node.get(name, str(neutral)))
        if value != neutral:
            raise xml_tree.fault(path, node, f"{name} = {value} is not supported")
    nodes = node.findall("sparseX")
    weights = [
        _number(path, n, xml_tree.attribute(path, n, "alpha"))
        * _number(path, n, n.get("sparseCutoff", "1.0"))
        for n in nodes
    ]
    count = _number(path, node, xml_tree.attribute(path, node, "n_sparseX"))
    if len(weights) != count:
        raise xml_tree.fault(path, node, f"got {len(weights)} <sparseX>; expected {count:g}")
    zeta = _number(path, node, node.get("zeta", "1.0"))
    if zeta != int(zeta) or zeta < 1:
        raise xml_tree.fault(path, node, f"zeta = {zeta}: only positive integers are supported")
    return Process(
        arguments,
        _number(path, node, xml_tree.attribute(path, node, "signal_variance")),
        _number(path, node, (node.findtext("theta") or "1.0").strip()),
        int(zeta),
        _sparse_points(path, given, node, len(weights)),
        np.array(weights),
        where,
    )


def _sparse_points(
    path: Path, given: dict[str, Path], node: Element, count: int
) -> Float[np.ndarray, "points dimensions"]:
    """Sparse points from the file that the XML names."""
    name = node.get("sparseX_filename")
    if name is None:
        raise xml_tree.fault(path, node, "names no file of sparse points (sparseX_filename)")
    found = given.get(name, path.parent / Path(name).name)
    try:
        words = found.read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{found}: cannot be read ({error}); {path} needs this file of sparse points."
        ) from error
    try:
        values = np.array([float(word.upper().replace("D", "E")) for word in words])
    except ValueError as error:
        raise UserError(f"{found}: holds something other than numbers ({error}).") from error
    dimensions = int(_number(path, node, xml_tree.attribute(path, node, "dimensions")))
    if len(values) != count * dimensions or not np.all(np.isfinite(values)):
        raise UserError(
            f"{found}: got {len(values)} numbers; expected {count} sparse points of {dimensions} "
            "finite numbers. Is the file complete?"
        )
    return values.reshape(count, dimensions)


def _number(path: Path, node: Element, word: str) -> float:
    try:
        value = float(word.upper().replace("D", "E"))
    except ValueError:
        value = np.nan
    if not np.isfinite(value):
        raise xml_tree.fault(path, node, f"got {word!r} in <{node.tag}>; expected a number")
    return value


def _species(processes: Sequence[Process]) -> tuple[int, ...]:
    """Elements of all processes, in the order of the file."""
    for p in processes:
        unknown = [z for z in p.arguments.species if z not in range(1, len(elements.SYMBOLS))]
        if unknown:
            raise UserError(f"{p.where}: got {unknown[0]}; expected an atomic number.")
    return tuple(dict.fromkeys(z for p in processes for z in p.arguments.species))


def _groups(processes: Sequence[Process], kind: str) -> list[list[Process]]:
    """Processes that share a descriptor: of like settings, for different centres or pairs."""
    groups: list[list[Process]] = []
    for process in processes:
        if process.arguments.kind != kind:
            continue
        for group in groups:
            first = group[0]
            same = first.arguments.settings == process.arguments.settings
            kernels = (first.theta, first.zeta) == (process.theta, process.zeta)
            new = all(p.arguments.centres != process.arguments.centres for p in group)
            if same and kernels and new:
                group.append(process)
                break
        else:
            groups.append([process])
    return groups


def _soap_term(group: Sequence[Process]) -> Term:
    """One SOAP with the processes of its centres."""
    first = group[0].arguments
    species = first.species
    number = max(len(p.points) for p in group)
    delta = group[0].delta
    regressor = GaussianProcess(num_sparse=number, zeta=group[0].zeta)
    descriptor = SOAP(species=species, **first.settings_of(SOAP))
    alone = descriptor.isolated_features()
    size = alone.shape[1]
    points = np.zeros((len(species), number, size))
    whitening = np.zeros((len(species), number, number))
    coefficients = np.zeros((len(species), number))
    isolated = {}
    for p in group:
        (z,), count = p.arguments.centres, len(p.points)
        if p.points.shape[1] != size:
            raise UserError(
                f"{p.where}: got sparse points of {p.points.shape[1]} numbers; the descriptor has "
                f"{size}."
            )
        e = species.index(z)
        weights = p.weights * p.delta**2 / delta
        matrix = regressor.whitening_of(p.points)
        points[e, :count] = p.points
        whitening[e, :count, :count] = matrix
        coefficients[e, :count] = np.linalg.solve(matrix, weights)
        isolated[z] = delta * float(weights @ (p.points @ alone[e]) ** p.zeta)
    variables = {
        "params": {"regressor": {"coefficients": coefficients}},
        "constants": {"regressor": {"points": points, "whitening": whitening}},
    }
    model = Local(descriptor, regressor, energy_scale=delta, scaling="none")
    return Term(model, variables, isolated)


def _pair_term(group: Sequence[Process], species: tuple[int, ...]) -> Term:
    """One kernel of distances with the processes of its pairs of elements."""
    by_pair = {tuple(sorted(p.arguments.centres)): p for p in group}
    pairs = [
        by_pair.get(tuple(sorted((species[e], species[f])))) for e, f in element_pairs(len(species))
    ]
    points = tuple(() if p is None else tuple(p.points[:, 0].tolist()) for p in pairs)
    first, delta = group[0], group[0].delta
    descriptor = DistanceKernel(
        species=species,
        points=points,
        theta=first.theta,
        **first.arguments.settings_of(DistanceKernel),
    )
    coefficients = []
    for p, of_pair in zip(pairs, points, strict=True):
        if p is not None:
            matrix = distance.whitening_of(of_pair, first.theta, descriptor.jitter)
            # QUIP counts every pair from both of its atoms.
            coefficients.append(np.linalg.solve(matrix, 2.0 * p.weights * p.delta**2 / delta))
    variables = {"params": {"regressor": {"coefficients": np.concatenate(coefficients)[None]}}}
    model = Local(descriptor, Linear(shared=True), energy_scale=delta, scaling="none")
    return Term(model, variables, {})
