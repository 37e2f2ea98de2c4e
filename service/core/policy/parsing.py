"""The policy file: YAML with a fixed set of keys. Every problem is reported at once, with its line and column."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType

import yaml

from service.core.errors import PolicyError
from service.core.policy import reading
from service.core.policy.conditions import Formula
from service.core.policy.decisions import Outcome, Policy, Rule
from service.core.policy.lists import file_names, read_lists
from service.core.policy.meeting_rules import MeetingRule
from service.core.policy.reading import File
from service.core.policy.rules import outcome, read_meeting_rules, read_rules

_FILE_KEYS = ("version", "default", "paused", "shadow", "lists", "rules", "meetingRules")

_NO_FILES: Mapping[str, str] = MappingProxyType({})


def parse(text: str, files: Mapping[str, str] = _NO_FILES) -> Policy:
    """The policy that ``text`` describes. Raises PolicyError with every problem.

    ``files`` are the contents of the lists' files, by the names that :func:`files_of` finds in the text. Entries of lists are
    texts or whole numbers and are compared as they are written. A list in which ``registrant.emailDomain`` or
    ``registrant.emailAddress`` is looked up is refused where an entry could never equal one (capitals, letters beyond ASCII,
    no domain), with the spelling that would; the entries of a file, and of a list for ``registrant.email``, get that spelling.
    """
    file = File(text)
    root = file.root()
    policy = None if root is None else _policy(file, root, files)
    if policy is None or file.problems:
        raise PolicyError(file.report())
    return policy


def files_of(text: str) -> tuple[str, ...]:
    """The names of the files that lists of the policy are in, each once; none for a text that is no policy."""
    root = File(text).root()
    fields = root.value if isinstance(root, yaml.MappingNode) else []
    names = [file_names(value) for key, value in fields if key.value == "lists"]
    return names[0] if names else ()


def _policy(file: File, root: yaml.Node, files: Mapping[str, str]) -> Policy | None:
    fields = reading.fields_of(file, root, "the policy", known=_FILE_KEYS, required=("version",))
    _check_version(file, fields.get("version"))
    default = reading.optional(file, fields.get("default"), outcome, Outcome.HOLD)
    paused = reading.optional(file, fields.get("paused"), reading.flag, False)
    shadow = reading.optional(file, fields.get("shadow"), reading.flag, False)
    lists = read_lists(file, fields.get("lists"), files)
    rules = read_rules(file, fields.get("rules"), lists.entries)
    for_meetings = read_meeting_rules(file, fields.get("meetingRules"), lists.entries)
    lists.fit(file, _formulas(rules, for_meetings))
    if file.problems or default is None or paused is None or shadow is None:
        return None
    return Policy(
        version=_version(file.text, files_of(file.text), files),
        paused=paused,
        shadow=shadow,
        default=default,
        rules=rules,
        meeting_rules=for_meetings,
        lists=lists.entries,
    )


def _check_version(file: File, node: yaml.Node | None) -> None:
    if node is not None and node.value != "1":
        file.refuse(node, "this program reads version 1 of the policy file")


def _version(text: str, names: Sequence[str], files: Mapping[str, str]) -> str:
    """Of the text, and of what it refers to: the length of each keeps them apart."""
    digest = hashlib.sha256(text.encode())
    for name in names:
        content = files[name].encode("utf-8", "surrogatepass")
        digest.update(f"\0{name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()[:12]


def _formulas(rules: Sequence[Rule], for_meetings: Sequence[MeetingRule]) -> Iterator[Formula]:
    yield from (rule.condition for rule in rules)
    for rule in for_meetings:
        yield from rule.formulas()
