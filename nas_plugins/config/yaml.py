"""YAML of anybody's: read as plain values, never as code, and never as more than a config can be."""

from __future__ import annotations

from typing import Any

import yaml

_MOST = 100_000
"""Characters of a config, and values in it: a hundred times what one of ours has."""
_DEEPEST = 100
"""How many lists and mappings may stand in each other."""


class TooLargeError(yaml.MarkedYAMLError):
    """A whole number that nothing can take."""


class _Loader(yaml.SafeLoader):
    """Dates are words, whole numbers no larger than anything can take, and no key stands twice in a section."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self.depth += 1
        if self.depth > _DEEPEST:
            raise yaml.YAMLError(f"more than {_DEEPEST} lists and mappings in each other")
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        names: set[tuple[str, str]] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if (key.tag, key.value) in names:
                    raise yaml.YAMLError(f"line {key.start_mark.line + 1} has the key {key.value:.40} a second time")
                names.add((key.tag, key.value))
        return node


def _whole_number(loader: _Loader, node: Any) -> int:
    # The length first: to read a hundred thousand digits takes its time, or is refused in Python's words.
    if len(node.value) <= 80 and (number := loader.construct_yaml_int(node)).bit_length() <= 64:
        return number
    raise TooLargeError(problem="a whole number of more than 64 bits", problem_mark=node.start_mark)


yaml.add_constructor("tag:yaml.org,2002:int", _whole_number, _Loader)
yaml.add_constructor("tag:yaml.org,2002:timestamp", _Loader.construct_yaml_str, _Loader)


def load_plain(text: str, most: int = _MOST) -> Any:
    """The content of a YAML text: mappings, lists, words, numbers.

    Args:
        text: the YAML.
        most: characters, and values in it with its aliases written out.

    Raises:
        yaml.YAMLError: the text is no YAML, has a tag of Python's or a key twice, or is too large, also by its
            aliases or a number.
    """
    if len(text) > most:
        raise yaml.YAMLError(f"{len(text):,} characters are more than a config has")
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        # Before anything is made of it: "<<" copies what an alias stands for.
        if _count(node, {}) > most:
            raise yaml.YAMLError("with its aliases written out it has more values than a config")
        return loader.construct_document(node)
    except yaml.YAMLError:
        raise
    except Exception as error:  # such as of a word that should be a number
        raise yaml.YAMLError(str(error) or type(error).__name__) from None


def _count(node: yaml.Node, known: dict[yaml.Node, float]) -> float:
    """How many values and letters it is, what an alias repeats counted each time."""
    if node not in known:
        known[node] = float("inf")  # until it is known: one that holds itself is without end
        items = [item for pair in node.value for item in pair] if isinstance(node, yaml.MappingNode) else node.value
        known[node] = 1 + (len(items) if isinstance(items, str) else sum(_count(item, known) for item in items))
    return known[node]
