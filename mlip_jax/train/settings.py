"""The section `training`: how long, how often, with what precision."""

import dataclasses
from typing import Annotated, Literal

import jax
from pydantic import Field

from mlip_jax.config import UserError
from mlip_jax.train.lora import LoraConfig
from mlip_jax.train.loss import PROPERTIES
from mlip_jax.train.replay import ReplayConfig

MONITORS = ("loss", *(f"{name}_{error}" for name in PROPERTIES for error in ("mae", "rmse")))

FREE_ON_RESUME = ("name", "time_limit", "checkpoint_minutes", "checkpoint_steps", "workers")
"""Keys that a resumed run may change: its numbers do not depend on them."""


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """The section `training`.

    Attributes:
        name: of the run; it is written to `runs/<name>` unless another directory is given.
        epochs: passes through the training data.
        max_steps: stops earlier.
        batch_size: structures in a step, over all devices.
        valid_batch_size: structures in a batch of validation; `batch_size` where not given.
        seed: of the parameters and of the order of the structures.
        precision: of the computation; float64 needs x64, see `inference.require_precision`.
        ema: decay of the exponential moving average of the parameters, which is evaluated and
            saved in their place; none where null.
        valid_interval: epochs from one validation to the next.
        monitor: metric of the validation data (of the training data where there are none) whose
            smallest value marks the best parameters; `loss` has the last epoch's weights.
        patience: validations without a better value after which training stops.
        time_limit: minutes after which it stops, resumably.
        checkpoint_minutes: from one checkpoint to the next, at the end of an epoch.
        checkpoint_steps: steps from one to the next within an epoch; none there where null.
        devices: local devices to use; all that divide the batch size where null.
        block: atoms processed at a time on a CPU (see `AtomicGraph.block`; 0: all). Blocks need
            less memory; whether they save time depends on the model. Results differ by rounding.
        workers: threads that build batches ahead.
        tensorboard: whether to write TensorBoard files, too.
        report: whether to write `report.html` and plots at the end.
        start: directory of a potential whose parameters training begins with, beside the config or
            in the working directory; its model has to be the one of the config.
        start_reference_energies: with `start`, `refit` shifts the reference energies of that
            potential such that its energies are those of the training data as far as shifts of
            elements can make them (another level of theory has other ones); `keep` leaves them;
            `data` takes those of `data.statistics`.
        lora: with `start`, few parameters are trained, see `lora.LoraConfig`; all where null.
        replay: with `start`, older data that the potential is to remember, see
            `replay.ReplayConfig`.
    """

    name: Annotated[str, Field(min_length=1)] = "run"
    epochs: Annotated[int, Field(ge=1)] = 100
    max_steps: Annotated[int, Field(ge=1)] | None = None
    batch_size: Annotated[int, Field(ge=1)] = 8
    valid_batch_size: Annotated[int, Field(ge=1)] | None = None
    seed: Annotated[int, Field(ge=0)] = 0
    precision: Literal["float32", "float64"] = "float32"
    ema: Annotated[float, Field(gt=0, lt=1)] | None = 0.99
    valid_interval: Annotated[int, Field(ge=1)] = 1
    monitor: str = "loss"
    patience: Annotated[int, Field(ge=1)] | None = None
    time_limit: Annotated[float, Field(gt=0)] | None = None
    checkpoint_minutes: Annotated[float, Field(ge=0)] = 1.0
    checkpoint_steps: Annotated[int, Field(ge=1)] | None = None
    devices: Annotated[int, Field(ge=1)] | None = None
    block: Annotated[int, Field(ge=0)] = 0
    workers: Annotated[int, Field(ge=0)] = 1
    tensorboard: bool = False
    report: bool = True
    start: str | None = None
    start_reference_energies: Literal["refit", "keep", "data"] = "refit"
    lora: LoraConfig | None = None
    replay: ReplayConfig | None = None

    def __post_init__(self):
        for key in ("lora", "replay"):
            if self.start is None and getattr(self, key) is not None:
                raise UserError(
                    f"{key}: got it without start; expected a potential that training begins with. "
                    "Set training.start, or remove the key."
                )
        if self.monitor not in MONITORS:
            raise UserError(
                f"monitor: got {self.monitor!r}; expected one of {', '.join(MONITORS)}."
            )
        if self.devices is not None and self.batch_size % self.devices:
            raise UserError(
                f"batch_size: got {self.batch_size}; expected a multiple of {self.devices} devices."
            )


def count_devices(config: TrainingConfig) -> int:
    """The number of local devices of a run: as many as asked for, or the most that divide a batch.

    Raises:
        UserError: where there are fewer than asked for.
    """
    local = jax.local_devices()
    if config.devices is None:
        return max(n for n in range(1, len(local) + 1) if config.batch_size % n == 0)
    if config.devices > len(local):
        raise UserError(
            f"training.devices: got {config.devices}; this machine has {len(local)} "
            f"({local[0].platform}). Set fewer, or leave the key out."
        )
    return config.devices
