"""Contractions of moment tensors to scalars, and a schedule of products that evaluates them.

A. V. Shapeev, Multiscale Model. Simul. 14, 1153 (2016), section 3. A contraction of k moments is
given by a symmetric matrix of integers: α_ij is the number of indices that the moments i and j sum
over together, α_ii the radial function μ_i. It is a multigraph: a moment is a vertex of colour μ, a
pair of summed indices an edge, and the order ν of a moment the degree of its vertex. Contractions
are the same exactly if their graphs are isomorphic.

A component of a tensor is a graph, too: each vertex further has free indices, so many of each
direction x, y, z. Cutting a graph in two gives its value as a sum of products of two components,
over all directions of the edges that were cut (`m` parallel edges in the directions `k` stand for
`m! / (k_x! k_y! k_z!)` equal terms). Components are shared among all scalars that need them.
"""

import functools
import itertools
import math
from collections import Counter
from typing import NamedTuple

import numpy as np

Vertex = tuple[int, int, int, int]
"""μ, and the numbers of free indices in the directions x, y, z."""

Edge = tuple[int, int, int]
"""Vertices i < j, and how many indices they sum over together."""


class Graph(NamedTuple):
    """Moments that are summed over common indices."""

    vertices: tuple[Vertex, ...]
    edges: tuple[Edge, ...]


Product = tuple[Graph, Graph]
Scalar = tuple[Graph, ...]
"""A product of connected graphs without free indices."""


class Rows(NamedTuple):
    """Values `Σ_t c_t v[left_t] v[right_t]`, each array `[values, terms]`."""

    left: np.ndarray
    right: np.ndarray
    coefficients: np.ndarray


class Schedule(NamedTuple):
    """How the scalars come from components of moments.

    Attributes:
        basic: μ and exponents of x, y, z of the components to begin with.
        stages: the rows of a stage read values of `basic` and of the stages before; their values
            are appended in order.
        scalars: where each scalar stands among all values.
    """

    basic: tuple[Vertex, ...]
    stages: tuple[tuple[Rows, ...], ...]
    scalars: np.ndarray


def level_of(graph: Graph) -> int:
    """`Σ (2 + 4 μ + ν)` over the moments of a graph."""
    moments = sum(2 + 4 * mu + sum(free) for mu, *free in graph.vertices)
    return moments + 2 * sum(number for *_, number in graph.edges)


@functools.cache
def scalars(level: int, max_moments: int) -> tuple[Scalar, ...]:
    """Scalars up to a level, of at most so many moments; by level, then number of moments.

    >>> [len(scalars(level, 4)) for level in (2, 4, 6, 8, 10)]
    [1, 2, 5, 9, 16]
    """
    graphs = _connected(level, max_moments)
    found: list[Scalar] = []

    def extend(chosen: Scalar, first: int, room: int, moments: int) -> None:
        for k in range(first, len(graphs)):
            left = room - level_of(graphs[k])
            more = moments - len(graphs[k].vertices)
            if left >= 0 and more >= 0:
                found.append((*chosen, graphs[k]))
                extend(found[-1], k, left, more)

    extend((), 0, level, max_moments)
    return tuple(sorted(found, key=_size))


@functools.cache
def schedule(level: int, max_moments: int) -> Schedule:
    """The schedule of `scalars(level, max_moments)`, in their order."""
    wanted = scalars(level, max_moments)
    rules: dict[Scalar, Counter[tuple[Scalar, Scalar]]] = {}

    def require(value: Scalar) -> None:
        if value in rules or _is_basic(value):
            return
        half = len(value) // 2
        rules[value] = (
            Counter({(value[:half], value[half:]): 1})
            if half
            else Counter({((a,), (b,)): c for (a, b), c in products(value[0]).items()})
        )
        for pair in rules[value]:
            for factor in pair:
                require(factor)

    for value in wanted:
        require(value)
    factors = {factor for rule in rules.values() for pair in rule for factor in pair}
    basic = sorted(value for value in factors | set(wanted) if _is_basic(value))
    index = {value: i for i, value in enumerate(basic)}
    stages = []
    for values in _by_depth(rules):
        values.sort(key=lambda value: len(rules[value]))
        groups = itertools.groupby(values, key=lambda value: _padded(len(rules[value])))
        stages.append(
            tuple(_rows([rules[value] for value in group], size, index) for size, group in groups)
        )
        index |= {value: len(index) + i for i, value in enumerate(values)}
    places = np.array([index[value] for value in wanted], dtype=np.int32)
    return Schedule(tuple(value[0].vertices[0] for value in basic), tuple(stages), places)


def products(graph: Graph) -> Counter[Product]:
    """A connected graph of two moments or more as a sum of products of components."""
    orders = tuple(sum(free) for _, *free in graph.vertices)
    _, first = _cheapest_cut(orders, graph.edges)
    second = tuple(i for i in range(len(orders)) if i not in first)
    cut = [edge for edge in graph.edges if (edge[0] in first) != (edge[1] in first)]
    result: Counter[Product] = Counter()
    for directions in itertools.product(*(_directions(number) for *_, number in cut)):
        vertices = [list(vertex) for vertex in graph.vertices]
        terms = 1
        for (i, j, number), direction in zip(cut, directions, strict=True):
            terms *= math.factorial(number) // math.prod(map(math.factorial, direction))
            for axis, count in enumerate(direction, 1):
                vertices[i][axis] += count
                vertices[j][axis] += count
        opened = Graph(tuple((v[0], v[1], v[2], v[3]) for v in vertices), graph.edges)
        a, b = sorted((_part(opened, first), _part(opened, second)))
        result[a, b] += terms
    return result


def _connected(level: int, max_moments: int) -> list[Graph]:
    """Connected graphs without free indices, each once, by level and number of moments.

    From single vertices by adding edges, and vertices with one edge: all come up, as every
    connected graph has a vertex without which it is connected.
    """
    found = {Graph(((mu, 0, 0, 0),), ()): None for mu in range((level - 2) // 4 + 1)}
    grown = list(found)
    while grown:
        graph = grown.pop()
        for larger in _larger(graph, level - level_of(graph), max_moments):
            larger = _canonical(larger)
            if larger not in found:
                found[larger] = None
                grown.append(larger)
    return sorted(found, key=lambda graph: _size((graph,)))


def _larger(graph: Graph, room: int, max_moments: int) -> list[Graph]:
    """Graphs with one edge more, or one vertex and its edge more, within a rest of the level."""
    vertices, edges = graph
    number = len(vertices)
    larger = []
    if room >= 2:
        known = {(i, j): m for i, j, m in edges}
        for pair in itertools.combinations(range(number), 2):
            more = {**known, pair: known.get(pair, 0) + 1}
            larger.append(Graph(vertices, tuple((*key, more[key]) for key in sorted(more))))
    if number < max_moments:
        for mu, i in itertools.product(range(room // 4), range(number)):
            larger.append(Graph((*vertices, (mu, 0, 0, 0)), (*edges, (i, number, 1))))
    return larger


@functools.cache
def _canonical(graph: Graph) -> Graph:
    """The graph whose vertices are numbered in a way that isomorphic graphs share."""
    vertices, edges = graph
    around: list[list[tuple[int, Vertex]]] = [[] for _ in vertices]
    for i, j, number in edges:
        around[i].append((number, vertices[j]))
        around[j].append((number, vertices[i]))
    kinds = [(vertex, sorted(near)) for vertex, near in zip(vertices, around, strict=True)]
    order = sorted(range(len(vertices)), key=kinds.__getitem__)
    alike = [tuple(group) for _, group in itertools.groupby(order, key=kinds.__getitem__)]
    best: tuple[Edge, ...] | None = None
    for arrangement in itertools.product(*map(itertools.permutations, alike)):
        place = {i: k for k, i in enumerate(itertools.chain(*arrangement))}
        moved = [(place[i], place[j], number) for i, j, number in edges]
        candidate = tuple(sorted((min(i, j), max(i, j), number) for i, j, number in moved))
        if best is None or candidate < best:
            best = candidate
    return Graph(tuple(vertices[i] for i in order), best or ())


@functools.cache
def _cheapest_cut(orders: tuple[int, ...], edges: tuple[Edge, ...]) -> tuple[int, tuple[int, ...]]:
    """The part with the first vertex, of the cut that takes the fewest products, and that number.

    Counted as if nothing were shared; of equal ones the most even cut, for few stages.
    """
    number = len(orders)
    if number == 1:
        return 0, (0,)
    own = math.prod(map(_components, orders))
    choices = []
    for size in range(number - 1):
        for others in itertools.combinations(range(1, number), size):
            first = (0, *others)
            second = tuple(i for i in range(number) if i not in first)
            opened = list(orders)
            cost = own
            for i, j, count in edges:
                if (i in first) != (j in first):
                    cost *= _components(count)
                    opened[i] += count
                    opened[j] += count
            for part in (first, second):
                inner = _inner_edges(edges, part)
                cost += _cheapest_cut(tuple(opened[i] for i in part), inner)[0]
            choices.append((cost, abs(len(first) - len(second)), first))
    cost, _, first = min(choices)
    return cost, first


def _part(graph: Graph, vertices: tuple[int, ...]) -> Graph:
    """Some of the vertices with the edges between them."""
    chosen = tuple(graph.vertices[i] for i in vertices)
    return _canonical(Graph(chosen, _inner_edges(graph.edges, vertices)))


def _inner_edges(edges: tuple[Edge, ...], vertices: tuple[int, ...]) -> tuple[Edge, ...]:
    place = {i: k for k, i in enumerate(vertices)}
    return tuple((place[i], place[j], m) for i, j, m in edges if i in place and j in place)


@functools.cache
def _directions(number: int) -> tuple[tuple[int, int, int], ...]:
    """Ways to give so many indices the directions x, y, z."""
    return tuple(
        (x, y, number - x - y) for x in range(number, -1, -1) for y in range(number - x, -1, -1)
    )


def _components(order: int) -> int:
    return (order + 1) * (order + 2) // 2


def _is_basic(value: Scalar) -> bool:
    return len(value) == 1 and len(value[0].vertices) == 1


def _size(value: Scalar) -> tuple[int, int, Scalar]:
    moments = sum(len(graph.vertices) for graph in value)
    return sum(map(level_of, value)), moments, value


def _by_depth(rules: dict[Scalar, Counter[tuple[Scalar, Scalar]]]) -> list[list[Scalar]]:
    """The values of each stage: as early as what they are made of allows."""
    depths: dict[Scalar, int] = {}

    def depth(value: Scalar) -> int:
        if _is_basic(value):
            return 0
        if value not in depths:
            depths[value] = 1 + max(depth(factor) for pair in rules[value] for factor in pair)
        return depths[value]

    stages: list[list[Scalar]] = [[] for _ in range(max(map(depth, rules), default=0))]
    for value in rules:
        stages[depth(value) - 1].append(value)
    return stages


def _padded(terms: int) -> int:
    """A few numbers of terms, the most frequent, so that programs stay small: 1, 3, 6, 10, …."""
    order = 0
    while _components(order) < terms:
        order += 1
    return _components(order)


def _rows(rules: list[Counter[tuple[Scalar, Scalar]]], size: int, index: dict[Scalar, int]) -> Rows:
    """Rules of up to so many terms as arrays; coefficients 0 fill up."""
    pairs = np.zeros((len(rules), size, 2), dtype=np.int32)
    coefficients = np.zeros((len(rules), size))
    for k, rule in enumerate(rules):
        pairs[k, : len(rule)] = [(index[a], index[b]) for a, b in rule]
        coefficients[k, : len(rule)] = list(rule.values())
    return Rows(pairs[..., 0], pairs[..., 1], coefficients)
