"""Safe YAML loading for files of unknown origin: plain values only, each key once, aliases bounded."""

from __future__ import annotations

import itertools
from typing import Any

import yaml

from nas_plugins.files import one_line


class TooLargeError(yaml.MarkedYAMLError):
    """An integer of more than 64 bits, which neither NumPy nor PyTorch can hold."""


class _Loader(yaml.SafeLoader):
    """Loader that refuses duplicate keys and integers beyond 64 bits, and keeps dates as text."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        keys = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if (key.tag, key.value) in keys:
                raise yaml.YAMLError(f"line {key.start_mark.line + 1} has the key {key.value:.40} a second time")
            keys.add((key.tag, key.value))
        return node

    def construct_yaml_int(self, node: Any) -> int:
        number = super().construct_yaml_int(node)
        if number.bit_length() > 64:
            raise TooLargeError(problem="a whole number of more than 64 bits", problem_mark=node.start_mark)
        return number


yaml.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int, _Loader)
yaml.add_constructor("tag:yaml.org,2002:timestamp", _Loader.construct_yaml_str, _Loader)


def load_plain(text: str, max_values: int = 100_000) -> Any:
    """Load a YAML text as mappings, lists, texts, numbers, booleans and nulls.

    Args:
        text: The YAML document.
        max_values: Maximum number of values, counting what an alias repeats each time.

    Raises:
        yaml.YAMLError: The text is not YAML, has a Python tag or a duplicate key, or is too large.
    """
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        # Counted before construction, because a merge key ("<<") copies what its alias stands for.
        if node and _count(node, {}) > max_values:
            raise yaml.YAMLError("with its aliases written out it has more values than a config")
        return loader.construct_document(node) if node else None
    except yaml.YAMLError:
        raise
    except Exception as error:  # the constructors of scalars raise many kinds
        raise yaml.YAMLError(one_line(error) or type(error).__name__) from None


def _count(node: yaml.Node, counts: dict[yaml.Node, float]) -> float:
    """Return the number of values in a node with its aliases expanded; infinite for a node that contains itself."""
    if node not in counts:
        counts[node] = float("inf")
        children = itertools.chain(*node.value) if isinstance(node, yaml.MappingNode) else node.value
        counts[node] = 1 + (0 if isinstance(node, yaml.ScalarNode) else sum(_count(item, counts) for item in children))
    return counts[node]
