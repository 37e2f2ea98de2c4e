"""People who register, invented: the same number and seed give the same person."""

from __future__ import annotations

import random
from typing import Any

_FIRST = "Ada Bea Carl Dora Emil Fay Gus Hana Ivo Jana Karl Lena Milo Nora Omar Pia Quinn Rosa Sven Tara Udo Vera Wim"
_LAST = "Abel Braun Costa Dahl Egger Fabre Gruber Holm Ilic Jansen Keller Lund Marek Novak Olsen Petit Rossi Silva"
_JOBS = ("Engineer", "Architect", "Product Manager", "Consultant", "Analyst", "Support Lead")

#: Domain, company and weight: two partners, a free mail-like one, two competitors, and a partner's look-alikes.
_DOMAINS = (
    ("example.org", "Example Partners", 34),
    ("example.net", "Example Networks", 22),
    ("example.com", "", 24),
    ("competitor.example", "Competitor Inc.", 10),
    ("rival.example", "Rival GmbH", 6),
    ("mail.example.org", "Example Partners", 2),
    ("example.org.competitor.example", "Competitor Inc.", 2),
)


#: The number of the first person of a world, a partner: whoever tries this out sees somebody approved at once.
FIRST = 1


def invent(n: int, *, seed: str, domain: str | None = None) -> dict[str, Any]:
    """The ``n``-th person's registration form; their address is theirs alone. ``domain`` overrides the mix."""
    chance = random.Random(f"{seed}/person/{n}")  # noqa: S311 - invented people, not secrets
    first, last = chance.choice(_FIRST.split()), chance.choice(_LAST.split())
    mixed = chance.choices(_DOMAINS, weights=[weight for *_, weight in _DOMAINS])[0]
    drawn, company, _ = _DOMAINS[0] if n == FIRST else mixed
    form = {
        "firstName": first,
        "lastName": last,
        "email": f"{first}.{last}.{n}@{domain or drawn}".lower(),
        "jobTitle": chance.choice(_JOBS),
        "companyName": company,
        "countryRegion": "Germany",
    }
    return {name: value for name, value in form.items() if value}
