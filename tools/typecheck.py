"""Check types with mypy --strict and pyright, and that both read every file.

A checker that reads a part of the files says success too, so the numbers are compared.
"""

import json
import re
import subprocess
import sys

from linktree import ROOT, link

TREE = ROOT / "build" / "typing"
EXAMPLES = ROOT / "examples"


def checker(*command: str) -> subprocess.CompletedProcess[str]:
    # -P: the checkout must not shadow what is installed.
    return subprocess.run(
        [sys.executable, "-P", "-m", *command], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )


def mypy(*paths: str) -> tuple[bool, int]:
    done = checker("mypy", "--strict", *paths)
    print(done.stdout, end="")
    count = re.search(r"(\d+) source files?", done.stdout)
    return done.returncode == 0, int(count[1]) if count else 0


def pyright(*paths: str) -> tuple[bool, int]:
    done = checker("pyright", "--outputjson", "--pythonpath", sys.executable, *paths)
    try:
        report = json.loads(done.stdout)
    except json.JSONDecodeError:
        print(done.stdout, end="")
        return False, 0
    for found in report["generalDiagnostics"]:
        start = found.get("range", {}).get("start", {"line": 0, "character": 0})
        place = f"{found.get('file', '')}:{start['line'] + 1}:{start['character'] + 1}"
        print(f"{place}: {found['severity']}: {found['message']} [{found.get('rule', '')}]")
    return done.returncode == 0, report["summary"]["filesAnalyzed"]


def main() -> int:
    examples = sorted(EXAMPLES.rglob("*.py"))
    expected = len(link(TREE)) + len(examples)
    paths = [str(path.relative_to(ROOT)) for path in (*sorted(TREE.iterdir()), *examples)]
    failed = False
    for name, check, given in (("mypy", mypy, paths), ("pyright", pyright, [])):
        clean, count = check(*given)
        print(f"{name}: read {count} of {expected} files, {'no errors' if clean else 'failed'}")
        failed |= not clean or count != expected
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
