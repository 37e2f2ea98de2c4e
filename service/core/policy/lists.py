"""The named lists of the policy: written in it, or in files beside it with one entry a line."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import yaml

from service.core.policy import reading
from service.core.policy.comparisons import never_equal, usual_form
from service.core.policy.conditions import Formula
from service.core.policy.reading import File

#: Entries of a list in the policy, and in a file of its own.
MOST_ENTRIES = 10_000
MOST_LINES = 100_000

#: Bytes of a list's file.
LARGEST_LIST = 4 * 1024 * 1024

#: How many wrong lines of one list are named; a wrong export may have thousands.
_MOST_NAMED = 10

#: A list's name is written behind ``lists.`` in conditions.
_LIST_NAME = re.compile(r"(?!(?:in|true|false|null)\Z)[A-Za-z_][A-Za-z0-9_]*", re.ASCII)

#: Below the policy's folder, and nowhere else: no absolute path, no "..", no hidden file.
_FILE_NAME = re.compile(r"(?:[A-Za-z0-9_-][A-Za-z0-9._-]*/)*[A-Za-z0-9_-][A-Za-z0-9._-]*", re.ASCII)

#: A comment begins a line, or follows white space: a code such as "A#1" is none.
_COMMENT = re.compile(r"(?:^|\s)#.*")

Entry = str | int


@dataclass(frozen=True)
class Row:
    """An entry, where it stands in the policy, and what to say before a problem with it."""

    value: Entry
    node: yaml.Node
    where: str = ""


class Lists:
    """The lists of one policy file while it is read."""

    def __init__(self, rows: Mapping[str, Sequence[Row]]) -> None:
        self._rows = rows
        self.entries: dict[str, tuple[Entry, ...]] = {
            name: tuple(row.value for row in entries) for name, entries in rows.items()
        }

    def fit(self, file: File, formulas: Iterable[Formula]) -> None:
        """Bring lists in which an e-mail's domain or address is looked up into the form that they are looked up in.

        What people write by hand is refused with the right spelling; the entries of a file, which comes out of some other
        program, get it, and so do those that ``registrant.email`` is looked up in. What can have none is refused everywhere.
        """
        wanted = {(name, field) for one in formulas for field, names in one.address_lists.items() for name in names}
        for name, field in sorted(wanted):
            self._fit(file, name, field)

    def _fit(self, file: File, name: str, field: str) -> None:
        usual = {row: usual_form(row.value, field) for row in self._rows.get(name, ())}
        wrong = [
            row for row, form in usual.items() if not form or (form != row.value and not row.where and field != "email")
        ]
        for row in wrong[:_MOST_NAMED]:
            file.refuse(row.node, row.where + never_equal(row.value, field))
        if len(wrong) > _MOST_NAMED:
            file.refuse(wrong[-1].node, f"... and {len(wrong) - _MOST_NAMED} more entries of {name}")
        self.entries[name] = tuple(dict.fromkeys((*self.entries.get(name, ()), *usual.values())))


def read_lists(file: File, node: yaml.Node | None, files: Mapping[str, str]) -> Lists:
    """The lists; ``files`` has the texts of their files by the names that are written."""
    rows: dict[str, Sequence[Row]] = {}
    for key, value in [] if node is None else reading.pairs(file, node, "lists"):
        if not _LIST_NAME.fullmatch(key.value):
            file.refuse(key, f'"{key.value}" cannot stand in a condition: use letters, digits and "_", a letter first')
        rows[key.value] = _of_file(file, value, files) if isinstance(value, yaml.MappingNode) else _written(file, value)
    return Lists(rows)


def file_names(node: yaml.Node | None) -> tuple[str, ...]:
    """The names of the files that lists are in; what is wrong is passed over."""
    lists = node.value if isinstance(node, yaml.MappingNode) else []
    keys = [pair for _, value in lists if isinstance(value, yaml.MappingNode) for pair in value.value]
    names = [value.value for key, value in keys if key.value == "file" and isinstance(value, yaml.ScalarNode)]
    return tuple(dict.fromkeys(name for name in names if _FILE_NAME.fullmatch(name)))


def _written(file: File, node: yaml.Node) -> list[Row]:
    if not isinstance(node, yaml.SequenceNode):
        file.refuse(node, "a list of texts is wanted here: [one, two]")
        return []
    if len(node.value) > MOST_ENTRIES:
        file.refuse(node, f"the list has {len(node.value)} entries, {MOST_ENTRIES} at most")
        return []
    read = ((_entry(file, entry), entry) for entry in node.value)
    return [Row(value, entry) for value, entry in read if value is not None]


def _entry(file: File, node: yaml.Node) -> Entry | None:
    number = reading.number(node)
    return number if isinstance(number, int) else reading.text(file, node)


def _of_file(file: File, node: yaml.Node, files: Mapping[str, str]) -> list[Row]:
    fields = reading.fields_of(file, node, "a list", known=("file",), required=("file",))
    name = reading.optional(file, fields.get("file"), reading.text, None)
    if name is None:
        return []
    if not _FILE_NAME.fullmatch(name):
        file.refuse(fields["file"], "a list's file stands below the policy's folder: vips.txt, lists/vips.txt")
    elif name not in files:
        file.refuse(fields["file"], f'the file "{name}" cannot be read: text in UTF-8, {LARGEST_LIST} bytes at most')
    else:
        return _lines(file, fields["file"], name, files[name])
    return []


def _lines(file: File, node: yaml.Node, name: str, text: str) -> list[Row]:
    entries = [(number, _COMMENT.sub("", line).strip()) for number, line in enumerate(text.split("\n"), 1)]
    rows = [Row(entry, node, f"{name}, line {number}: ") for number, entry in entries if entry]
    if len(rows) > MOST_LINES:
        file.refuse(node, f"{name} has {len(rows)} entries, {MOST_LINES} at most")
        return []
    bad = [row for row in rows if not str(row.value).isprintable() or len(str(row.value)) > reading.LONGEST_TEXT]
    for row in bad[:_MOST_NAMED]:
        file.refuse(node, f"{row.where}an entry has at most {reading.LONGEST_TEXT} printable characters")
    return rows
