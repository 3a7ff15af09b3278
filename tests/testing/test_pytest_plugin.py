"""The pytest plugin, in projects of its users: with their settings and other plugins."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from cascade.testing import assert_strategies_agree

pytest_plugins = ["pytester"]
ROOT = Path(__file__).resolve().parents[2]

# The plugins for async tests that a project may have beside anyio's, which comes with Cascade.
ASYNC_PLUGINS = ("asyncio", "trio")

PLAIN = '''
import anyio
import pytest

import cascade as cs


@cs.task
async def nap(seconds):
    await anyio.sleep(seconds)
    return loop_of_the_moment(), anyio.current_time()


def loop_of_the_moment():
    import asyncio

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return "trio"
    return "asyncio"


@pytest.fixture
def strategies(monkeypatch):
    """Which strategies carried out something."""
    seen = []
    for name, kind in {
        "graph": cs.GraphExecutionStrategy,
        "vm": cs.VMExecutionStrategy,
    }.items():

        async def execute(self, *args, name=name, execute=kind.execute):
            seen.append(name)
            return await execute(self, *args)

        monkeypatch.setattr(kind, "execute", execute)
    return seen


def test_run(cascade_run, cascade_backend, cascade_strategy, strategies):
    assert cascade_run(nap(3600)) == (cascade_backend, 3600.0)
    assert cascade_run(nap(cs.Param("n", type=int)), params={"n": "5"}) == (cascade_backend, 5.0)
    assert strategies == [cascade_strategy] * 2


def test_inside(cascade_inside, cascade_backend):
    async def main(seconds):
        await anyio.sleep(seconds)
        return loop_of_the_moment(), anyio.current_time()

    assert cascade_inside(main, 3600) == (cascade_backend, 3600.0)


def test_agree(cascade_agree, strategies):
    def make():
        @cs.task
        async def sleeper():
            await anyio.sleep(3600)

        return sleeper()

    cascade_agree(make, system_resources={"gpu": 1})
    assert strategies == ["graph", "vm"] * 2


def test_agree_finds_a_difference(cascade_agree):
    runs = iter(range(4))
    with pytest.raises(AssertionError, match="the outcomes differ"):
        cascade_agree(lambda: [next(runs)])
'''
PLAIN_TESTS = 4 + 2 + 1 + 1

ASYNC = """

{mark}
async def test_async(cascade_strategy):
    assert loop_of_the_moment() in {loops}
    value = await cs.run_async(nap(0), use_vm=cascade_strategy == "vm")
    assert value[0] == loop_of_the_moment()
"""

VIRTUAL = """

@pytest.fixture
def anyio_backend(cascade_backend):
    return cascade_backend, virtual_time(cascade_backend)


async def test_async_in_virtual_time(anyio_backend_name, cascade_backend, cascade_strategy):
    use_vm = cascade_strategy == "vm"
    assert anyio_backend_name == cascade_backend
    assert await cs.run_async(nap(3600), use_vm=use_vm) == (cascade_backend, 3600.0)
"""


def check(
    pytester: pytest.Pytester, source: str, passed: int, settings: str = "", *plugins: str
) -> None:
    """`source` passes in a project with these settings and plugins, and nothing warns."""
    pytester.makepyprojecttoml(f"[tool.pytest.ini_options]\nxfail_strict = true\n{settings}")
    pytester.makepyfile(source)
    without = [f"-pno:{name}" for name in ASYNC_PLUGINS if name not in plugins]
    options = ["-q", "-Werror", "--strict-config", "--strict-markers", "-pno:cacheprovider"]
    result = pytester.runpytest_subprocess(*options, *without)
    result.assert_outcomes(passed=passed)


def test_beside_anyio(pytester: pytest.Pytester) -> None:
    """anyio's plugin comes with Cascade; its tests are marked, and have its own backends."""
    marked = ASYNC.format(mark="@pytest.mark.anyio", loops=("asyncio", "trio"))
    check(pytester, PLAIN + marked, PLAIN_TESTS + 4)


def test_beside_anyio_in_auto_mode(pytester: pytest.Pytester) -> None:
    """Every async test is anyio's, and may be in virtual time on the backend of the moment."""
    marked = ASYNC.format(mark="", loops=("asyncio", "trio"))
    check(pytester, PLAIN + marked, PLAIN_TESTS + 4, 'anyio_mode = "auto"')


def test_async_tests_in_virtual_time(pytester: pytest.Pytester) -> None:
    """`anyio_backend` may be made of `cascade_backend`."""
    source = f"from cascade.testing import virtual_time\n{PLAIN}{VIRTUAL}"
    check(pytester, source, PLAIN_TESTS + 4, 'anyio_mode = "auto"')


@pytest.mark.parametrize("mode", ["strict", "auto"])
def test_beside_pytest_asyncio(pytester: pytest.Pytester, mode: str) -> None:
    """Its auto mode takes every async function for its own."""
    mark = "@pytest.mark.asyncio" if mode == "strict" else ""
    marked = ASYNC.format(mark=mark, loops=("asyncio",))
    settings = f'asyncio_mode = "{mode}"\nasyncio_default_fixture_loop_scope = "function"'
    check(pytester, PLAIN + marked, PLAIN_TESTS + 2, settings, "asyncio")


@pytest.mark.parametrize("mode", ["false", "true"])
def test_beside_pytest_trio(pytester: pytest.Pytester, mode: str) -> None:
    """Its trio mode takes every async function for its own."""
    mark = "@pytest.mark.trio" if mode == "false" else ""
    marked = ASYNC.format(mark=mark, loops=("trio",))
    check(pytester, PLAIN + marked, PLAIN_TESTS + 2, f'trio_mode = "{mode}"', "trio")


@pytest.mark.parametrize(("page", "passed"), [("testing", 4 + 2 + 1 + 4), ("agreement", 1)])
def test_the_tests_in_the_documentation(pytester: pytest.Pytester, page: str, passed: int) -> None:
    """The blocks of a page, taken together, are a file of tests that pass."""
    text = (ROOT / "docs" / "how-to" / f"{page}.md").read_text(encoding="utf-8")
    source = "\n\n".join(re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE))
    check(pytester, source, passed, 'anyio_mode = "auto"')


def test_in_an_async_test_run_says_what_to_write(pytester: pytest.Pytester) -> None:
    """`cascade_run` starts an event loop, as `cs.run` does."""
    source = """
import pytest


async def test_async(cascade_run):
    with pytest.raises(RuntimeError, match=r"await cs\\.run_async"):
        cascade_run(1)
"""
    check(pytester, source, 8, 'anyio_mode = "auto"')


def test_who_does_not_use_it_does_not_load_cascade(pytester: pytest.Pytester) -> None:
    """pytest loads the plugin in every project."""
    source = """
import sys


def test_nothing_is_loaded(request):
    assert request.config.pluginmanager.hasplugin("cascade")
    assert "cascade_pytest" in sys.modules
    assert not {name for name in sys.modules if name.split(".")[0] == "cascade"}
"""
    check(pytester, source, 1)


def test_agreement_is_that_of_the_testing_module(cascade_agree: object) -> None:
    """The fixture adds nothing."""
    assert cascade_agree is assert_strategies_agree


def test_the_plugin_imports_nothing_but_pytest() -> None:
    """Of what is not of the standard library."""
    program = (
        "import sys, pytest; before = set(sys.modules); import cascade_pytest;"
        "new = {name.split('.')[0] for name in set(sys.modules) - before};"
        "print(sorted(new - sys.stdlib_module_names - {'cascade_pytest'}))"
    )
    # In the root, where ./cascade and ./pytest_plugin are: -P keeps them off the path.
    done = subprocess.run(
        [sys.executable, "-P", "-c", program],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    new = [name for name in eval(done.stdout) if not name.startswith("__editable__")]
    assert new == []
