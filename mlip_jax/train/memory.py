"""How much memory a compiled step needs, compared with what there is, before the first step."""

from pathlib import Path
from typing import Any

from jax.stages import Compiled

from mlip_jax.config import UserError

USABLE = 0.9
"""Share of the available memory that a step may take; the rest is for other allocations."""


def required_bytes(program: Compiled) -> int:
    """Bytes that a compiled program holds while it runs: arguments, results and temporaries."""
    analysis = program.memory_analysis()
    if analysis is None:
        return 0
    return int(
        analysis.argument_size_in_bytes
        + analysis.output_size_in_bytes
        - analysis.alias_size_in_bytes
        + analysis.temp_size_in_bytes
        + analysis.generated_code_size_in_bytes
    )


def available_bytes(device: Any) -> int | None:
    """Free memory of a device (of the machine, for a CPU), or None where it cannot be told."""
    if device.platform != "cpu":
        statistics = device.memory_stats() or {}
        if "bytes_limit" not in statistics:
            return None
        return int(statistics["bytes_limit"] - statistics.get("bytes_in_use", 0))
    limits = [_meminfo("MemAvailable"), _control_group()]
    known = [limit for limit in limits if limit is not None]
    return min(known, default=None)


def check(required: int, available: int | None, batch_size: int, devices: int = 1) -> None:
    """Stops before a step that does not fit.

    Args:
        required: bytes of the largest step, on each device.
        available: bytes of a device, if known.
        batch_size: structures in a step, for the advice.
        devices: that share this memory (the devices of one CPU do).

    Raises:
        UserError: with the batch size that would fit.
    """
    if available is None or required * devices <= USABLE * available:
        return
    fitting = int(batch_size * USABLE * available / (required * devices))
    advice = (
        f"Set training.batch_size={fitting} or less"
        if fitting >= 1
        else "Not even one structure fits: choose a smaller model or cutoff"
    )
    raise UserError(
        f"training: a step of the largest batch needs {required * devices / 1e9:.1f} GB and "
        f"{available / 1e9:.1f} GB are free (of which {USABLE:.0%} may be used); "
        f"training.batch_size is {batch_size}. {advice}."
    )


def _meminfo(key: str) -> int | None:
    path = Path("/proc/meminfo")
    if not path.exists():
        return None
    for line in path.read_text(encoding="ascii").splitlines():
        name, _, rest = line.partition(":")
        if name == key:
            return int(rest.split()[0]) * 1024
    return None


def _control_group() -> int | None:
    """What a container's limit leaves; cached files do not count, they make room when asked."""
    root = Path("/sys/fs/cgroup")
    files = [root / "memory.max", root / "memory.current", root / "memory.stat"]
    if not all(file.exists() for file in files):
        return None
    limit, used, statistics = (file.read_text(encoding="ascii") for file in files)
    if limit.strip() == "max":
        return None
    cached = dict(line.split() for line in statistics.splitlines())["inactive_file"]
    return int(limit) - int(used) + int(cached)
