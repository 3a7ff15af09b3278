"""The tests themselves: each says which law it holds."""

import ast
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
FILES = sorted(TESTS.rglob("test_*.py"))


def without_a_law(source: str) -> list[str]:
    """The test functions and methods, nested ones too, that have no docstring."""
    return [
        node.name
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
        and not ast.get_docstring(node)
    ]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(TESTS).as_posix())
def test_every_test_states_its_law(file: Path) -> None:
    """A test without a docstring leaves its reader to guess what may not change."""
    assert without_a_law(file.read_text(encoding="utf-8")) == []


def test_a_test_without_a_law_is_found() -> None:
    """Sync or async, in a class or not; helpers need none."""
    source = (
        "def test_a(): 'A law.'\n"
        "def test_b(): pass\n"
        "def helper(): pass\n"
        "class TestC:\n    async def test_c(self): pass\n"
    )
    assert without_a_law(source) == ["test_b", "test_c"]
