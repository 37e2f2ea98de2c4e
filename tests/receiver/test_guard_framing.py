"""Framing and limits, byte by byte and all at once, with a canary behind each request that must never be answered."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.receiver.guarded import Guarded, guarded
from tests.receiver.wire import CANARY, HOST, LINE, PATH, Heard, bare, chunked, once, post, report

CAP = 64 * 1024
SPARK, WEBEX = b"X-Spark-Signature: aa", b"X-Webex-Signature: SHA-256=aa"
GET = b"GET " + PATH + b" HTTP/1.1\r\n"
CHUNKS = b"Transfer-Encoding: chunked"
THREE = b"3\r\nabc\r\n0\r\n\r\n"

REFUSED = [
    # where the body ends (RFC 9112 §6)
    pytest.param(bare(b"Content-Length: 4", CHUNKS, then=THREE), 400, id="length and chunks"),
    pytest.param(bare(CHUNKS, b"Content-Length: 4", then=THREE), 400, id="chunks and length"),
    pytest.param(bare(b"Transfer-Encoding: gzip, chunked", then=THREE), 400, id="gzip, chunked"),
    pytest.param(bare(b"Transfer-Encoding: gzip", then=THREE), 400, id="gzip"),
    pytest.param(bare(b"Transfer-Encoding: identity", then=THREE), 400, id="identity"),
    pytest.param(bare(b"Transfer-Encoding: chunked, chunked", then=THREE), 400, id="chunked, chunked"),
    pytest.param(bare(CHUNKS, CHUNKS, then=THREE), 400, id="chunked twice"),
    pytest.param(bare(CHUNKS, b"Transfer-Encoding: identity", then=THREE), 400, id="chunked, then identity"),
    pytest.param(bare(b"Transfer-Encoding: xchunked", then=THREE), 400, id="xchunked"),
    pytest.param(bare(b"Transfer-Encoding: chunked;q=1", then=THREE), 400, id="chunked with a parameter"),
    pytest.param(bare(b"Transfer-Encoding:", then=THREE), 400, id="an empty coding"),
    pytest.param(chunked(b"abc", line=LINE.replace(b"1.1", b"1.0")), 400, id="chunks in HTTP/1.0"),
    pytest.param(bare(b"Content-Length: 2", b"Content-Length: 2", then=b"{}"), 400, id="length twice"),
    pytest.param(bare(b"Content-Length: 2", b"Content-Length: 3", then=b"{}"), 400, id="two lengths"),
    pytest.param(bare(b"Content-Length: 4, 4", then=b"{  }"), 400, id="a list of lengths"),
    pytest.param(bare(b"Content-Length: +2", then=b"{}"), 400, id="length with a plus"),
    pytest.param(bare(b"Content-Length: -2", then=b"{}"), 400, id="length with a minus"),
    pytest.param(bare(b"Content-Length: 0x2", then=b"{}"), 400, id="length in hex"),
    pytest.param(bare(b"Content-Length: 2 2", then=b"{}"), 400, id="length with a space"),
    pytest.param(bare(b"Content-Length: 1_0", then=b"{        }"), 400, id="length with an underscore"),
    pytest.param(bare(b"Content-Length:", then=b"{}"), 400, id="empty length"),
    # chunks
    pytest.param(bare(CHUNKS, then=b"3\r\nabcXX0\r\n\r\n"), 400, id="a chunk that ends with XX"),
    pytest.param(bare(CHUNKS, then=b"3\r\nabc\n0\r\n\r\n"), 400, id="a chunk that ends with a bare LF"),
    pytest.param(bare(CHUNKS, then=b"3\nabc\r\n0\r\n\r\n"), 400, id="a chunk size that ends with a bare LF"),
    pytest.param(bare(CHUNKS, then=b"0x3\r\nabc\r\n0\r\n\r\n"), 400, id="a chunk size with 0x"),
    pytest.param(bare(CHUNKS, then=b"-1\r\nabc\r\n0\r\n\r\n"), 400, id="a negative chunk size"),
    pytest.param(bare(CHUNKS, then=b"+3\r\nabc\r\n0\r\n\r\n"), 400, id="a signed chunk size"),
    pytest.param(bare(CHUNKS, then=b"\r\nabc\r\n0\r\n\r\n"), 400, id="no chunk size"),
    pytest.param(bare(CHUNKS, then=b"3 \r\nabc\r\n0\r\n\r\n"), 400, id="a space behind the chunk size"),
    pytest.param(bare(CHUNKS, then=b"3;x=\n\r\nabc\r\n0\r\n\r\n"), 400, id="a bare LF in a chunk extension"),
    pytest.param(bare(CHUNKS, then=b"3;" + b"x" * 1_000_000 + b"\r\nabc\r\n0\r\n\r\n"), 400, id="1 MB of chunk extension"),
    pytest.param(chunked(*[b"x"] * 60_000), 400, id="mostly chunk sizes"),
    pytest.param(bare(CHUNKS, then=b"f" * 17 + b"\r\nabc\r\n0\r\n\r\n"), 413, id="a chunk size of 17 digits"),
    pytest.param(chunked(b"abc", end=b"0\r\nX-Other: evil\r\n\r\n"), 400, id="a trailer"),
    pytest.param(chunked(b"abc", end=b"0\r\n" + SPARK + b"\r\n\r\n"), 400, id="a signature in a trailer"),
    pytest.param(chunked(b"abc", end=b"0\r\nX: " + b"x" * 200_000 + b"\r\n\r\n"), 400, id="an endless trailer"),
    # lines
    pytest.param(post().replace(b"\r\n", b"\n"), 400, id="bare LF"),
    pytest.param(post(b"X-Other: a\nX-More: b"), 400, id="a bare LF in the headers"),
    pytest.param(post(b"X-Other: a\rX-More: b"), 400, id="a bare CR in the headers"),
    pytest.param(post(b"X-Other: a", b" b"), 400, id="a folded header"),
    pytest.param(bare(b"Content-Length : 2", then=b"{}"), 400, id="a space before the colon"),
    pytest.param(bare(b" Content-Length: 2", then=b"{}"), 400, id="a space before the name"),
    pytest.param(post(b"X-Other: a\0b"), 400, id="NUL in a value"),
    pytest.param(post(b"X-Oth\0er: ab"), 400, id="NUL in a name"),
    pytest.param(post(b": nameless"), 400, id="no name"),
    pytest.param(post(b"nothing but a name"), 400, id="no colon"),
    # the request line
    pytest.param(post(line=b"POST " + PATH + b"\r\n"), 505, id="no version"),
    pytest.param(post(line=b"POST /a b HTTP/1.1\r\n"), 400, id="a space in the target"),
    pytest.param(post(line=b"POST /a\x01b HTTP/1.1\r\n"), 400, id="a control character in the target"),
    pytest.param(post(line=b"POST /\xc3\xa4 HTTP/1.1\r\n"), 400, id="a target that is not ASCII"),
    pytest.param(post(line=b"POST webhooks/webex HTTP/1.1\r\n"), 400, id="a relative target"),
    pytest.param(post(line=b"POST http://receiver/else HTTP/1.1\r\n"), 404, id="a whole URL of another path"),
    pytest.param(post(line=b"POST http:/" + PATH + b" HTTP/1.1\r\n"), 404, id="a whole URL whose host is the path"),
    pytest.param(post(line=b"POST //receiver" + PATH + b" HTTP/1.1\r\n"), 404, id="a URL without a scheme"),
    pytest.param(post(line=b"POST /%2577ebhooks/webex HTTP/1.1\r\n"), 404, id="a letter encoded twice"),
    pytest.param(post(line=b"OPTIONS http://receiver HTTP/1.1\r\n"), 400, id="a target without a path"),
    pytest.param(post(line=b"OPTIONS * HTTP/1.1\r\n"), 404, id="a target that is a star"),
    pytest.param(bare(line=b"CONNECT receiver:443 HTTP/1.1\r\n"), 400, id="CONNECT"),
    pytest.param(bare(line=b"CONNECT /webhooks/webex HTTP/1.1\r\n"), 400, id="CONNECT to the route"),
    pytest.param(post(line=LINE.replace(b"POST", b"post")), 400, id="a method in lower case"),
    pytest.param(post(line=LINE.replace(b"POST", b"BREW")), 400, id="an unknown method"),
    pytest.param(post(line=LINE.replace(b"1.1", b"1.2")), 505, id="HTTP/1.2"),
    pytest.param(post(line=LINE.replace(b"1.1", b"3.0")), 505, id="HTTP/3.0"),
    pytest.param(post(line=LINE.replace(b"1.1", b"1.")), 400, id="half a version"),
    pytest.param(post(line=LINE.replace(b"1.1", b"1.10")), 400, id="HTTP/1.10"),
    pytest.param(post(line=LINE.replace(b"1.1", b"2.0")), 505, id="HTTP/2.0"),
    pytest.param(post(line=LINE.replace(b"1.1", b"0.9")), 505, id="HTTP/0.9"),
    pytest.param(post(line=LINE.replace(b"HTTP", b"http")), 400, id="http in lower case"),
    pytest.param(post(line=b"DESCRIBE " + PATH + b" RTSP/1.0\r\n"), 400, id="RTSP"),
    pytest.param(post(line=b"SETUP " + PATH + b" RTSP/2.0\r\n"), 400, id="RTSP/2.0"),
    pytest.param(post(line=b"DESCRIBE " + PATH + b" HTTP/1.1\r\n"), 400, id="a method of RTSP"),
    pytest.param(post(line=b"SOURCE " + PATH + b" ICE/1.0\r\n"), 400, id="ICE"),
    pytest.param(post(line=b"SOURCE " + PATH + b" HTTP/1.1\r\n"), 400, id="a method of ICE"),
    pytest.param(post(line=LINE.replace(b"HTTP", b"ICE")), 400, id="a method of HTTP in ICE"),
    pytest.param(post(line=LINE.replace(b"HTTP/1.1", b"RTSP/2.0")), 505, id="a method of HTTP in RTSP/2.0"),
    pytest.param(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, id="the preface of HTTP/2"),
    pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200), 400, id="TLS"),
    # who is meant, and who says so
    pytest.param(bare(b"Content-Length: 2", host=b"", then=b"{}"), 400, id="no Host"),
    pytest.param(post(HOST.strip()), 400, id="two Hosts"),
    pytest.param(post(b"hOST: another"), 400, id="two different Hosts"),
    pytest.param(bare(host=b"Host: a/b@c\r\n"), 400, id="a Host that is none"),
    pytest.param(bare(host=b"Host: a b\r\n"), 400, id="a Host with a space"),
    pytest.param(post(SPARK, SPARK), 400, id="two signatures"),
    pytest.param(post(WEBEX, b"x-webex-signature: SHA-256=bb"), 400, id="two newer signatures"),
    pytest.param(post(SPARK, b"X_Spark_Signature: aa"), 400, id="a signature with underscores"),
    pytest.param(post(b"X-Spark_Signature: aa"), 400, id="a signature with one underscore"),
    pytest.param(post(b"X_WEBEX-SIGNATURE: aa"), 400, id="a newer signature with an underscore"),
    pytest.param(post(b"Content-Encoding: gzip"), 415, id="gzip"),
    pytest.param(post(b"Content-Encoding: br"), 415, id="br"),
    pytest.param(post(b"Content-Encoding: identity"), 415, id="encoded as it is"),
    pytest.param(post(b"Content-Encoding: identity", b"Content-Encoding: deflate"), 415, id="identity, then deflate"),
    pytest.param(post(b"Content-Encoding: gzip", body=os.urandom(60_000)), 415, id="60 kB of gzip"),
    pytest.param(bare(b"Connection: Upgrade", b"Upgrade: websocket", line=GET), 400, id="an upgrade to WebSocket"),
    pytest.param(post(b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: x"), 400, id="h2c"),
    # sizes
    pytest.param(post(line=b"POST /" + b"x" * 3 * 1024 + b" HTTP/1.1\r\n"), 414, id="a target of 3 KiB"),
    pytest.param(post(line=b"POST /" + b"x" * 1_000_000 + b" HTTP/1.1\r\n"), 414, id="a target of 1 MB"),
    pytest.param(post(b"X-Long: " + b"x" * 17 * 1024), 431, id="a header of 17 KiB"),
    pytest.param(post(*[b"X-%d: " % number + b"x" * 400 for number in range(41)]), 431, id="headers of 17 KiB"),
    pytest.param(post(b"X-Long: " + b"x" * 100_000), 431, id="a header of 100 kB"),
    pytest.param(post(b"X-Long: " + b"x" * 10_000_000), 431, id="a header of 10 MB"),
    pytest.param(post(b"x" * 100_000 + b": x"), 431, id="a name of 100 kB"),
    pytest.param(post(*[b"X-%d: x" % number for number in range(63)]), 431, id="65 fields"),
    pytest.param(post(*[b"a:"] * 5000), 431, id="5000 fields"),
    pytest.param(b"\r\n" * 100_000, 431, id="nothing but empty lines"),
    pytest.param(bare(b"Content-Length: 65537"), 413, id="a length beyond the cap"),
    pytest.param(bare(b"Content-Length: 10000000000"), 413, id="a length of 10 GB"),
    pytest.param(bare(b"Content-Length: " + b"9" * 30), 413, id="a length of 30 digits"),
    pytest.param(post(body=b"x" * 1_000_000), 413, id="a body of 1 MB"),
    pytest.param(chunked(b"x" * (CAP + 1)), 413, id="a chunk beyond the cap"),
    pytest.param(chunked(*[b"x" * 1024] * 65), 413, id="chunks beyond the cap"),
    pytest.param(chunked(*[b"x" * 16384] * 100), 413, id="chunks without an end"),
]  # fmt: skip

TAKEN = [
    pytest.param(post(), 2, id="a length"),
    pytest.param(post(body=b""), 0, id="an empty body"),
    pytest.param(bare(), 0, id="no body"),
    pytest.param(post(body=b"x" * CAP), CAP, id="as long as it may be"),
    pytest.param(chunked(b"abc", b"def"), 6, id="chunks"),
    pytest.param(chunked(*[b"x" * 64] * 1024), CAP, id="many chunks"),
    pytest.param(bare(b"Transfer-Encoding: Chunked", then=THREE), 3, id="Chunked"),
    pytest.param(bare(CHUNKS, then=b"3;a=b\r\nabc\r\n0\r\n\r\n"), 3, id="a small chunk extension"),
    pytest.param(bare(b"Trailer: X-Other", CHUNKS, then=THREE), 3, id="a trailer that never comes"),
    pytest.param(b"\r\n" + post(), 2, id="an empty line before it"),
    pytest.param(post(line=b"POST " + PATH + b"?" + b"x" * 2000 + b" HTTP/1.1\r\n"), 2, id="a target of 2015 bytes"),
    pytest.param(post(line=b"POST  " + PATH + b" HTTP/1.1\r\n"), 2, id="two spaces, which llhttp takes for one"),
    pytest.param(post(line=b"POST http://receiver" + PATH + b" HTTP/1.1\r\n"), 2, id="a whole URL"),
    pytest.param(post(line=b"POST http://other:8080" + PATH + b"?a=b HTTP/1.1\r\n"), 2, id="a whole URL with a port"),
    pytest.param(post(line=b"POST HTTPS://RECEIVER" + PATH + b" HTTP/1.1\r\n"), 2, id="a whole URL in capitals"),
    pytest.param(post(line=b"POST /webhooks/web%65x HTTP/1.1\r\n"), 2, id="an encoded letter"),
    pytest.param(post(line=b"POST http://receiver/%77ebhooks/webex HTTP/1.1\r\n"), 2, id="a whole URL, encoded"),
    pytest.param(post(line=LINE.replace(b"HTTP", b"RTSP")), 2, id="RTSP/1.1, which httptools gives as HTTP/1.1"),
    pytest.param(post(*[b"X-%d: x" % number for number in range(62)]), 2, id="64 fields"),
    pytest.param(post(b"X-Long: " + b"x" * 16_000), 2, id="a header of nearly 16 KiB"),
    pytest.param(post(SPARK, WEBEX), 2, id="both signatures"),
    pytest.param(post(b"X_Other: x", b"X-Other: x", b"X-Other: y"), 2, id="other names twice, or with underscores"),
    pytest.param(post(b"Upgrade: h2c"), 2, id="an Upgrade that the connection does not mean"),
    pytest.param(post(b"Expect: another"), 2, id="an unknown expectation"),
    pytest.param(bare(b"Content-Length: " + b"0" * 5000 + b"2", then=b"{}"), 2, id="a length with 5000 zeros before it"),
    pytest.param(bare(b"Content-Length: 2", host=b"Host: [::1]:8080\r\n", then=b"{}"), 2, id="an IPv6 address"),
    pytest.param(bare(b"Content-Length: 2", host=b"Host:\r\n", then=b"{}"), 2, id="an empty Host"),
]  # fmt: skip


def in_one(request: bytes) -> Iterator[bytes]:
    yield request


def byte_by_byte(request: bytes) -> Iterator[bytes]:
    """Of long ones 300 at the beginning and 300 at the end; between them come blocks of 256 KiB."""
    single = len(request) if len(request) < 4_000 else 300
    rest, end = max(single, len(request) - single), len(request)
    yield from (request[at : at + 1] for at in range(single))
    yield from (request[at : min(at + (1 << 18), rest)] for at in range(single, rest, 1 << 18))
    yield from (request[at : at + 1] for at in range(rest, end))


def in_odd_pieces(request: bytes) -> Iterator[bytes]:
    yield from (request[at : at + 1021] for at in range(0, len(request), 1021))


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Guarded]]:
    """Of both ways."""
    folder = tmp_path_factory.mktemp("guarded")
    with guarded("asgi", folder) as asgi, guarded("direct", folder) as direct:
        yield [asgi, direct]


def asked(servers: list[Guarded], request: bytes) -> dict[str, Heard]:
    """By way and split, all side by side."""
    splits: list[Callable[[bytes], Iterator[bytes]]] = [in_one, byte_by_byte, in_odd_pieces]
    with ThreadPoolExecutor() as pool:
        heard = {
            f"{server.way}, {split.__name__}": pool.submit(once, server.port, *split(request))
            for server, split in itertools.product(servers, splits)
        }
    return {name: each.result() for name, each in heard.items()}


def canaries(servers: list[Guarded]) -> list[int]:
    """How many each has taken."""
    return [report(server.port)["canaries"] for server in servers]


def check_refused(heard: Heard, status: int) -> None:
    """One problem, and the end."""
    assert heard.statuses == [status]
    (reply,) = heard.replies
    assert heard.closed
    assert reply.headers["connection"] == "close"
    assert reply.headers["content-type"] == "application/problem+json"
    assert reply.json["status"] == status
    assert reply.json.keys() <= {"type", "title", "status", "detail"}


@pytest.mark.parametrize(("request_", "status"), REFUSED)
def test_what_is_ambiguous_or_too_large_is_refused(servers: list[Guarded], request_: bytes, status: int) -> None:
    """By a problem document, however it is split; the canary behind the request is never looked at."""
    before = canaries(servers)
    for heard in asked(servers, request_ + CANARY).values():
        check_refused(heard, status)

    assert canaries(servers) == before


@pytest.mark.parametrize(("request_", "size"), TAKEN)
def test_what_is_in_order_is_taken(servers: list[Guarded], request_: bytes, size: int) -> None:
    """However it is split; and so is what comes behind it."""
    for name, heard in asked(servers, request_ + post(b"Connection: close", body=b"next")).items():
        assert heard.statuses == [200, 200], name
        assert [reply.json["body"] for reply in heard.replies] == [size, 4]
        assert heard.closed
