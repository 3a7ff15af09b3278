"""The example that drives an HTTP API keeps to its limits on both loops, in real time."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

EXAMPLE = Path(__file__).parents[2] / "examples" / "api_client.py"


def test_the_limits_are_never_exceeded(backend: str, use_vm: bool) -> None:
    """Every page that is there arrives, in spite of 503 and 429, none is asked for again before its
    Retry-After is over, and the server saw no more than it allows."""
    command = [sys.executable, str(EXAMPLE), "--backend", backend, *["--vm"] * use_vm]
    done = subprocess.run(command, capture_output=True, text=True, timeout=150, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "88 pages with 352 words" in done.stdout
    assert number(r"pages gone +(\d+)", done.stdout) == 2
    assert number(r"answered 503 +(\d+)", done.stdout) > 0
    assert number(r"answered 429 +(\d+)", done.stdout) > 0
    assert number(r"while closed +(\d+)", done.stdout) == 0
    assert number(r"too soon +(\d+)", done.stdout) == 0
    assert number(r"in any second +(\d+)", done.stdout) <= 50
    assert number(r"at once +(\d+)", done.stdout) <= 6
    assert number(r"of which (\d+) had waited", done.stdout) > 0
    assert "no limit was ever exceeded" in done.stdout


def number(pattern: str, text: str) -> int:
    found = re.search(pattern, text)
    assert found is not None, text
    return int(found[1])
