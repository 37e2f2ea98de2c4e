"""`signature sign|verify`: the same digests as OpenSSL's, from files and from stdin."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.program import invoke, refusal, run

SAMPLES = Path(__file__).parents[1] / "samples"
KNOWN = json.loads((SAMPLES / "signatures.json").read_text("utf-8"))
SECRET: str = KNOWN["secret"]
NAME = "meetings.ended.json"
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

    assert (done.returncode, done.stdout) == (0, b"verified with secret 2 of 2\n")


@pytest.mark.parametrize(
    ("altered", "headers"),
    [
        pytest.param(True, HEADERS, id="another body"),
        pytest.param(False, ["X-Spark-Signature: " + "0" * 40], id="another digest"),
        pytest.param(False, ["X-Spark-Signature"], id="no value"),
        pytest.param(False, ["Content-Type: application/json"], id="no signature"),
        pytest.param(False, [HEADERS[0], "X-Webex-Signature: SHA-256=" + "0" * 64], id="the strongest decides"),
    ],
)
def test_what_was_not_signed_is_1(tmp_path: Path, altered: bool, headers: list[str]) -> None:
    """Exit code 1, one sentence, no secret and no digest."""
    body = (SAMPLES / NAME).read_bytes() + (b" " if altered else b"")
    words = [word for header in headers for word in ("--header", header)]
    done = invoke("signature", "verify", "-", *words, folder=tmp_path, settings={"WEBHOOK__SECRET": SECRET}, stdin=body)

    (line,) = refusal(done, 1)
    assert line.startswith("not verified: ")
    assert SECRET not in line
    assert HEADERS[0].split()[1] not in line


def test_a_body_that_cannot_be_read_is_2(tmp_path: Path) -> None:
    """The file is named."""
    done = invoke("signature", "sign", "nothing.json", folder=tmp_path, settings={"WEBHOOK__SECRET": SECRET})

    assert refusal(done, 2) == ["nothing.json cannot be read (No such file or directory)"]
