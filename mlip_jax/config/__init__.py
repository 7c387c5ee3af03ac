"""YAML configs: read, override, validate strictly, write.

A section of a config is a frozen dataclass, its fields are the keys and the only defaults. YAML is
version 1.2: `1e-3` is a number and `No` is nobelium. Values keep their type: an integer may stand
for a float and a list for a tuple, nothing else is converted.
"""

from mlip_jax.config.errors import UserError, unknown_name
from mlip_jax.config.files import (
    apply_overrides,
    dump_yaml,
    format_yaml,
    load_yaml,
    parse_yaml,
    read_text,
    to_plain,
    with_key,
)
from mlip_jax.config.validation import json_schema, parse, validate

__all__ = [
    "UserError",
    "apply_overrides",
    "dump_yaml",
    "format_yaml",
    "json_schema",
    "load_yaml",
    "parse",
    "parse_yaml",
    "read_text",
    "to_plain",
    "unknown_name",
    "validate",
    "with_key",
]
