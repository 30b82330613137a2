"""Safe YAML loading: plain values only, and each key once."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import yaml

from nas_plugins.errors import InputError
from nas_plugins.files import PathLike, one_line, read_text


class _Loader(yaml.SafeLoader):
    """Loader that refuses duplicate keys and keeps dates as text."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        times = Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
        for key in [key for key, count in times.items() if count > 1]:
            raise yaml.YAMLError(f"the section at line {node.start_mark.line + 1} has the key {key} more than once")
        return super().construct_mapping(node, deep)


yaml.add_constructor("tag:yaml.org,2002:timestamp", _Loader.construct_yaml_str, _Loader)


def load_plain(text: str) -> Any:
    """Return a YAML text as mappings, lists, texts, numbers, booleans and nulls.

    Raises:
        yaml.YAMLError: The text is not YAML, or has a Python tag or a duplicate key.
    """
    return yaml.load(text, Loader=_Loader)


def read_yaml(file: PathLike) -> dict[str, Any]:
    """Return the keys and values of a YAML file.

    Raises:
        InputError: The file cannot be read or does not hold keys.
    """
    try:
        content = load_plain(read_text(Path(file)))
    except yaml.YAMLError as error:
        raise InputError(f"{file}: is no YAML: {one_line(error)}") from None
    if not isinstance(content, dict | None):
        raise InputError(f"{file}: should hold keys such as seed, data and training, not {content!r:.60}")
    return content or {}
