"""A whole NodeConfig from a file, for a node without a coordinator."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ztlab.errors import SchemaError
from ztlab.model import codec
from ztlab.model.config import NodeConfig

EPOCH = "standalone"


def load(path: Path) -> NodeConfig:
    """The configuration in PATH, YAML or JSON; SchemaError names the file and every fault."""
    import yaml

    try:
        data: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SchemaError([f"{path}: cannot read it: {error.strerror}"]) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SchemaError([f"{path}: not YAML: {' '.join(str(error).split())}"]) from error
    try:
        return codec.decode(NodeConfig, data)
    except SchemaError as error:
        raise SchemaError([f"{path}: {problem}" for problem in error.problems]) from None
