"""Every example in the documentation runs and shows what it prints.

In README.md and docs/, each fenced block of Python runs, in order, all blocks of a page in one
namespace, which is the ``__main__`` module, in an empty working directory. A block with ``>>>`` is
a doctest; any other is a program, and if a ``text``, ``output`` or ``mermaid`` block follows at
once, this is what it prints (a viewer draws the last). ``<!-- not run: reason -->`` before a block
leaves it out. Doctests of the modules run too.

A block of Python with ``title="flow.py"`` is written to that file as well. In a ``console`` block,
lines that begin with ``$ `` are commands, run by ``sh``, with what they print below them, where
``...`` stands for any text.
"""

import contextlib
import doctest
import importlib
import io
import pkgutil
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))]

PYTHON = {"python", "py", "python3", "pycon"}
OUTPUT = {"text", "output", "mermaid"}
CONSOLE = "console"
OPEN = re.compile(r"(?P<indent> *)(?P<fence>`{3,}|~{3,}) *(?P<tag>[\w+-]*)(?P<rest>[^`]*)")
TITLE = re.compile(r"\btitle=\"(?P<title>[^\"]+)\"")
# A command of the package that is being tested, wherever it is installed.
SHELL = f'''cascade() {{ "{sys.executable}" -P -m cascade "$@"; }}'''
NOT_RUN = re.compile(r"<!-- *not run\b(?P<reason>.*?)-->")


class PageError(Exception):
    """The page cannot be read as a list of blocks."""


@dataclass
class Block:
    tag: str
    line: int  # of its first line of text, counted from 0
    text: str
    before: str  # the last line that is not blank before its fence
    follows: bool  # only blank lines lie between this and the block before
    title: str | None  # the file that it is


@dataclass
class Example:
    line: int
    text: str
    output: str | None
    title: str | None = None
    is_console: bool = False

    @property
    def is_doctest(self) -> bool:
        return re.search(r"^>>> ", self.text, re.MULTILINE) is not None


def blocks(page: str) -> Iterator[Block]:
    lines = page.splitlines()
    number, before, follows = 0, "", False
    while number < len(lines):
        opened = OPEN.fullmatch(lines[number])
        if opened is None:
            if lines[number].strip():
                before, follows = lines[number].strip(), False
            number += 1
            continue
        fence = opened["fence"]
        closing = re.compile(rf" *{re.escape(fence[0])}{{{len(fence)},}} *")
        start = number + 1
        number = start
        while number < len(lines) and not closing.fullmatch(lines[number]):
            number += 1
        if number == len(lines):
            raise PageError(f"line {start}: the block is never closed")
        text = "\n".join(lines[start:number])
        text = (
            re.sub(rf"^ {{1,{len(opened['indent'])}}}", "", text, flags=re.M)
            if opened["indent"]
            else text
        )
        title = TITLE.search(opened["rest"])
        file = title["title"] if title else None
        yield Block(opened["tag"].lower(), start, text, before, follows, file)
        number, before, follows = number + 1, "", True


def examples(page: str) -> list[Example]:
    found: list[Example] = []
    runs = False  # whether the block before is an example
    for block in blocks(page):
        comment = NOT_RUN.fullmatch(block.before)
        if comment and not comment["reason"].strip(" :"):
            raise PageError(f"line {block.line}: say why: <!-- not run: reason -->")
        if block.tag in OUTPUT and block.follows and runs:
            if not found[-1].is_doctest:
                found[-1].output = block.text
            runs = False
        else:
            runs = block.tag in PYTHON and not comment
            if runs:
                found.append(Example(block.line, block.text, None, block.title))
            elif block.tag == CONSOLE and not comment:
                found.append(Example(block.line, block.text, None, is_console=True))
    return found


def commands(example: Example) -> Iterator[tuple[str, str]]:
    """Each command of a console block, and what it prints."""
    parts = re.split(r"^\$ (.*)\n?", example.text + "\n", flags=re.MULTILINE)
    if parts[0].strip() or len(parts) == 1:
        raise PageError(f"line {example.line}: a console block begins with a command, $ ...")
    yield from zip(parts[1::2], parts[2::2], strict=True)


def worker_file(page: list[Example]) -> str:
    """The programs of a page as a file: a worker process loads it in the place of ``__main__``."""
    programs = (each for each in page if not (each.is_doctest or each.is_console))
    return "".join(f"exec({example.text!r})\n" for example in programs)


def stripped(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.rstrip().splitlines())


def run_page(page: list[Example], module: ModuleType, path: Path) -> None:
    """Run the examples in the namespace of ``module``; fail at the first that is wrong."""
    for example in page:
        if example.title is not None:
            Path(example.title).write_text(f"{example.text}\n", encoding="utf-8")
        if example.is_console:
            run_commands(example, path)
        elif example.is_doctest:
            run_doctest(example, module, path)
        else:
            # The lines of the page, so that tracebacks and inspect.getsource show its text.
            code = compile("\n" * example.line + example.text, str(path), "exec")
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                exec(code, module.__dict__)
            if example.output is not None:
                assert stripped(printed.getvalue()) == stripped(example.output), (
                    f"{path.name}, line {example.line + 1}: the output is another"
                )


def run_commands(example: Example, path: Path) -> None:
    compare = doctest.OutputChecker().check_output
    for command, expected in commands(example):
        done = subprocess.run(
            ["sh", "-c", f"{SHELL}\n{command}"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=150,
            check=False,
        )
        want, got = (f"{stripped(text)}\n" for text in (expected, done.stdout))
        assert compare(want, got, doctest.ELLIPSIS), (
            f"{path.name}, line {example.line + 1}: {command!r} prints something else:\n{got}"
        )


def run_doctest(example: Example, module: ModuleType, path: Path) -> None:
    test = doctest.DocTestParser().get_doctest(
        example.text + "\n", {}, path.name, str(path), example.line
    )
    test.globs = module.__dict__
    said: list[str] = []
    doctest.DocTestRunner().run(test, out=said.append, clear_globs=False)
    if said:
        pytest.fail("".join(said), pytrace=False)


@pytest.fixture
def main(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """An empty ``__main__``, so that what a page defines can be imported and pickled."""
    module = ModuleType("__main__")
    module.__file__ = str(tmp_path / "page.py")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    monkeypatch.setitem(sys.modules, "__main__", module)
    return module


def check(text: str, module: ModuleType, path: Path | None = None) -> None:
    file = Path(str(module.__file__))
    if path is None:
        path = file.with_suffix(".md")
        path.write_text(text, encoding="utf-8")
    found = examples(text)
    file.write_text(worker_file(found), encoding="utf-8")
    run_page(found, module, path)


@pytest.mark.timeout(240)  # each command of a page is a process of its own
@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_page(path: Path, main: ModuleType) -> None:
    """The examples of a page run, and print what the page shows below them."""
    check(path.read_text(encoding="utf-8"), main, path)


def module_names() -> list[str]:
    tables = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    found = []
    for package in tables["tool"]["setuptools"]["packages"]:
        # Each package for itself: an editable install keeps them in folders apart.
        module = importlib.import_module(package)
        inner = pkgutil.iter_modules(module.__path__, f"{package}.")
        found += [package, *(each.name for each in inner if not each.ispkg)]
    return [name for name in found if not name.endswith(".__main__")]


@pytest.mark.parametrize("name", module_names())
def test_module(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The doctests of a module pass."""
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(name)
    runner, said = doctest.DocTestRunner(), []
    for test in doctest.DocTestFinder(exclude_empty=True).find(module, name):
        runner.run(test, out=said.append)
    if said:
        pytest.fail("".join(said), pytrace=False)


# The runner itself.

FENCE = "```"


def page(*parts: str) -> str:
    """Write ``[tag`` for a fence that opens, ``]`` for one that closes."""
    lines = "\n".join(parts).splitlines()
    return "\n".join(
        FENCE + line[1:] if line.startswith("[") else FENCE if line == "]" else line
        for line in lines
    )


@pytest.mark.parametrize(
    "text",
    [
        page("[python", "print(1)", "]", "[text", "1", "]"),
        page("[python", "print(1)", "]", "", "[output", "1", "", "]"),
        page("[python", "print('flowchart TD')", "]", "[mermaid", "flowchart TD", "]"),
        page("[python", "print(1)", "]", "Elsewhere:", "[text", "2", "]"),
        page("[python", "x = 1", "]", "[python", ">>> x", "1", "]", "[python", "assert x", "]"),
        page("[python", ">>> y = 2", "]", "[pycon", ">>> y", "2", "]", "[text", "3", "]"),
        page("<!-- not run: needs a printer -->", "[python", "1 / 0", "]", "[text", "9", "]"),
        page("[toml", "1 / 0", "]"),
        page(
            "[console", "$ echo 1; echo 2 >&2", "1", "2", "$ true", "$ echo a b c", "a ... c", "]"
        ),
        page('[python title="a.py"', "x = 1", "]", "[console", "$ cat a.py", "x = 1", "]"),
        page("<!-- not run: needs a printer -->", "[console", "$ false; lpr", "]"),
        page("[console", "$ cascade --version", "cascade, version ...", "]"),
        page("[", "1 / 0", "]"),
        "````md\n```python\n1 / 0\n```\n````\n",
        "- a list\n  ```python\n  if True:\n      print(1)\n  ```\n\n  ```text\n  1\n  ```\n",
        '~~~python title="a.py"\nprint(1)\n~~~\n~~~text\n1\n~~~\n',
        page("[python", "assert __name__ == '__main__'", "]"),
        page("[python", "import pathlib; assert not list(pathlib.Path().iterdir())", "]"),
        page(
            "[python",
            "import inspect",
            "def f(): pass",
            "assert 'pass' in inspect.getsource(f)",
            "]",
        ),
        page("[python", "import pickle", "class C: pass", "pickle.loads(pickle.dumps(C))()", "]"),
    ],
)
def test_runner_passes(text: str, main: ModuleType) -> None:
    """A page whose examples do what it shows passes."""
    check(text, main)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (page("[python", "print(1)", "]", "[text", "2", "]"), AssertionError),
        (page("[python", "print(1)", "]", "[text", "]"), AssertionError),
        (page("[python", "print(1)", "]", "[mermaid", "2", "]"), AssertionError),
        (page("[python", "pass", "]", "[text", "1", "]"), AssertionError),
        (page("[python", ">>> 1 + 1", "3", "]"), pytest.fail.Exception),
        (page("[python", ">>> 1 / 0", "]"), pytest.fail.Exception),
        (page("[python", "1 / 0", "]"), ZeroDivisionError),
        (page("[Python", "1 / 0", "]"), ZeroDivisionError),
        (page("[py", "1 / 0", "]"), ZeroDivisionError),
        (page("[python,linenos", "1 / 0", "]"), ZeroDivisionError),
        (page("[python hl_lines=1", "1 / 0", "]"), ZeroDivisionError),
        ("- a\n\n  ```python\n  1 / 0\n  ```\n", ZeroDivisionError),
        ("~~~python\n1 / 0\n~~~\n", ZeroDivisionError),
        (page("[python", "def f(:", "]"), SyntaxError),
        (
            page(
                "[python", "x = 1", "]", "<!-- not run: slow -->", "", "text", "[py", "x / 0", "]"
            ),
            ZeroDivisionError,
        ),
        (page("<!-- not run -->", "[python", "1 / 0", "]"), PageError),
        (page("<!-- not run: -->", "[python", "1 / 0", "]"), PageError),
        (page("[python", "1 / 0"), PageError),
        (page("[console", "$ echo 1", "2", "]"), AssertionError),
        (page("[console", "$ echo 1", "]"), AssertionError),
        (page("[console", "$ true", "1", "]"), AssertionError),
        (page("[console", "$ echo 1", "1", "$ echo 2", "1", "]"), AssertionError),
        (page("[console", "echo 1", "1", "]"), PageError),
    ],
)
def test_runner_fails(text: str, error: type[BaseException], main: ModuleType) -> None:
    """A page whose output differs, or whose blocks are malformed, fails."""
    with pytest.raises(error):
        check(text, main)


def test_a_traceback_shows_the_line_of_the_page(main: ModuleType) -> None:
    """An example that raises is reported at its line of the page."""
    with pytest.raises(ZeroDivisionError) as caught:
        check(page("# Title", "", "[python", "x = 1", "x / 0", "]"), main)
    assert caught.traceback[-1].lineno + 1 == 5


WORKER = """
[python
from __future__ import annotations
import cascade
@cascade.task(mode="process")
def double(x): return 2 * x
]
Then
"""


def test_what_a_page_defines_reaches_a_worker_process(main: ModuleType) -> None:
    """A page may define tasks that run in worker processes."""
    guarded = [
        "[python",
        "if __name__ == '__main__':",
        "    print(cascade.run(double(21)))",
        "]",
        "[text",
        "42",
        "]",
    ]
    check(page(WORKER, *guarded), main)


def test_a_page_that_starts_workers_without_the_guard_fails(main: ModuleType) -> None:
    """It would start itself in each worker: so the engine refuses it."""
    text = page(WORKER, "[python", "cascade.run(double(21))", "]")
    with pytest.raises(RuntimeError, match="__main__"):
        check(text, main)
