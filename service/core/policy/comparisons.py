"""How a condition may use an e-mail address: by the ways that are listed here, and by no other.

A stranger writes the address, so every way to search in it finds a text that a stranger can have: ``a@corp.com.evil.example``
contains "@corp.com", ``a@notcorp.com`` ends with "corp.com", and no list has ``Bad@Rival.Example``. What is no whole comparison
is refused wherever it is carried to, rather than looked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import cel

from service.core.policy.addresses import address, domain
from service.core.policy.expressions import Expression, Fault, Token, Use

#: How the fields that are made of the address spell it: what no such field can equal becomes "". Conditions may compare
#: ``email`` itself too; what is compared is then ``emailAddress`` (:func:`exact`).
USUAL_FORMS: Mapping[str, Callable[[str], str]] = {"email": address, "emailAddress": address, "emailDomain": domain}

_FORM_NAMES = {
    "email": "compared as one plain address",
    "emailAddress": "one plain address in lower case",
    "emailDomain": "a lower-case ASCII domain",
}

#: Between these, a comparison is an operand as a whole: nothing binds as strongly as ``==`` and ``in``.
BEFORE_OPERAND = frozenset(("", "(", "[", ",", "?", ":", "&", "|"))
AFTER_OPERAND = frozenset(("", ")", "]", ",", "?", ":", "&", "|"))

_EQUALITY = ("==", "!=")

#: The function that stands for a comparison with a field of the meeting. No condition can be written with it.
SAME = "sameAddress"

_WHOLE = 'write registrant.emailDomain == "…", registrant.emailDomain in lists.… or registrant.emailAddress in lists.…'
_INSTEAD = {
    "email": f"registrant.email is only compared as a whole: {_WHOLE}",
    "emailAddress": (
        "registrant.emailAddress stands only before ==, != and in, or before "
        f'.endsWith("@…") and .endsWith(".…"): {_WHOLE}'
    ),
    "emailDomain": (
        'registrant.emailDomain stands only before ==, != and in, or before .endsWith(".…") for sub-domains: '
        'write registrant.emailDomain == "…" or registrant.emailDomain in lists.…'
    ),
}


@dataclass(frozen=True)
class Comparison:
    """``registrant.<field>`` beside ``==``, ``!=`` or ``in``, with nothing else on either side.

    The other side are ``texts`` in quotes, the list called ``listed``, or the field ``of_meeting``; it ends with the token
    ``last`` where it stands behind the sign.
    """

    use: Use
    field: str
    sign: str
    last: int
    texts: tuple[Token, ...] = ()
    listed: str = ""
    of_meeting: str = ""


def usual_form(entry: object, field: str) -> str:
    """How ``registrant.<field>`` spells ``entry``: equal to it where it is right, "" where it never can."""
    return USUAL_FORMS[field](entry) if isinstance(entry, str) else ""


def never_equal(entry: object, field: str) -> str:
    """The sentence for an entry that no ``registrant.<field>`` can equal."""
    usual = usual_form(entry, field)
    advice = f'; write "{usual}"' if usual else ""
    if field != "emailDomain" and usual_form(entry, "emailDomain"):
        advice = "; a domain is compared with registrant.emailDomain"
    return f'"{entry}" never equals registrant.{field}, which is {_FORM_NAMES[field]}{advice}'


def same(usual: object, other: object) -> bool:
    """Whether ``other``, in any spelling, is the plain address ``usual``; never raises."""
    return isinstance(other, str) and usual != "" and address(other) == usual


def comparisons(expression: Expression) -> Iterator[Comparison]:
    """The whole comparisons of addresses and domains."""
    for use in expression.variables("registrant"):
        field = expression.member(use)
        found = _comparison(expression, use, field) if field is not None and field in USUAL_FORMS else None
        if found is not None:
            yield found


def address_faults(expression: Expression) -> Iterator[Fault]:
    """Every use of an address that is none of those allowed, with what to write instead."""
    for use in expression.variables("registrant"):
        field = expression.member(use)
        if field is None:
            yield from _as_a_whole(expression, use)
        elif field in USUAL_FORMS and not _is_measured(expression, use):
            found = _comparison(expression, use, field)
            yield from _of_field(expression, use, field) if found is None else _wrong_texts(found)


def exact(expression: Expression) -> str:
    """The source with usual spellings on both sides wherever ``registrant.email`` is compared.

    Only a comparison with "" stays what it is: it asks whether Webex shows an address at all.
    """
    pieces, done = list[str](), 0
    for start, end, text in sorted(_edits(expression)):
        pieces += [expression.source[done:start], text]
        done = end
    return "".join((*pieces, expression.source[done:]))


def _literal(token: Token) -> object:
    """The value of a text in quotes."""
    return cel.compile(token.text).execute()


def _comparison(expression: Expression, use: Use, field: str) -> Comparison | None:
    before, sign = expression.token(use.index - 1).text, expression.token(use.index + 3).text
    found = None
    if sign in (*_EQUALITY, "in") and before in BEFORE_OPERAND:
        found = _with_other_side(expression, use, field, sign)
    elif before in _EQUALITY and expression.token(use.index - 3).text in BEFORE_OPERAND:
        text = expression.token(use.index - 2)
        found = Comparison(use, field, before, use.index + 2, (text,)) if text.kind == "text" else None
    return found if found is not None and _ends_operand(expression, found.last + 1) else None


def _with_other_side(expression: Expression, use: Use, field: str, sign: str) -> Comparison | None:
    start = use.index + 4
    first = expression.token(start)
    if sign == "in":
        if first.text == "[":
            texts, last = _texts_in_brackets(expression, start)
            return None if last is None else Comparison(use, field, sign, last, texts)
        name = _member_of("lists", expression, start)
        return Comparison(use, field, sign, start + 2, listed=name) if name else None
    if first.kind == "text":
        return Comparison(use, field, sign, start, (first,))
    name = "" if field == "emailDomain" else _member_of("meeting", expression, start)
    return Comparison(use, field, sign, start + 2, of_meeting=name) if name else None


def _texts_in_brackets(expression: Expression, bracket: int) -> tuple[tuple[Token, ...], int | None]:
    """The texts, and where the bracket closes; None where there is anything else between them."""
    texts, index = list[Token](), bracket + 1
    while expression.token(index).kind == "text":
        texts.append(expression.token(index))
        index += 2 if expression.token(index + 1).text == "," else 1
    return tuple(texts), index if expression.token(index).text == "]" else None


def _member_of(variable: str, expression: Expression, index: int) -> str:
    """The field that is selected of ``variable`` at ``index``, else ""."""
    name = expression.token(index + 2)
    return name.text if expression.texts(index, 2) == [variable, "."] and name.kind == "name" else ""


def _ends_operand(expression: Expression, index: int) -> bool:
    """Whether a comparison ends before ``index``; ``… == true`` may follow."""
    sign, value = expression.texts(index, 2)
    return sign in AFTER_OPERAND or (sign in _EQUALITY and value in ("true", "false"))


def _is_measured(expression: Expression, use: Use) -> bool:
    """``has(…)``, ``size(…)`` and ``….size()`` say nothing of what the address is."""
    return _is_argument(expression, use, 3, ("has", "size")) or (
        expression.texts(use.index + 3, 4) == [".", "size", "(", ")"]
    )


def _is_argument(expression: Expression, use: Use, length: int, functions: tuple[str, ...]) -> bool:
    """Whether ``length`` tokens from the variable on are all that one of the functions is given."""
    dot, function, bracket = expression.texts(use.index - 3, 3)
    return dot != "." and function in functions and bracket == "(" and expression.token(use.index + length).text == ")"


def _as_a_whole(expression: Expression, use: Use) -> Iterator[Fault]:
    """The address could be taken out of it anywhere else: ``registrant["email"]``, ``[registrant].exists(r, …)``."""
    opening, name, closing = (expression.token(use.index + step) for step in (1, 2, 3))
    if _is_argument(expression, use, 1, ("size",)):
        return
    if (opening.text, name.kind, closing.text) != ("[", "text", "]"):
        yield Fault(
            "registrant is used by its fields only: write registrant.emailDomain, has(registrant.…)", use.offset
        )
    elif not isinstance(field := _literal(name), str) or field in USUAL_FORMS:
        field = field if isinstance(field, str) else "emailDomain"
        yield Fault(f"write registrant.{field} without brackets; {_INSTEAD[field]}", name.offset)


def _of_field(expression: Expression, use: Use, field: str) -> Iterator[Fault]:
    dot, sign, before = (expression.token(use.index + step) for step in (3, 4, -1))
    if dot.text == "." and sign.text == "endsWith" and field != "email":
        yield from _of_ending(expression, use, field)
    elif dot.text == ".":
        yield Fault(f"strangers' addresses can have this too: {_INSTEAD[field]}", sign.offset)
    elif dot.text not in (*_EQUALITY, "in"):
        yield Fault(_INSTEAD[field], use.offset)
    elif before.text == "!":
        yield Fault(f'"!" belongs before brackets: write !(registrant.{field} {dot.text} …)', before.offset)
    else:
        beside = 'with "…" by == and !=, with lists.NAME and ["…", "…"] by in'
        yield Fault(
            f"registrant.{field} is compared {beside}, and nothing is added to either side: {_INSTEAD[field]}",
            use.offset,
        )


def _of_ending(expression: Expression, use: Use, field: str) -> Iterator[Fault]:
    text, closing = expression.token(use.index + 6), expression.token(use.index + 7)
    value = _literal(text) if text.kind == "text" and closing.text == ")" else None
    first = ("@", ".") if field == "emailAddress" else (".",)
    if not isinstance(value, str) or not value.startswith(first):
        yield Fault(f"strangers' addresses can end like this too: {_INSTEAD[field]}", text.offset)
    elif (usual := _usual_ending(value, field)) != value:
        advice = f'; write "{usual}"' if usual else ""
        yield Fault(f'no registrant.{field} ends with "{value}", as it is {_FORM_NAMES[field]}{advice}', text.offset)


def _usual_ending(ending: str, field: str) -> str:
    """How a field of this kind ends that ends with ``ending``; "" where none can."""
    beginning = "x" if field == "emailDomain" or ending.startswith("@") else "x@x"
    return usual_form(beginning + ending, field)[len(beginning) :]


def _wrong_texts(comparison: Comparison) -> Iterator[Fault]:
    """``registrant.emailDomain != "Example.org"`` would always be true."""
    for token in comparison.texts:
        value, field = _literal(token), comparison.field
        usual = usual_form(value, field)
        asks_for_none = value == "" and comparison.sign != "in"
        if not asks_for_none and (not usual or (usual != value and field != "email")):
            yield Fault(never_equal(value, field), token.offset)


def _edits(expression: Expression) -> Iterator[tuple[int, int, str]]:
    """What to replace: from where, to where, by what."""
    for found in comparisons(expression):
        start, last = found.use.offset, expression.token(found.last)
        field = expression.token(found.use.index + 2)
        if found.of_meeting:
            call = f"{SAME}(registrant.emailAddress,meeting.{found.of_meeting})"
            yield start, last.offset + len(last.text), call if found.sign == "==" else f"!{call}"
        elif found.field == "email" and [_literal(text) for text in found.texts] != [""]:
            yield start, field.offset + len(field.text), "registrant.emailAddress"
            for text in found.texts:
                # A plain address has neither quotes nor backslashes in it.
                yield text.offset, text.offset + len(text.text), f'"{usual_form(_literal(text), "email")}"'
