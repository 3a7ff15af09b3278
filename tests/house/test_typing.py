"""The types that a user's type checker finds, by mypy --strict and by pyright.

typing/accepted.py states them with `assert_type`; in typing/refused.py each wrong use is a line
marked `# error`. Each checker reads both once, against a link tree of its own.
"""

import json
import re
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = Path(__file__).parent / "typing"
NAMES = ("accepted.py", "refused.py")
LINKTREE = runpy.run_path(str(ROOT / "tools" / "linktree.py"))

Found = list[tuple[str, int, str]]  # file name, line, message


def marked() -> list[tuple[str, int]]:
    """The lines of refused.py that have to be flagged."""
    lines = (PROGRAMS / "refused.py").read_text(encoding="utf-8").splitlines()
    return [("refused.py", n) for n, line in enumerate(lines, 1) if line.endswith("# error")]


def lay_out(checker: str) -> Path:
    """A folder that only this checker reads, so that none disturbs another: the package as it
    installs and the two programs, in `tree`."""
    folder = ROOT / "build" / f"tests-{checker}"
    LINKTREE["link"](folder / "tree")
    for name in NAMES:
        (folder / "tree" / name).symlink_to(PROGRAMS / name)
    return folder


def check(folder: Path, *command: str) -> str:
    done = subprocess.run(
        [sys.executable, "-P", "-m", *command], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 1, f"the checker did not do its work:\n{done.stdout}{done.stderr}"
    return done.stdout


def mypy() -> Found:
    folder = lay_out("mypy")
    config = "[mypy]\nstrict = true\npython_version = 3.11\nmypy_path = tree\n"
    (folder / "mypy.ini").write_text(config)
    said = check(folder, "mypy", *(f"tree/{name}" for name in NAMES))
    errors = re.findall(r"^.*?([\w.]+):(\d+): error: (.*)$", said, flags=re.MULTILINE)
    return [(name, int(line), message) for name, line, message in errors]


def pyright() -> Found:
    folder = lay_out("pyright")
    config = {
        "include": [f"tree/{name}" for name in NAMES],
        "executionEnvironments": [{"root": "tree"}],
        "pythonVersion": "3.11",
        "reportUnusedExpression": False,
    }
    (folder / "pyrightconfig.json").write_text(json.dumps(config))
    said = check(folder, "pyright", "--outputjson", "--pythonpath", sys.executable)
    return [
        (Path(found["file"]).name, found["range"]["start"]["line"] + 1, found["message"])
        for found in json.loads(said)["generalDiagnostics"]
    ]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("checker", [mypy, pyright])
def test_types(checker: Callable[[], Found]) -> None:
    """A checker finds the types that are asserted, and flags every wrong use and nothing else."""
    found = checker()
    flagged = {(name, line) for name, line, _ in found}
    assert [each for each in found if each[:2] not in marked()] == []
    assert [each for each in marked() if each not in flagged] == []
