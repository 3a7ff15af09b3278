"""Print what a node, an iteration and a run cost, beside the hand-written Python.

    python bench/run.py [--quick] [--backend asyncio|trio] [--vm] [only ...]
    python bench/run.py --vm aims

Microseconds, and the ratio to the yardstick; "checkpoints" is ours in units of one
`anyio.lowlevel.checkpoint()` on the same loop, a figure to compare machines by; "aim" is what the
virtual machine is to reach, and whether it did. `only` are parts
of the names of laws. Each `law_*.py` states its law in its first line.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence

import law_chain
import law_fan_out
import law_flat
import law_flow
import law_limits
import law_loop
import law_observed
import law_recovery
import law_stream
import law_tail_call
import law_whole_run
import memory
import progress
from harness import Backend, Case, Row, Setting, checkpoint_seconds, heading, line, measure

LAWS = (
    law_chain,
    law_fan_out,
    law_loop,
    law_observed,
    law_recovery,
    law_stream,
    law_tail_call,
    law_whole_run,
    law_flow,
    law_limits,
    law_flat,
)
BACKENDS: tuple[Backend, ...] = ("asyncio", "trio")


def cases(quick: bool, only: Sequence[str] = ()) -> list[Case]:
    """The cases whose law has one of the words of `only` in its name; without words, all.

    The word "aims" stands for those with an aim.
    """
    return [
        case
        for module in LAWS
        for case in module.cases(quick)
        if not only or any(word in case.law for word in only) or ("aims" in only and case.has_aim)
    ]


def rows(setting: Setting, only: Sequence[str] = ()) -> Iterator[Row]:
    """One row for each case, in one setting."""
    return measure(cases(setting.quick, only), setting)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="one small round of everything")
    parser.add_argument("--backend", choices=BACKENDS, help="one loop only")
    parser.add_argument("--vm", action="store_true", help="the virtual machine too")
    parser.add_argument("only", nargs="*", help="parts of the names of laws")
    options = parser.parse_args()
    backends = [options.backend] if options.backend else BACKENDS
    settings = [
        Setting(backend, use_vm, options.quick)
        for backend in backends
        for use_vm in ((False, True) if options.vm else (False,))
    ]
    for backend in backends:
        micros = checkpoint_seconds(backend) * 1e6
        print(f"anyio.lowlevel.checkpoint() on {backend}: {micros:.2f} us")
    print(heading())
    for setting in settings:
        for row in rows(setting, options.only):
            print(line(row), flush=True)
    if options.vm and not options.only:
        for backend in backends:
            for table in (memory, progress):
                for text in table.lines(backend, options.quick):
                    print(text, flush=True)


if __name__ == "__main__":
    main()
