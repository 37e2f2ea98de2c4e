"""Where in the file a character of a YAML text stands.

YAML folds lines and drops indentation, but keeps every other character in order.
"""

from __future__ import annotations

from collections.abc import Iterator

import yaml


def place(text: str, node: yaml.ScalarNode, offset: int) -> tuple[int, int]:
    """Line and column, from 1, of the character at ``offset`` of the node's value; the end of the text for a place beyond it.

    Exact, except behind an escape such as ``\\n`` in double quotes.
    """
    value: str = node.value
    before = sum(not char.isspace() for char in value[:offset])
    spots = list(_spots(text, node))
    if before < len(spots) and not value[offset : offset + 1].isspace() and offset < len(value):
        return line_and_column(text, spots[before])
    return line_and_column(text, spots[min(before, len(spots)) - 1] + 1 if spots and before else node.start_mark.index)


def line_and_column(text: str, index: int) -> tuple[int, int]:
    """Line and column, from 1, of a character of the file."""
    return text.count("\n", 0, index) + 1, index - text.rfind("\n", 0, index)


def _spots(text: str, node: yaml.ScalarNode) -> Iterator[int]:
    """The indexes of the characters that are no white space."""
    start, end = node.start_mark.index, node.end_mark.index
    if node.style in ("|", ">"):
        start = text.find("\n", start) + 1 or end
    elif node.style in ("'", '"'):
        start, end = start + 1, end - 1
    escape = {"'": "'", '"': "\\"}.get(node.style or "")
    index = start
    while index < end:
        if text[index] == escape:
            index += 1
        if not text[index].isspace():
            yield index
        index += 1
