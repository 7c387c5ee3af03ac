"""The studies that are in the repository."""

import importlib.util
from pathlib import Path

from mlip_jax import config, study, train
from mlip_jax.study import expand

EXPERIMENTS = Path(__file__).resolve().parents[2] / "experiments"


def test_the_learning_curve_finds_its_data():
    variants = study.plan(study.load(EXPERIMENTS / "learning_curve/study.yaml"))
    assert len(variants) == 15
    assert {v.values["train_size"] for v in variants} == {25, 75, 235}


def test_the_configs_of_mlearn_are_there():
    loaded = study.load(EXPERIMENTS / "mlearn/study.yaml")
    variants = expand.expand(loaded)
    configs = EXPERIMENTS.parent / "configs/mlearn"
    methods = loaded.axes[1].labels
    there = {path.stem for path in configs.glob("*.yaml") if path.stem[3:] in methods}
    found = {f"{v.values['element']}_{v.values['method']}" for v in variants}
    assert len(found) == len(variants) >= 14
    assert found <= there  # a config that comes later is taken out of `exclude` then
    for variant in variants:
        assert train.parse(variant.config).data.train.startswith("mlearn/")  # the data are not here


def test_fine_tuning_takes_as_many_steps_for_every_size():
    variants = expand.expand(study.load(EXPERIMENTS / "fine-tuning/study.yaml"))
    assert len(variants) == 16
    for variant in variants:
        task = train.parse(variant.config)
        size = task.data.train_size
        assert isinstance(size, int)
        per_epoch = -(-size // task.training.batch_size)
        assert 300 <= per_epoch * task.training.epochs <= 300 + per_epoch
        assert (task.training.start is None) == (variant.values["begin"] == "from scratch")
    replay = train.parse(config.load_yaml(EXPERIMENTS / "fine-tuning/replay.yaml")).training.replay
    assert replay is not None
    assert replay.labels == "predicted"


def test_ours_stand_beside_the_published():
    path = EXPERIMENTS / "mlearn/compare.py"
    spec = importlib.util.spec_from_file_location("compare", path)
    assert spec is not None
    assert spec.loader is not None
    compare = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(compare)
    rows = [
        {"element": "si", "method": "snap", "test_energy_mae": 0.00612, "cost": 12.34},
        {"element": "ge", "method": "nequip", "status": "failed"},
    ]
    errors = {"energy_mae": 6.439, "force_mae": 0.1327}
    table = compare.lines(rows, {"Si": {"SNAP": {"test": errors}}})
    assert table[2:] == [
        "| Si | snap | 6.12 | 6.44 |  | 0.1327 | 12.3 |",
        "| Ge | nequip | failed |  |  |  |  |",
    ]
