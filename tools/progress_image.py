"""Draw docs/images/progress.svg: the progress of a run, six seconds after its start.

    python tools/progress_image.py [PATH]

PATH stands in place of that file, for a test that compares the two.
The run is a real one in virtual time, so the picture is the same every time.
"""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path
from typing import Any

import anyio
from rich.console import Console

import cascade as cs
from cascade.core.activity import Activity
from cascade.live.display import picture
from cascade.live.readings import Reader
from cascade.testing import virtual_time

IMAGE = Path(__file__).resolve().parent.parent / "docs" / "images" / "progress.svg"
MOMENT = 6.0  # seconds


@cs.task
async def fetch(page: int, tried: set[int]) -> int:
    await anyio.sleep(0.3 + page % 7 / 10)
    if page % 9 == 4 and page not in tried:
        tried.add(page)
        raise ConnectionError("reset")
    return page


@cs.task
async def parse(page: int) -> int:
    await anyio.sleep(0.4)
    return page


@cs.task
async def train(step: int) -> Any:
    await anyio.sleep(0.007)
    return cs.Jump("again", step + 1)


@cs.task
def report(pages: list[int], trained: int) -> int:
    return len(pages)


async def draw(path: Path) -> None:
    tried: set[int] = set()
    pages = fetch.map(page=range(60), tried=[tried] * 60).with_retry(3, delay=2)
    node = train(0)
    trained = cs.bind(node, cs.select_jump({"again": node}))
    target = report([pages.with_constraints(connections=1), parse.map(page=range(12))], trained)
    found: list[Activity] = []
    engine = cs.Engine(system_resources={"connections": 6})
    engine.on_run = found.append
    engine.constraints.limit_rate("task:fetch", "6/s", burst=4)
    console = Console(record=True, width=84, height=24, file=io.StringIO(), force_terminal=True)
    async with anyio.create_task_group() as group:
        group.start_soon(engine.run, target)
        while not found:
            await anyio.lowlevel.checkpoint()
        reader = Reader(found[0])
        while anyio.current_time() < MOMENT:
            reading = reader.read(anyio.current_time())
            await anyio.sleep(0.25)
        console.print(picture([reading], console))
        group.cancel_scope.cancel()
    image = console.export_svg(title="python report.py")
    # Without the fonts of another site: whoever shows the image has one of their own.
    path.write_text(re.sub(r"@font-face \{.*?\}\s*", "", image, flags=re.S), encoding="utf-8")


path = Path(sys.argv[1]) if sys.argv[1:] else IMAGE
anyio.run(draw, path, backend_options=virtual_time("asyncio"))
