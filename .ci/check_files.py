"""Checks files: one newline at the end, no trailing blanks, YAML and TOML that parse, size.

python .ci/check_files.py [files]    without files: all that git knows
"""

import subprocess
import sys
import tomllib
from pathlib import Path

import ruamel.yaml

LARGEST = 3_000_000
TEXT = {".py", ".md", ".yaml", ".yml", ".toml", ".cff", ".txt", ".json", ".sh"}


def faults(path: Path) -> list[str]:
    """What is wrong with a file."""
    content = path.read_bytes()
    found = [f"larger than {LARGEST} bytes"] if len(content) > LARGEST else []
    if path.suffix not in TEXT:
        return found
    if content and (not content.endswith(b"\n") or content.endswith(b"\n\n")):
        found.append("does not end in one newline")
    if any(line != line.rstrip() for line in content.split(b"\n")):
        found.append("has trailing blanks")
    try:
        if path.suffix in {".yaml", ".yml", ".cff"}:
            ruamel.yaml.YAML(typ="safe").load(path)
        if path.suffix == ".toml":
            tomllib.loads(content.decode())
    except (ruamel.yaml.YAMLError, tomllib.TOMLDecodeError) as error:
        found.append(f"does not parse: {error}")
    return found


def main() -> int:
    """Prints every fault; 1 if there was one."""
    names = sys.argv[1:]
    if not names:
        listed = subprocess.run(["git", "ls-files"], capture_output=True, text=True, check=True)
        names = listed.stdout.splitlines()
    lines = [f"{name}: {fault}" for name in names for fault in faults(Path(name))]
    print("\n".join(lines))
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
