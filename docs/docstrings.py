"""Griffe extension: reStructuredText in docstrings, written as the Markdown that the pages are made of."""

from __future__ import annotations

import re
from typing import Any

import griffe

_ROLE = re.compile(r":(?:class|func|meth|mod|attr|data|exc):`(~?)([\w.]+)`")


class RolesToMarkdown(griffe.Extension):
    """Turn roles into links to the API reference, and ``::`` before a block of code into a colon."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Rewrite the docstring of an object."""
        if obj.docstring is not None:
            text = _ROLE.sub(lambda role: _link(obj, role[2], short=bool(role[1])), obj.docstring.value)
            obj.docstring.value = re.sub(r"::$", ":", text, flags=re.MULTILINE)


def _link(obj: griffe.Object, name: str, short: bool) -> str:
    try:
        path = obj.resolve(name)
    except griffe.NameResolutionError:
        path = name
    shown = name.rpartition(".")[2] if short else name
    # Optional: objects that the reference leaves out are shown without a link.
    return f'<autoref identifier="{path}" optional><code>{shown}</code></autoref>'
