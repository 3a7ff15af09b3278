"""`python -P tests/differential 1000000 --seed 0 --processes 2`: many programs, by their seeds.

Prints a line for every divergence, with its seed and the smallest program found that diverges so,
and what was covered.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pprint import pformat

from comparing import BATCH, Coverage, cover, divergence, runs
from programs import Program
from shrinking import shrunk

CHUNK = 500


def chunk(seeds: Sequence[int], flavour: str | None, put_off: bool) -> Coverage:
    logging.disable(logging.CRITICAL)  # of failing tear-downs and caches, which are meant to fail
    return cover(seeds, flavour, put_off=put_off)


def report(seed: int, found: str, flavour: str | None) -> None:
    def diverges(program: Program) -> bool:
        other = divergence(program, runs([program])[0])
        return other is not None and other.split(" ")[0] == found.split(" ")[0]

    print(f"\nDIVERGENCE, seed {seed}: {found}", flush=True)
    small = shrunk(seed, flavour, diverges)
    again = divergence(small, runs([small])[0])
    print(f"smallest:\n{pformat(small, width=120)}\n{again}", flush=True)


def summary(coverage: Coverage, seconds: float) -> str:
    pairs = coverage.missing_pairs
    return "\n".join(
        [
            f"{coverage.programs} programs, {coverage.discards} discards, {seconds:.0f} s, "
            f"{len(coverage.divergences)} divergences, {coverage.fused} with fused code, "
            f"{coverage.tolerated} with other failures at one instant",
            f"outcomes: {dict(coverage.outcomes.most_common())}",
            f"instructions: {dict(coverage.instructions.most_common())}",
            f"instructions missing: {sorted(coverage.missing_instructions)}",
            f"constructs: {dict(coverage.constructs.most_common())}",
            f"constructs missing: {sorted(coverage.missing_constructs)}",
            f"pairs: {len(coverage.pairs)}; missing {len(pairs)}: {sorted(pairs)}",
        ]
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="differential")
    parser.add_argument("programs", type=int, nargs="?", default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--flavour")
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    whole, began = Coverage(), time.monotonic()
    stop = options.seed + options.programs
    put_off = options.flavour != "process"
    left: list[int] = []
    with ProcessPoolExecutor(options.processes) as pool:
        chunks = [
            pool.submit(chunk, range(start, min(start + CHUNK, stop)), options.flavour, put_off)
            for start in range(options.seed, stop, CHUNK)
        ]
        for number, each in enumerate(chunks, 1):  # grows by what is put off
            found = each.result()
            whole.merge(found)
            left += found.put_off
            if len(left) >= BATCH or (left and number == len(chunks)):
                chunks.append(pool.submit(chunk, left, options.flavour, False))
                left = []
            for seed, text in found.divergences:
                report(seed, text, options.flavour)
            if not number % 10:
                rate = whole.programs / (time.monotonic() - began)
                print(
                    f"{whole.programs} programs from seed {options.seed}, {rate:.0f}/s, "
                    f"{len(whole.divergences)} divergences",
                    flush=True,
                )
    print(f"\nseeds {options.seed} to {stop - 1}")
    print(summary(whole, time.monotonic() - began))
    return 1 if whole.divergences else 0


if __name__ == "__main__":
    sys.exit(main())
