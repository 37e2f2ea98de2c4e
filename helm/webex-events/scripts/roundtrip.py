"""What ``helm test`` runs in the product's image: a badly signed webhook is refused, a signed one comes out of Kafka.

The event is about a transcript: nobody looks at a meeting, or writes anything to Webex, because of one.
"""

from __future__ import annotations

import secrets
import subprocess
import sys
import urllib.error
import urllib.request

EVENT, TOPIC = "meetingTranscripts.created", "transcripts"


def refused(url: str) -> bool:
    """Whether a webhook with a wrong signature gets 401."""
    headers = {"Content-Type": "application/json", "X-Spark-Signature": "0" * 40}
    request = urllib.request.Request(url, b"{}", headers, method="POST")  # noqa: S310 - http, by the chart
    try:
        with urllib.request.urlopen(request, timeout=15) as response:  # noqa: S310
            status = int(response.status)
    except urllib.error.HTTPError as error:
        status = error.code
    except OSError as error:
        _say(f"nobody answers at {url}: {error}")
        return False
    _say(f"badly signed: answered {status}")
    return status == 401


def accepted(url: str, series: str) -> bool:
    """Whether a signed one gets 2xx."""
    words = ["webex-events", "trigger", EVENT, "--meeting", series, "--url", url]
    return subprocess.run(words, check=False).returncode == 0  # noqa: S603 - our own program


def comes_out(series: str, seconds: str) -> bool:
    """Whether it is on its topic, or comes there within so many seconds. Five minutes are for clocks that differ."""
    words = ["webex-events", "events", "tail", "--topic", TOPIC, "--since", "5m", "--timeout", seconds, "-o", "jsonl"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as tail:  # noqa: S603
        found = any(series in line for line in tail.stdout or ())
        tail.terminate()
    _say("signed: came out" if found else f"signed: did not come out within {seconds} s")
    return found


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main(url: str, seconds: str) -> bool:
    """All three, one after another."""
    series = secrets.token_hex(16)
    return refused(url) and accepted(url, series) and comes_out(series, seconds)


if __name__ == "__main__":
    sys.exit(0 if main(*sys.argv[1:]) else 1)
