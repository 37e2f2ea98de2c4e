"""`signature sign|verify`: the same digests as OpenSSL's, from files and from stdin."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from service.core.signature import sign
from tests.cli.program import invoke, refusal, run

SAMPLES = Path(__file__).parents[1] / "samples"
KNOWN = json.loads((SAMPLES / "signatures.json").read_text("utf-8"))
SECRET: str = KNOWN["secret"]
NAME = "meetings.ended.json"
ORG = "1eb65fdf-9643-417f-9974-ad72cae0e10f"
HEADERS = [f"{name}: {value}" for name, value in KNOWN["headers"][NAME].items()]


@pytest.mark.parametrize("stdin", [False, True], ids=["file", "stdin"])
def test_the_digests_are_those_of_openssl(tmp_path: Path, stdin: bool) -> None:
    """Both headers, over the exact bytes, and nothing else."""
    body = "-" if stdin else str(SAMPLES / NAME)
    given = (SAMPLES / NAME).read_bytes() if stdin else b""
    done = run("signature", "sign", body, folder=tmp_path, settings={"WEBHOOK__SECRET": SECRET}, stdin=given)

    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode().splitlines() == HEADERS


def test_what_was_signed_is_verified(tmp_path: Path) -> None:
    """`sign` writes what `verify` takes; any of the live secrets will do, and none is shown."""
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "b").write_text(SECRET)
    (tmp_path / "secrets" / "a").write_text("another-secret")
    (tmp_path / "body").write_bytes(b'{"any": "bytes"}\n')
    signed = invoke("signature", "sign", "body", folder=tmp_path, settings={"WEBHOOK__SECRET": SECRET})
    headers = [word for line in signed.stdout.decode().splitlines() for word in ("-H", line)]
    done = invoke(
        "signature", "verify", "body", *headers, folder=tmp_path, settings={"WEBHOOK__SECRETS_DIR": "secrets"}
    )

    assert (done.returncode, done.stdout) == (0, b"verified with the secret b\n")


@pytest.mark.parametrize(
    ("altered", "headers", "code"),
    [
        pytest.param(True, HEADERS, "bodyAltered", id="another body"),
        pytest.param(False, ["X-Spark-Signature: " + "0" * 40], "wrongSecret", id="another digest"),
        pytest.param(False, ["X-Spark-Signature:"], "signatureMissing", id="no value"),
        pytest.param(False, ["Content-Type: application/json"], "signatureMissing", id="no signature"),
        pytest.param(
            False, [HEADERS[0], "X-Webex-Signature: SHA-256=" + "0" * 64], "wrongHeader", id="the strongest decides"
        ),
        pytest.param(
            False, [HEADERS[0], "x-spark-signature: \x1b[2J\r\n"], "twoSignatures", id="what steers a terminal"
        ),
    ],
)
def test_what_was_not_signed_is_1(tmp_path: Path, altered: bool, headers: list[str], code: str) -> None:
    """Exit code 1, what is wrong and what mends it, no secret and no digest; the same as JSON."""
    body = (SAMPLES / NAME).read_bytes() + (b" " if altered else b"")
    words = [word for header in headers for word in ("--header", header)]
    done = invoke("signature", "verify", "-", *words, folder=tmp_path, settings={"WEBHOOK__SECRET": SECRET}, stdin=body)

    line, mending = refusal(done, 1)
    assert line.startswith(f"not verified ({code}): ")
    assert SECRET not in line + mending
    assert HEADERS[0].split()[1] not in line + mending
    assert "\x1b" not in line + mending

    words += ["-o", "json"]
    done = invoke("signature", "verify", "-", *words, folder=tmp_path, settings={"WEBHOOK__SECRET": SECRET}, stdin=body)
    told = json.loads(done.stdout)
    assert done.returncode == 1
    assert (told["verified"], told["code"], told["mending"]) == (False, code, mending)
    assert told["sentence"] in line


def test_a_signature_of_somebody_else(tmp_path: Path) -> None:
    """A secret that belongs to another organisation than the event's is not taken."""
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "96abc2aa-3dcc-11e5-a152-fe34819cdc9a.1").write_text(SECRET)
    words = [word for header in HEADERS for word in ("-H", header)]
    settings = {"WEBHOOK__SECRETS_DIR": "secrets"}
    done = invoke("signature", "verify", str(SAMPLES / NAME), *words, folder=tmp_path, settings=settings)

    assert refusal(done, 1)[0].startswith("not verified (wrongOwner): ")


@pytest.mark.parametrize(("chosen", "secret"), [([], "anybodys"), (["--secret", ORG + ".1"], "bound")])
def test_the_secret_to_sign_with(tmp_path: Path, chosen: list[str], secret: str) -> None:
    """It can be chosen by its name; without that it is one that fits every organisation."""
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / f"{ORG}.1").write_text("bound")
    (tmp_path / "secrets" / "current").write_text("anybodys")
    done = invoke(
        "signature", "sign", "-", *chosen, folder=tmp_path, settings={"WEBHOOK__SECRETS_DIR": "secrets"}, stdin=b"x"
    )

    assert (
        done.stdout.decode().splitlines()[0] == f"X-Spark-Signature: {sign(b'x', secret.encode())['X-Spark-Signature']}"
    )


def test_an_unknown_secret_is_2(tmp_path: Path) -> None:
    """The names that there are are shown, and no value."""
    done = invoke(
        "signature", "sign", "-", "--secret", "old", folder=tmp_path, settings={"WEBHOOK__SECRET": "canary"}, stdin=b"x"
    )

    assert refusal(done, 2) == ["There is no secret old; there are: WEBHOOK__SECRET"]


def test_a_body_that_cannot_be_read_is_2(tmp_path: Path) -> None:
    """The file is named."""
    done = invoke("signature", "sign", "nothing.json", folder=tmp_path, settings={"WEBHOOK__SECRET": SECRET})

    assert refusal(done, 2) == ["nothing.json cannot be read (No such file or directory)"]


@pytest.mark.parametrize("header", ["nonsense", ": 0a1b", " :", "\x1b[2J"])
def test_a_header_that_is_none_is_2(tmp_path: Path, header: str) -> None:
    """How one is written is said; nothing that steers a terminal is shown."""
    done = invoke(
        "signature", "verify", "-", "-H", header, folder=tmp_path, settings={"WEBHOOK__SECRET": SECRET}, stdin=b"x"
    )

    assert refusal(done, 2) == [f'{header!r} is no header: write "Name: value"']


def test_a_secret_that_cannot_be_read_is_2(tmp_path: Path) -> None:
    """The file is named and not its folder, and why it cannot be read."""
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "current").write_text(SECRET)
    (tmp_path / "secrets" / "next").symlink_to("nowhere")
    done = invoke("signature", "sign", "-", folder=tmp_path, settings={"WEBHOOK__SECRETS_DIR": "secrets"}, stdin=b"x")

    assert refusal(done, 2) == ["secrets/next cannot be read (No such file or directory)"]
