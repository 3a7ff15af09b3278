"""The module that a program was started as, `__main__`: how a worker process finds and loads it.

`multiprocessing` loads it in every worker. Here a worker loads it once a task needs something that
it defines: what a program does without the `__main__` guard is not done again for tasks of other
modules, and those run from a notebook or a REPL, too, where there is no file to load.
"""

from __future__ import annotations

import os
import runpy
import sys
from dataclasses import dataclass
from types import ModuleType
from typing import Final

NAMES: Final = ("__main__", "__mp_main__")  # the second one in a worker, as in multiprocessing
GUARD: Final = 'if __name__ == "__main__":'
NOT_IN_A_FILE: Final = (
    "it is defined in a notebook, a REPL, `python -c` or standard input, which a worker process "
    "cannot load: move it into a module (a file that the program imports), "
    "or pip install 'cascade-vm[notebook]'"
)


@dataclass(frozen=True, slots=True)
class MainModule:
    """By its name, if `python -m` started it, or by its file; by neither, if it has none."""

    name: str | None
    path: str | None

    @property
    def is_loadable(self) -> bool:
        return self.name is not None or self.path is not None


_given: MainModule | None = None  # in a worker: that of the program, not the worker's own
_is_loaded = False
_is_loading = False


def main_module() -> MainModule:
    """The main module of this program; in a worker, of the program that it works for."""
    if _given is not None:
        return _given
    main = sys.modules["__main__"]
    name = getattr(getattr(main, "__spec__", None), "name", None)
    path = getattr(main, "__file__", None)
    if name is not None and name != "__main__":
        return MainModule(name, None)
    if path is not None and name == "__main__":  # a folder or a zip file that holds __main__.py
        return MainModule(None, os.path.abspath(os.path.dirname(path)))
    if path is not None and os.path.isfile(path):
        return MainModule(None, os.path.abspath(path))
    return MainModule(None, None)


def work_for(main: MainModule) -> None:
    """In a worker: the program has this main module."""
    global _given
    _given = main


def load() -> None:
    """In a worker: have the program's main module as `__main__`, executed once.

    Raises `RuntimeError`, with the remedy, if there is none or if it fails.
    """
    global _is_loaded, _is_loading
    if _is_loaded or _is_loading or _given is None:
        return
    if not _given.is_loadable:
        raise RuntimeError(f"the main module of the program is not in a file: {NOT_IN_A_FILE}")
    _is_loading = True
    try:
        content = _executed(_given)
    except BaseException as error:  # SystemExit, too: it is no reason for the worker to end
        remedy = "" if GUARD in str(error) else f"; only what stands below `{GUARD}` is left out"
        raise RuntimeError(
            f"a worker process could not load {_given.name or _given.path!r}, which defines the "
            f"task or its data: {type(error).__name__}: {error}{remedy}"
        ) from error
    finally:
        _is_loading = False
    main = ModuleType("__mp_main__")
    main.__dict__.update(content)
    sys.modules["__main__"] = sys.modules["__mp_main__"] = main
    _is_loaded = True


def _executed(main: MainModule) -> dict[str, object]:
    if main.name is not None:
        return runpy.run_module(main.name, run_name="__mp_main__", alter_sys=True)
    assert main.path is not None
    return runpy.run_path(main.path, run_name="__mp_main__")


def refuse_while_loading() -> None:
    """Raise `RuntimeError` where a program without the guard would start itself in its worker."""
    if _is_loading and _given is not None:
        raise RuntimeError(
            f"a worker process that loads {_given.name or _given.path!r} was to start worker "
            f"processes itself; put what the program does below `{GUARD}`"
        )
