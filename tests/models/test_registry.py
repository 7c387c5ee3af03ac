"""Modules as configs: strict fields, nested modules, statistics, round trip."""

import dataclasses
import importlib

import flax.linen as nn
import pytest

from mlip_jax import config, models
from mlip_jax.config import UserError


@dataclasses.dataclass(frozen=True)
class Function:
    eta: float
    cutoff: float = 4.0


class Part(nn.Module):
    widths: tuple[int, ...] = (8,)
    energy_scale: float | None = None


class Whole(nn.Module):
    cutoff: float
    part: nn.Module | None = None
    terms: tuple[nn.Module, ...] = ()
    species: tuple[int, ...] | None = None
    functions: tuple[Function, ...] = ()
    avg_num_neighbors: float | None = None

    @property
    def prefix_cutoffs(self) -> tuple[float, ...]:
        return (0.5 * self.cutoff,)


def preset(cutoff: float = 5.0, wide: bool = False) -> Whole:
    if cutoff > 100:
        raise ValueError("cutoff: got more than the universe.")
    return Whole(cutoff=cutoff, part=Part((64,) if wide else (8,)))


@dataclasses.dataclass(frozen=True)
class Statistics:
    species: tuple[int, ...]
    avg_num_neighbors: float
    energy_scale: float


STATISTICS = Statistics(species=(8, 14), avg_num_neighbors=16.5, energy_scale=0.7)


@pytest.fixture(autouse=True)
def _registered(monkeypatch):
    monkeypatch.setitem(models.MODELS, "whole", f"{__name__}:Whole")
    monkeypatch.setitem(models.MODELS, "preset", f"{__name__}:preset")
    monkeypatch.setitem(models.PARTS, "part", f"{__name__}:Part")


def test_nested_modules_are_built():
    whole = models.build_model(
        {
            "whole": {
                "cutoff": 5,
                "species": ["Si", 8],
                "part": {"part": {"widths": [4, 4]}},
                "terms": [{"part": None}, {"part": {"energy_scale": 2}}],
                "functions": [{"eta": 1}],
            }
        }
    )
    assert whole == Whole(
        cutoff=5.0,
        species=(14, 8),
        part=Part(widths=(4, 4)),
        terms=(Part(), Part(energy_scale=2.0)),
        functions=(Function(1.0),),
    )
    hash(whole)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"whle": {}}, r"model: unknown model 'whle'; did you mean 'whole'"),
        ({"whole": {"cutof": 5.0}}, r"model\.whole: unknown field 'cutof'; did you mean 'cutoff'"),
        ({"whole": {}}, r"model\.whole\.cutoff: missing"),
        ({"whole": {"cutoff": 0.0}}, r"model\.whole\.cutoff: got 0\.0"),
        ({"whole": {"cutoff": -1}}, r"model\.whole\.cutoff: got -1"),
        ({"whole": {"cutoff": "5"}}, r"model\.whole\.cutoff: got \"5\" \(text\)"),
        ({"whole": {"cutoff": 5.0, "species": ["Sj"]}}, r"species: element: got 'Sj'"),
        ({"whole": {"cutoff": 5.0, "species": "Si"}}, r"species: got \"Si\""),
        ({"whole": {"cutoff": 5.0, "part": {"part": {"width": 1}}}}, r"whole\.part\.part: unknown"),
        ({"whole": {"cutoff": 5.0, "part": "part"}}, r"model\.whole\.part: got 'part'"),
        ({"preset": {"cutoff": None}}, r"model\.preset\.cutoff: got null"),
        ({"whole": {"cutoff": 5.0, "terms": [None]}}, r"whole\.terms\.0: got None"),
        ({"whole": {"cutoff": 5.0, "terms": [{"prt": {}}]}}, r"whole\.terms\.0: unknown"),
        ({"whole": {"cutoff": 5.0, "functions": [{"eta": 1, "x": 1}]}}, r"functions\.0: unknown"),
        ({"preset": {"cutoff": 101.0}}, r"model\.preset: cutoff: got more than"),
        ({"whole": {"cutoff": 5.0}, "preset": {}}, r"model: got \['whole', 'preset'\]"),
        ({"whole": 5.0}, r"model\.whole: got 5\.0"),
        ({}, r"model: got \[\]"),
        (None, r"model: got None"),
    ],
)
def test_wrong_sections_stop(section, message):
    with pytest.raises(UserError, match=message):
        models.build_model(section)


@pytest.mark.parametrize(
    "module",
    [
        Whole(cutoff=4.5),
        Whole(
            cutoff=4.5,
            species=(14, 102),
            part=Part((3, 2), 0.1),
            terms=(Part(), Part()),
            functions=(Function(1.0), Function(2.0, 3.0)),
            avg_num_neighbors=3.3,
        ),
        preset(wide=True),
    ],
)
def test_a_module_survives_the_disk(module, tmp_path):
    config.dump_yaml(models.module_to_config(module), tmp_path / "model.yaml")
    assert models.build_model(config.load_yaml(tmp_path / "model.yaml")) == module


def test_statistics_fill_what_is_none_at_any_depth():
    module = Whole(cutoff=4.0, part=Part(), terms=(Part(energy_scale=9.0), Part()))
    filled = models.fill_from_statistics(module, STATISTICS)
    assert filled == Whole(
        cutoff=4.0,
        part=Part(energy_scale=0.7),
        terms=(Part(energy_scale=9.0), Part(energy_scale=0.7)),
        species=(8, 14),
        avg_num_neighbors=16.5,
    )
    assert models.fill_from_statistics(filled, STATISTICS) == filled


def test_elements_of_the_data_that_the_model_lacks_stop():
    with pytest.raises(UserError, match=r"Whole are \['Si'\].* \['O'\]"):
        models.fill_from_statistics(Whole(cutoff=4.0, species=(14,)), STATISTICS)


def test_requirements_have_defaults():
    defaults = models.Requirements(4.0, prefix_cutoffs=(2.0,))
    assert models.requirements(Whole(cutoff=4.0)) == defaults
    assert defaults == (4.0, (2.0,), (), False, 0.0, (), None, ())


def test_an_unregistered_class_has_no_config():
    class Stranger(nn.Module):
        cutoff: float = 1.0

    with pytest.raises(ValueError, match="Stranger"):
        models.module_to_config(Stranger())


@pytest.mark.parametrize("name", sorted({**models.MODELS, **models.PARTS}))
def test_registered_names_resolve(name):
    module, _, attribute = {**models.MODELS, **models.PARTS}[name].partition(":")
    assert callable(getattr(importlib.import_module(module), attribute))


def test_schema_names_every_model_and_refuses_unknown_fields():
    schema = models.json_schema()
    assert {"$ref": "#/$defs/whole"} in schema["oneOf"]
    fields = schema["$defs"]["whole"]["properties"]["whole"]
    assert fields["additionalProperties"] is False
    assert fields["required"] == ["cutoff"]
    assert fields["properties"]["part"]["anyOf"][0] == {"$ref": "#/$defs/module"}
    assert "Function" in schema["$defs"]
