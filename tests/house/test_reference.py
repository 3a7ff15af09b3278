"""docs/reference/ is made from the code, and shows every public name."""

import inspect
import re
import runpy
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import cascade as cs
import cascade.testing

ROOT = Path(__file__).resolve().parents[2]
TOOL: dict[str, Any] = runpy.run_path(str(ROOT / "tools" / "reference.py"))
PAGES: dict[str, str] = TOOL["Reference"]().pages


def test_every_public_name_stands_on_exactly_one_page() -> None:
    """The pages together have a heading for each name of `cascade` and `cascade.testing`."""
    headings = [
        heading
        for file, text in PAGES.items()
        if file != "README.md"
        for heading in re.findall(r"^## (\S+)$", text, flags=re.MULTILINE)
    ]
    public = Counter([*cs.__all__, *cascade.testing.__all__])
    assert Counter(headings) == public, "PAGES in tools/reference.py says what stands where"


def test_the_pages_are_up_to_date() -> None:
    """What stands in docs/reference/ is what the code gives now: `make docs` writes it."""
    written = TOOL["made_pages"]()
    assert sorted(written) == sorted(PAGES)
    for file, text in PAGES.items():
        assert written[file] == text, f"docs/reference/{file} is out of date; run make docs"


@pytest.mark.parametrize("file", PAGES)
def test_every_entry_says_something(file: str) -> None:
    """Each class, function, method and property on the pages has a docstring of its own."""
    entries = re.split(r"^#{2,3} ", PAGES[file], flags=re.MULTILINE)[1:]
    silent = [
        entry.split("\n", 1)[0]
        for entry in entries
        if not re.sub(r"```pyi\n.*?```", "", entry, flags=re.DOTALL).partition("\n")[2].strip()
    ]
    assert silent == []


@pytest.mark.parametrize("name", sorted(TOOL["INTERNAL"] | TOOL["MADE_BY_CASCADE"]))
def test_the_exceptions_name_what_exists(name: str) -> None:
    """What the tool leaves out is there to be left out."""
    kind, _, member = name.partition(".")
    if not member:
        assert inspect.isclass(getattr(cs, kind))
        return
    owners = [owner for each in cs.__all__ for owner in getattr(getattr(cs, each), "__mro__", ())]
    assert any(owner.__name__ == kind and member in vars(owner) for owner in owners)


def test_links_lead_somewhere() -> None:
    """Every relative link in README.md and docs/ leads to a file, and to a heading of it."""
    pages = [ROOT / "README.md", *ROOT.glob("docs/**/*.md")]
    broken = [
        f"{page.relative_to(ROOT)}: {target}"
        for page in pages
        for target in re.findall(
            r"\]\(([^()\s]+)\)", without_code(page.read_text(encoding="utf-8"))
        )
        if "://" not in target and not leads_somewhere(page, target)
    ]
    assert broken == []


def without_code(text: str) -> str:
    text = re.sub(r"^(```+|~~~+).*?^\1", "", text, flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"`[^`\n]+`", "", text)


def leads_somewhere(page: Path, target: str) -> bool:
    file, _, anchor = target.partition("#")
    path = (page.parent / file).resolve() if file else page
    if not path.exists():
        return False
    return not anchor or anchor in anchors(path.read_text(encoding="utf-8"))


def anchors(text: str) -> set[str]:
    """The anchors that Markdown viewers make of the headings."""
    headings = re.findall(r"^#+ +(.*)$", text, flags=re.MULTILINE)
    plain = [re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings]
    return {heading.strip().replace(" ", "-") for heading in plain}


def test_the_table_of_errors_is_complete() -> None:
    """docs/errors.md has each error of Cascade's own, with its builtin and its fields."""
    page = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| \[?`(\w+)`\S* \| `(\w+)` \| .*? \| (.*?) ?\|$", page, re.MULTILINE)
    told = {name: (builtin, re.findall(r"`(\w+)`", fields)) for name, builtin, fields in rows}
    assert told == {
        name: (error.__bases__[1].__name__, fields_of(error))
        for name in cs.__all__
        if (error := getattr(cs, name)) is not cs.CascadeError
        and inspect.isclass(error)
        and issubclass(error, cs.CascadeError)
    }


def fields_of(error: type[Exception]) -> list[str]:
    return list(inspect.signature(error).parameters) if "__init__" in vars(error) else []


def test_every_error_is_shown_on_the_page_of_errors() -> None:
    """The page has an example, with its message, of each."""
    page = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
    shown = set(re.findall(r"^(\w+Error): ", page, re.MULTILINE))
    rows = set(re.findall(r"^\| \[`(\w+)`\]", page, re.MULTILINE))
    assert rows - shown == set()
    assert rows | {"CascadeError"} == {name for name in cs.__all__ if name.endswith("Error")}
