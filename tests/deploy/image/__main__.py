"""``python -m tests.deploy.image``: packages, tools, images, then the tests of this folder; further arguments are pytest's."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.deploy.image.engine import Engine, EngineError
from tests.deploy.image.images import prepare
from tests.deploy.image.packages import PackagesMissing, ensure
from tests.deploy.tools import cache, pins
from tests.deploy.tools.making import CannotMake, make
from tests.kafka.harness import KafkaUnavailable


def main(arguments: list[str]) -> int:
    """0 where all passed."""
    try:
        ensure()
        make(pin for pin in pins().values() if pin.check == "image")
        prepare(Engine.at(cache() / "containers"))
    except (PackagesMissing, CannotMake, EngineError, KafkaUnavailable, subprocess.CalledProcessError) as error:
        print(error, file=sys.stderr)  # noqa: T201 - a sentence for people
        return 1
    return int(pytest.main(["-p", "no:cacheprovider", str(Path(__file__).parent), *arguments]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
