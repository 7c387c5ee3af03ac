"""Configs: YAML 1.2, strict types, nearest keys, overrides."""

import dataclasses
import math
from pathlib import Path
from typing import Annotated, Any, Literal

import annotated_types
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlip_jax import config
from mlip_jax.config import UserError


@dataclasses.dataclass(frozen=True)
class Keys:
    energy: str = "REF_energy"
    forces: str | None = None


@dataclasses.dataclass(frozen=True)
class Section:
    rate: Annotated[float, annotated_types.Gt(0)] = 1e-3
    epochs: Annotated[int, annotated_types.Ge(1)] = 10
    widths: tuple[int, ...] = (16, 16)
    unit: Literal["eV", "hartree"] = "eV"
    keys: Keys = Keys()
    more: tuple[Keys, ...] = ()
    energies: dict[int, float] = dataclasses.field(default_factory=dict)
    path: Path | None = None
    shuffle: bool = True
    files: str | Keys | tuple[str | Keys, ...] = ""

    def __post_init__(self):
        if self.epochs == 13:
            raise ValueError("section.epochs: got 13; expected a lucky number.")


def yaml_file(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    return path


def test_yaml_is_version_1_2(tmp_path):
    read = config.load_yaml(yaml_file(tmp_path, "a: 1e-3\nb: No\nc: [1, 2.5]\nd: yes\ne: 010\n"))
    assert read == {"a": 0.001, "b": "No", "c": [1, 2.5], "d": "yes", "e": 10}
    assert isinstance(read["a"], float)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\na: 2\n", "line 2.*duplicate key"),
        ("a: [1, 2\nb: 3\n", "line"),
        ("- 1\n- 2\n", "got a list at the top level"),
        ("a: !!python/object:os.system {}\n", "line 1"),
    ],
)
def test_broken_yaml_names_file_and_line(tmp_path, text, message):
    with pytest.raises(UserError, match=rf"config\.yaml.*{message}"):
        config.load_yaml(yaml_file(tmp_path, text))


def test_unreadable_files_are_named(tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.yaml: no such file"):
        config.load_yaml(tmp_path / "nowhere.yaml")
    with pytest.raises(UserError, match="got a directory"):
        config.load_yaml(tmp_path)
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="no UTF-8"):
        config.load_yaml(tmp_path / "binary")


def test_parse_accepts_lists_for_tuples_and_integers_for_floats():
    section = config.parse(
        Section,
        {
            "rate": 1,
            "widths": [8],
            "energies": {14: -5, 8: -2.5},
            "path": "a/b",
            "more": [{"energy": "e"}],
        },
        "section",
    )
    assert section.rate == 1.0
    assert isinstance(section.rate, float)
    assert section.widths == (8,)
    assert section.energies == {14: -5.0, 8: -2.5}
    assert section.path == Path("a/b")
    assert section.more == (Keys(energy="e"),)


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"epoch": 3}, r"section: unknown key 'epoch'; did you mean 'epochs'\? Known: energies, "),
        ({"keys": {"energi": "x"}}, r"section\.keys: unknown key 'energi'; did you mean 'energy'"),
        ({"more": [{"force": "x"}]}, r"section\.more\.0: .*did you mean 'forces'"),
        ({"rate": "1e-3"}, r'section\.rate: got "1e-3" \(text\); expected a valid number'),
        ({"rate": 0}, r"section\.rate: got 0 \(integer\); expected greater than 0"),
        ({"rate": True}, r"section\.rate: got true"),
        ({"epochs": 1.0}, r"section\.epochs: got 1\.0 \(number\); expected a valid integer"),
        ({"epochs": 0}, r"section\.epochs"),
        ({"epochs": 13}, r"lucky"),
        ({"unit": "Hartree"}, r"section\.unit: got \"Hartree\".*'eV' or 'hartree'"),
        ({"widths": [1, "2"]}, r"section\.widths\.1"),
        ({"shuffle": "yes"}, r"section\.shuffle"),
        ({"keys": 3}, r"section\.keys: got 3"),
        ({"files": {"energi": "x"}}, r"^section\.files: unknown key 'energi'; [^\n]*$"),
        ({"files": ["a", {"forces": 3}]}, r"^section\.files\.1\.forces: got 3 [^\n]*$"),
        ({"files": 3}, r"^section\.files: got 3 \(integer\); expected .*, or .*, or [^\n]*$"),
    ],
)
def test_wrong_keys_and_values_stop(mapping, message):
    with pytest.raises(UserError, match=message):
        config.parse(Section, mapping, "section")


def test_all_faults_come_in_one_message():
    with pytest.raises(UserError) as caught:
        config.parse(Section, {"rate": -1, "epochz": 2, "unit": "x"}, "section")
    assert len(str(caught.value).splitlines()) == 3


def test_a_key_without_default_must_be_set():
    @dataclasses.dataclass(frozen=True)
    class Needs:
        file: Path

    with pytest.raises(UserError, match=r"data\.file: missing"):
        config.parse(Needs, None, "data")


def test_overrides_are_yaml_and_leave_the_original():
    original = {"model": {"nequip": {"cutoff": 5.0}}, "terms": [{"a": 1}]}
    changed = config.apply_overrides(
        original,
        ["model.nequip.cutoff=4", "training.rate=1e-3", "terms.0.a=[No, 2]", "x=", "y=a=b"],
    )
    assert changed["model"]["nequip"]["cutoff"] == 4
    assert changed["training"] == {"rate": 0.001}
    assert changed["terms"] == [{"a": ["No", 2]}]
    assert changed["x"] is None
    assert changed["y"] == "a=b"
    assert original == {"model": {"nequip": {"cutoff": 5.0}}, "terms": [{"a": 1}]}


@pytest.mark.parametrize("override", ["epochs", "=3", "a..b=1", "a.b.c=1", "l.7=1", "l.x=1", "a=["])
def test_malformed_overrides_stop(override):
    with pytest.raises(UserError, match="override"):
        config.apply_overrides({"a": {"b": 3}, "l": [1]}, [override])


scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False)
    | st.text(st.characters(codec="utf-8", exclude_categories=["C"]), max_size=8)
    | st.sampled_from(["No", "yes", "1e-3", "null", "~", "-", "0x1", "1_0"])
)
trees = st.recursive(
    scalars,
    lambda t: st.lists(t, max_size=3) | st.dictionaries(st.sampled_from("abNo"), t, max_size=3),
    max_leaves=8,
)


@given(tree=trees)
def test_what_is_dumped_is_read_back(tmp_path_factory, tree: Any):
    path = tmp_path_factory.mktemp("yaml") / "x.yaml"
    config.dump_yaml({"top": tree}, path)
    assert config.load_yaml(path) == {"top": tree}


def test_resolved_sections_round_trip(tmp_path):
    section = Section(rate=np.float64(0.1), path=Path("x"), energies={14: -5.123456789012345})
    config.dump_yaml({"section": section, "bad": math.inf}, tmp_path / "resolved.yaml")
    read = config.load_yaml(tmp_path / "resolved.yaml")
    assert config.parse(Section, read["section"], "section") == section
    assert read["bad"] == math.inf


def test_schema_refuses_unknown_keys():
    schema = config.json_schema(Section)
    assert schema["additionalProperties"] is False
    assert schema["$defs"]["Keys"]["additionalProperties"] is False
    assert schema["properties"]["rate"]["exclusiveMinimum"] == 0
