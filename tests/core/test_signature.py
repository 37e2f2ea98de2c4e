"""Signatures: what is accepted, what is refused, and which of several decides."""

from __future__ import annotations

import base64
import hmac
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.core.errors import BadSignature
from service.core.signature import ANYBODY, Headers, Secret, SignatureMode, Verifier, owner_of, sign, verify

# RFC 2202 (SHA-1) and RFC 4231 (SHA-2), test case 2.
KEY = b"Jefe"
BODY = b"what do ya want for nothing?"
SHA1 = b"effcdf6ae5eb2fa2d27416d5f184df9c259a7c79"
SHA256 = b"5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
SHA512 = (
    b"164b7a7bfcf819e2e395fbe73b56e0a387bd64222e831fd610270cd7ea250554"
    b"9758bf75c05a994a6d034f65f8f0e6fdcaeab1a34d4a6b4b636e070a38bce737"
)
WRONG1, WRONG256, WRONG512 = b"0" * 40, b"0" * 64, b"0" * 128


def spark(value: bytes) -> tuple[bytes, bytes]:
    return b"x-spark-signature", value


def webex(value: bytes) -> tuple[bytes, bytes]:
    return b"x-webex-signature", value


BOTH = webex(b"SHA-256=" + SHA256 + b", SHA-512=" + SHA512)
AUTO, SPARK, WEBEX = SignatureMode.AUTO, SignatureMode.SPARK, SignatureMode.WEBEX


def test_the_published_digests_are_made() -> None:
    """Signing gives the digests that the RFCs publish, in the two headers that Webex sends."""
    assert sign(BODY, KEY) == {
        "X-Spark-Signature": SHA1.decode(),
        "X-Webex-Signature": f"SHA-256={SHA256.decode()}, SHA-512={SHA512.decode()}",
    }


ACCEPTED = [
    pytest.param([spark(SHA1)], AUTO, id="the documented one alone"),
    pytest.param([spark(SHA1.upper())], AUTO, id="upper-case hex"),
    pytest.param([(b"X-Spark-Signature", SHA1)], AUTO, id="a header name in any case"),
    pytest.param([spark(SHA1), BOTH], AUTO, id="everything Webex sends"),
    pytest.param([BOTH], AUTO, id="the strong ones alone"),
    pytest.param([spark(WRONG1), BOTH], AUTO, id="a strong one makes a weak one irrelevant"),
    pytest.param([webex(b"SHA-256=" + WRONG256 + b", SHA-512=" + SHA512)], AUTO, id="SHA-512 before SHA-256"),
    pytest.param([spark(WRONG1), webex(b"SHA-256=" + SHA256)], AUTO, id="SHA-256 before SHA-1"),
    pytest.param([webex(b"sha256=" + SHA256)], AUTO, id="no hyphen"),
    pytest.param([webex(b"sha_256 = " + SHA256.upper())], AUTO, id="an underscore, spaces and capitals"),
    pytest.param([webex(b'SHA-256="' + SHA256 + b'"')], AUTO, id="quotes around the digest"),
    pytest.param([webex(b'"SHA-256=' + SHA256 + b'"')], AUTO, id="quotes around the pair"),
    pytest.param([webex(b",, SHA-512=" + SHA512 + b" ,")], AUTO, id="empty parts"),
    pytest.param([webex(SHA256)], AUTO, id="a bare SHA-256"),
    pytest.param([webex(b'"' + SHA512 + b'"')], AUTO, id="a bare SHA-512 in quotes"),
    pytest.param([webex(b"MD5=00, SHA-256=" + SHA256)], AUTO, id="an unknown algorithm beside a known one"),
    pytest.param([webex(b"SHA-512=beef, SHA-256=" + SHA256)], AUTO, id="a malformed strong one counts as absent"),
    pytest.param([spark(SHA1), webex(b"v1;whatever")], AUTO, id="an unknown shape counts as absent"),
    pytest.param([spark(SHA1), webex(b"SHA-384=" + b"0" * 96)], AUTO, id="an unknown algorithm counts as absent"),
    pytest.param([spark(SHA1), webex(b"SHA-1=" + WRONG1)], AUTO, id="SHA-1 is known in its own header only"),
    pytest.param([spark(SHA1), webex(b"")], AUTO, id="an empty header counts as absent"),
    pytest.param(
        [spark(SHA1), webex(b"," * 1000 + b"SHA-256=" + WRONG256)], AUTO, id="an endless header counts as absent"
    ),
    pytest.param([spark(SHA1), webex(b"\xff\xfe\x00")], AUTO, id="bytes that are no text count as absent"),
    pytest.param([spark(SHA1), webex(WRONG512)], SPARK, id="spark looks at its own header only"),
    pytest.param([spark(SHA1), BOTH, BOTH], SPARK, id="spark does not count the others"),
    pytest.param([spark(WRONG1), BOTH], WEBEX, id="webex looks at its own header only"),
    pytest.param(
        [webex(b"SHA-256=" + SHA256 + b", SHA-512=" + b"g" + SHA512[1:])], AUTO, id="no hex where it usually is"
    ),
    pytest.param([webex(b"x" * 72 + b", SHA-512=" + SHA512)], AUTO, id="anything before a SHA-512"),
    pytest.param([webex(b"SHA-256=" + SHA256 + b",  SHA-512=" + SHA512)], AUTO, id="two spaces"),
    pytest.param([webex(b"SHA-512=" + SHA512 + b", SHA-256=" + SHA256)], AUTO, id="the other way round"),
    pytest.param(
        [spark(SHA1), webex(b", SHA-512=".ljust(72, b"x") + b", SHA-384=" + WRONG512)],
        AUTO,
        id="another algorithm there",
    ),
    pytest.param([(b"x-other-17-bytes-", SHA1), spark(SHA1)], AUTO, id="another header of that length"),
]


@pytest.mark.parametrize(("headers", "mode"), ACCEPTED)
def test_accepted(headers: list[tuple[bytes, bytes]], mode: SignatureMode) -> None:
    """The strongest signature that is known and well-formed is right: the request is from Webex."""
    assert verify(BODY, headers, secrets=[KEY], mode=mode) == 0


REFUSED = [
    pytest.param([], AUTO, id="no header at all"),
    pytest.param([(b"x-hub-signature", b"sha1=" + SHA1)], AUTO, id="another product's header"),
    pytest.param([spark(b"")], AUTO, id="an empty one"),
    pytest.param([spark(WRONG1)], AUTO, id="a wrong one"),
    pytest.param([spark(SHA1[:-1])], AUTO, id="one digit short"),
    pytest.param([spark(SHA1 + b"0")], AUTO, id="one digit more"),
    pytest.param([spark(SHA1[:-2] + b" " + SHA1[-2:])], AUTO, id="a space within"),
    pytest.param([spark(SHA256)], AUTO, id="another algorithm's digest"),
    pytest.param([spark(b"sha1=" + SHA1)], AUTO, id="a prefix that is not documented"),
    pytest.param([spark("é".encode() * 20)], AUTO, id="not ASCII"),
    pytest.param([spark("\u0661".encode() * 20)], AUTO, id="digits of another script"),
    pytest.param([spark(b"\x00" * 40)], AUTO, id="not text"),
    pytest.param([spark(SHA1), spark(SHA1)], AUTO, id="the header twice"),
    pytest.param([spark(SHA1), spark(WRONG1)], AUTO, id="two headers that disagree"),
    pytest.param([BOTH, BOTH], AUTO, id="the strong header twice"),
    pytest.param([spark(SHA1), webex(WRONG512)], AUTO, id="a bad bare strong one and a good weak one"),
    pytest.param([spark(SHA1), webex(b"SHA-256=" + WRONG256)], AUTO, id="a bad SHA-256 and a good SHA-1"),
    pytest.param(
        [spark(SHA1), webex(b"SHA-256=" + SHA256 + b", SHA-512=" + WRONG512)], AUTO, id="a bad SHA-512 and a good rest"
    ),
    pytest.param([webex(b"SHA-256=" + SHA256 + b", sha256=" + SHA256)], AUTO, id="one algorithm twice"),
    pytest.param([webex(b"SHA-512=" + SHA512 + b", SHA-512=" + SHA512)], AUTO, id="the strongest twice"),
    pytest.param(
        [webex(b"SHA-256=" + SHA256 + b", SHA-512=" + SHA512 + b", SHA-512=" + SHA512)], AUTO, id="and once more"
    ),
    pytest.param([webex(b"SHA-256=" + SHA256 + b", SHA-512=" + WRONG512)], AUTO, id="as usual, but wrong"),
    pytest.param([spark(SHA1[:20] + b"\n" + SHA1[21:])], AUTO, id="white space for a digit"),
    pytest.param([spark(SHA1), (b"X-SPARK-SIGNATURE", SHA1)], AUTO, id="the header twice, in another case"),
    pytest.param([webex(b"SHA-1=" + SHA1)], AUTO, id="SHA-1 in the strong header"),
    pytest.param([webex(SHA1)], AUTO, id="a bare SHA-1 in the strong header"),
    pytest.param([webex(b"SHA-512=" + SHA256)], AUTO, id="an algorithm with another's digest"),
    pytest.param([BOTH], SPARK, id="spark without its header"),
    pytest.param([spark(WRONG1), BOTH], SPARK, id="spark is not rescued by the stronger"),
    pytest.param([spark(SHA1)], WEBEX, id="webex without its header"),
    pytest.param([spark(SHA1), webex(b"v1;whatever")], WEBEX, id="webex with an unknown shape"),
]


@pytest.mark.parametrize(("headers", "mode"), REFUSED)
def test_refused(headers: list[tuple[bytes, bytes]], mode: SignatureMode) -> None:
    """None that decides, a wrong one, or two of a kind: the request is refused, and the reason tells nothing."""
    with pytest.raises(BadSignature) as refusal:
        verify(BODY, headers, secrets=[KEY], mode=mode)
    text = str(refusal.value).lower()
    assert not any(secret in text for secret in (KEY.decode().lower(), SHA1.decode(), SHA256.decode(), SHA512.decode()))


@pytest.mark.parametrize(("pairs", "mode"), [*ACCEPTED, *REFUSED])
def test_a_mapping_says_what_the_pairs_say(pairs: list[tuple[bytes, bytes]], mode: SignatureMode) -> None:
    """Where no name is there twice, whoever has a mapping of the headers gives that."""
    fields = {name.lower(): value for name, value in pairs}
    if len(fields) == len(pairs):
        assert _found(fields, mode) == _found(pairs, mode)


def _found(headers: Headers, mode: SignatureMode) -> int | str:
    try:
        return verify(BODY, headers, secrets=[KEY], mode=mode)
    except BadSignature as refusal:
        return str(refusal)


@pytest.mark.parametrize("length", [1, 20, 63, 64, 65, 127, 128, 129, 1000])
@pytest.mark.parametrize(("algorithm", "header"), [("sha1", spark), ("sha256", webex), ("sha512", webex)])
def test_a_secret_may_be_of_any_length(length: int, algorithm: str, header: object) -> None:
    """Below, at and beyond the block of each hash the digest is the one that Python's own HMAC makes."""
    assert callable(header)
    secret = bytes(number % 255 + 1 for number in range(length))
    digest = hmac.digest(secret, BODY, algorithm).hex().encode()
    assert verify(BODY, [header(digest)], secrets=[b"another", secret]) == 1


def test_one_body_leaves_nothing_for_the_next() -> None:
    """What is laid out once for a secret stays as it was, whatever comes."""
    verifier = Verifier([b"another", KEY])
    for body in (BODY, b"", b"x" * 10_000, BODY):
        headers = [(name.lower().encode(), value.encode()) for name, value in sign(body, KEY).items()]
        assert [verifier.signer(body, [each]) for each in headers] == [1, 1]
        with pytest.raises(BadSignature):
            verifier.signer(body + b" ", headers)


def test_of_two_equal_secrets_the_first_is_told() -> None:
    """As if there were only one."""
    assert verify(BODY, [spark(SHA1)], secrets=[b"another", KEY, KEY]) == 1


@pytest.mark.parametrize("index", [0, 1, 2])
def test_each_live_secret_verifies(index: int) -> None:
    """While secrets rotate each of them is good, and the caller learns which one it was."""
    secrets = [b"spring", b"summer", b"autumn"]
    signed = sign(BODY, secrets[index])
    headers = [(name.lower().encode(), value.encode()) for name, value in signed.items()]
    assert verify(BODY, headers, secrets=secrets) == index


@pytest.mark.parametrize("secrets", [[], [b""], [KEY, b""]], ids=["none", "an empty one", "an empty one among others"])
def test_an_empty_secret_is_a_mistake_of_ours(secrets: list[bytes]) -> None:
    """Anybody can sign with an empty secret, so it is never used: that is a programming error, not a refusal."""
    with pytest.raises(ValueError, match="secret"):
        verify(BODY, [spark(SHA1)], secrets=secrets)


@given(st.binary(), st.binary(min_size=1))
def test_what_is_signed_verifies(body: bytes, secret: bytes) -> None:
    """Both headers of any body and secret verify, together and alone."""
    spark_value, webex_value = (value.encode() for value in sign(body, secret).values())
    for headers in ([spark(spark_value)], [webex(webex_value)], [spark(spark_value), webex(webex_value)]):
        assert verify(body, headers, secrets=[secret]) == 0


@given(st.binary(min_size=1), st.data())
def test_one_flipped_bit_in_the_body_is_refused(body: bytes, data: st.DataObject) -> None:
    """Any one bit of the body makes either header wrong."""
    spark_value, webex_value = (value.encode() for value in sign(body, KEY).values())
    changed = flip(body, data.draw(st.integers(0, len(body) * 8 - 1)))
    for headers in ([spark(spark_value)], [webex(webex_value)]):
        with pytest.raises(BadSignature):
            verify(changed, headers, secrets=[KEY])


@pytest.mark.parametrize(
    ("digest", "header"), [(SHA1, spark), (SHA256, webex), (SHA512, webex)], ids=["1", "256", "512"]
)
@given(data=st.data())
def test_one_flipped_bit_in_the_digest_is_refused(digest: bytes, header: object, data: st.DataObject) -> None:
    """Any one bit of the digest makes it wrong, whether or not what results is still hex."""
    assert callable(header)
    raw = flip(bytes.fromhex(digest.decode()), data.draw(st.integers(0, len(digest) * 4 - 1))).hex().encode()
    text = flip(digest, data.draw(st.integers(0, len(digest) * 8 - 1)))
    for changed in (raw, *([text] if text.lower() != digest else [])):  # another case spells the same digest
        with pytest.raises(BadSignature):
            verify(BODY, [header(changed)], secrets=[KEY])


@given(st.lists(st.tuples(st.sampled_from([b"x-spark-signature", b"x-webex-signature", b"other"]), st.binary())))
def test_any_headers_have_an_answer(headers: list[tuple[bytes, bytes]]) -> None:
    """Whatever bytes the headers hold, the only error is BadSignature."""
    for mode in SignatureMode:
        with pytest.raises(BadSignature):
            verify(BODY, headers, secrets=[KEY], mode=mode)


@given(st.binary(max_size=80) | st.text('SHA-256="512, 0aF', max_size=80).map(str.encode), st.booleans())
def test_what_stands_before_the_sha512_decides_nothing(before: bytes, padded: bool) -> None:
    """However long it is: the quick look at what Webex usually sends says what a close look at any header says."""
    header = (before.ljust(72, b"x")[:72] if padded else before) + b", SHA-512=" + SHA512
    assert verify(BODY, [webex(header)], secrets=[KEY]) == 0
    with pytest.raises(BadSignature):
        verify(BODY + b" ", [webex(header)], secrets=[KEY])


def flip(raw: bytes, bit: int) -> bytes:
    """The same bytes but for one bit."""
    changed = bytearray(raw)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


# --- whose secret it is -----------------------------------------------------------------------------------------------

ORG = "1eb65fdf-9643-417f-9974-ad72cae0e10f"
ORG_LONG = "Y2lzY29zcGFyazovL3VzL09SR0FOSVpBVElPTi8xZWI2NWZkZi05NjQzLTQxN2YtOTk3NC1hZDcyY2FlMGUxMGY"
OTHER = "96abc2aa-3dcc-11e5-a152-fe34819cdc9a"
HOOK = base64.b64encode(f"ciscospark://us/WEBHOOK/{OTHER}".encode()).decode().rstrip("=")
#: A registration that has the UUID of an organisation.
FALSE_HOOK = base64.b64encode(f"ciscospark://us/WEBHOOK/{ORG}".encode()).decode().rstrip("=")


@pytest.mark.parametrize(
    ("name", "owner"),
    [
        pytest.param(f"{ORG}.current", ORG, id="a UUID"),
        pytest.param(f"{ORG.upper()}.1", ORG, id="in capitals"),
        pytest.param(f"{ORG_LONG}.2026-11", ORG, id="Webex's form"),
        pytest.param(f"{ORG}.a.b", ORG, id="a dot in the slot"),
        pytest.param(f"{HOOK}.current", f"webhook:{OTHER}", id="a registration"),
        pytest.param(ORG, ANYBODY, id="no slot"),
        pytest.param("webhook.secret", ANYBODY, id="a name with a dot"),
        pytest.param("my.secret", ANYBODY, id="another one"),
        pytest.param("current", ANYBODY, id="a word"),
        pytest.param("", ANYBODY, id="nothing"),
        pytest.param(f".{ORG}", ANYBODY, id="a dot first"),
    ],
)
def test_a_name_says_whose_secret_it_is(name: str, owner: str) -> None:
    """An id before the first dot binds it; any other name fits all."""
    assert owner_of(name) == owner


BOUND = Secret(b"x", {ORG: "of-org", f"webhook:{OTHER}": "of-hook"})


@pytest.mark.parametrize(
    ("secret", "org_id", "registration", "name"),
    [
        pytest.param(BOUND, ORG, "", "of-org", id="its organisation"),
        pytest.param(BOUND, ORG_LONG, "", "of-org", id="in Webex's form"),
        pytest.param(BOUND, OTHER, HOOK, "of-hook", id="its registration"),
        pytest.param(BOUND, OTHER, "", None, id="another organisation"),
        pytest.param(BOUND, "", "", None, id="nobody"),
        pytest.param(BOUND, OTHER, FALSE_HOOK, None, id="a registration with the organisation's UUID"),
        pytest.param(BOUND, OTHER, ORG, None, id="the organisation in the registration's place"),
        pytest.param(BOUND, f"webhook:{OTHER}", "", None, id="the owner as it is spelt here"),
        pytest.param(Secret(b"x", {ANYBODY: "all"}), OTHER, "", "all", id="anybody's"),
        pytest.param(Secret(b"x", {ANYBODY: "all"}), "", "", "all", id="anybody's, for nobody"),
        pytest.param(Secret(b"x", {ANYBODY: "all", ORG: "own"}), ORG, "", "own", id="its own name before anybody's"),
        pytest.param(Secret(b"x", {ANYBODY: "all", ORG: "own"}), OTHER, "", "all", id="anybody's for the others"),
        pytest.param(
            Secret(b"x", {ANYBODY: "all", f"webhook:{OTHER}": "own"}), "", HOOK, "own", id="the same for a hook"
        ),
    ],
)
def test_a_secret_signs_for_its_owners(secret: Secret, org_id: str, registration: str, name: str | None) -> None:
    """One that is bound fits its owner alone, and says under which name: that one is counted."""
    assert secret.name_for(org_id, registration) == name


def test_what_claims_nothing_is_kept() -> None:
    """Signed, understood by nobody and naming nobody: it only goes to quarantine, so any secret will do."""
    assert BOUND.name_for("", "", quarantined=True) == "of-org"
    assert BOUND.name_for(OTHER, "", quarantined=True) is None
    assert BOUND.name_for("", FALSE_HOOK, quarantined=True) is None


def test_a_secret_hides_itself() -> None:
    """Names are for operators to see; the value is not."""
    assert repr(Secret(b"canary", {ANYBODY: "a", ORG: "b"})) == "Secret(a, b)"
    assert "canary" not in f"{[Secret(b'canary', {ANYBODY: 'a'})]}"


@pytest.mark.parametrize("bound", [False, True], ids=["verify alone", "with its owner"])
def test_tenants_cannot_cross(bound: bool) -> None:
    """100 tenants with a secret each: whoever signs with one's secret is never accepted as another, in 9 900 pairs (I4)."""
    orgs = [str(uuid.UUID(int=n)) for n in range(100)]
    live = [Secret(f"secret-{n}".encode(), {orgs[n]: f"{orgs[n]}.1"}) for n in range(100)]
    crossed = 0
    for i in range(100):
        headers = [spark(hmac.digest(live[i].value, BODY, "sha1").hex().encode())]
        if bound:  # one receiver for all: the secret is known, but it is i's
            signer = live[verify(BODY, headers, secrets=[each.value for each in live])]
            crossed += sum(signer.name_for(orgs[j], "") is not None for j in range(100) if j != i)
        else:  # a receiver for each
            crossed += sum(_accepts(headers, live[j].value) for j in range(100) if j != i)

    assert crossed == 0


def _accepts(headers: list[tuple[bytes, bytes]], secret: bytes) -> bool:
    try:
        return verify(BODY, headers, secrets=[secret]) == 0
    except BadSignature:
        return False
