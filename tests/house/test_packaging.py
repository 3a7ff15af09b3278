"""What is installed is what the checkout holds."""

import importlib
import importlib.metadata
import importlib.resources
import re
import runpy
import sysconfig
import tomllib
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
SETUPTOOLS = PROJECT["tool"]["setuptools"]
LINKTREE = runpy.run_path(str(ROOT / "tools" / "linktree.py"))


def packages_on_disk(root: Path, package_dir: dict[str, str]) -> list[str]:
    """Name, as it installs, each folder with Python files in it."""
    found = []
    for name, base in package_dir.items():
        for folder in {file.parent for file in (root / base).rglob("*.py")}:
            found.append(".".join((name, *folder.relative_to(root / base).parts)))
    return sorted(found)


def test_every_folder_of_modules_is_a_listed_package() -> None:
    """setuptools leaves an unlisted package out of the wheel without a word."""
    assert sorted(SETUPTOOLS["packages"]) == packages_on_disk(ROOT, SETUPTOOLS["package-dir"])


def test_packages_on_disk_sees_nested_and_doubled_folders(tmp_path: Path) -> None:
    """Every folder with Python files counts as a package, even if two give one name."""
    for file in ("cascade/__init__.py", "cascade/vm/a.py", "vm/b.py", "vm/deep/er/c.py"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    (tmp_path / "vm" / "data").mkdir()
    assert packages_on_disk(tmp_path, {"cascade": "cascade", "cascade.vm": "vm"}) == [
        "cascade",
        "cascade.vm",
        "cascade.vm",
        "cascade.vm.deep.er",
    ]


def test_every_package_in_the_root_is_mapped() -> None:
    """Each package folder in the root is installed under a name."""
    roots = {init.parent.name for init in ROOT.glob("*/__init__.py")}
    assert roots <= set(SETUPTOOLS["package-dir"].values())


@pytest.mark.parametrize("package", SETUPTOOLS["packages"])
def test_every_package_is_installed_from_its_folder(package: str) -> None:
    """The tests run against this checkout, or against a wheel, never against half of each."""
    module = importlib.import_module(package)
    assert module.__file__ is not None
    folder = Path(module.__file__).resolve().parent
    inner = Path(*package.split("."))
    checkout = LINKTREE["sources"]()[inner / "__init__.py"].parent
    assert folder in (checkout, Path(sysconfig.get_path("purelib")).resolve() / inner)


def test_py_typed_is_shipped() -> None:
    """The wheel has `py.typed`, so that type checkers read the annotations."""
    assert any(fnmatchcase("py.typed", glob) for glob in SETUPTOOLS["package-data"]["cascade"])
    assert importlib.resources.files("cascade").joinpath("py.typed").is_file()


def test_an_installation_needs_anyio_and_trio_only() -> None:
    """Without extras, only anyio and trio are required."""
    requires = importlib.metadata.requires("cascade-vm") or []
    names = {re.split(r"[^\w-]", line)[0] for line in requires if "extra ==" not in line}
    assert names == {"anyio", "trio"}


def test_the_link_tree_holds_every_module(tmp_path: Path) -> None:
    """A file that no type checker reads is a file with no types."""
    links = LINKTREE["link"](tmp_path / "tree")
    bases = {ROOT / base for base in SETUPTOOLS["package-dir"].values()}
    sources = {file.resolve() for base in bases for file in base.rglob("*.py")}
    assert {place.resolve() for place in links} == sources
    assert (tmp_path / "tree" / "cascade" / "py.typed").is_file()


def test_nobody_is_told_to_install_another_distribution() -> None:
    """The name ``cascade`` on the index belongs to another project."""
    texts = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/**/*.py")]
    texts += [
        file for base in SETUPTOOLS["package-dir"].values() for file in ROOT.glob(f"{base}/**/*.py")
    ]
    wrong = re.compile(r"\b(?:pip install|uv add|poetry add) +['\"]?cascade(?!-vm)\b")
    assert [file for file in texts if wrong.search(file.read_text(encoding="utf-8"))] == []
