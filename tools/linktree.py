"""Lay the packages out as they install: build/typing/cascade/... with one symlink per file.

Type checkers read this tree: the folders vm/ and compiler/ install as cascade.vm and
cascade.compiler.
"""

import shutil
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def sources(root: Path = ROOT) -> dict[Path, Path]:
    """Map the path of each module in an installation to its file in the checkout."""
    tables = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    setuptools = tables["tool"]["setuptools"]
    folders: dict[str, str] = setuptools["package-dir"]
    found: dict[Path, Path] = {}
    for package in setuptools["packages"]:
        # As in setuptools, the longest parent in package-dir decides where a package lives.
        base = max((name for name in folders if f"{package}.".startswith(f"{name}.")), key=len)
        folder = root / folders[base] / package[len(base) + 1 :].replace(".", "/")
        for file in sorted([*folder.glob("*.py"), *folder.glob("*.pyi"), *folder.glob("py.typed")]):
            found[Path(*package.split("."), file.name)] = file
    return found


def link(tree: Path, root: Path = ROOT) -> list[Path]:
    """Make ``tree`` anew and return the links to Python files in it."""
    shutil.rmtree(tree, ignore_errors=True)
    links = {tree / place: file for place, file in sources(root).items()}
    for place, file in links.items():
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(file)
    return [place for place in links if place.suffix in {".py", ".pyi"}]


if __name__ == "__main__":
    print(len(link(ROOT / "build" / "typing")), "Python files in build/typing")
