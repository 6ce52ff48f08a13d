"""python -m tests.sim: run seeds by hand, and print what happens in one.

python -m tests.sim --seed 17 -v      one seed, every event
python -m tests.sim --from 0 --count 500
"""

from __future__ import annotations

import argparse
import logging
import sys
import time

from tests.sim.run import run_seed


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description="Deterministic simulation of a KeelFS cluster.")
    parser.add_argument("--seed", type=int, help="run this one")
    parser.add_argument("--from", type=int, default=0, dest="first", help="the first of many")
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("-v", "--verbose", action="store_true", help="print every event")
    parser.add_argument("--stop", action="store_true", help="at the first failure")
    options = parser.parse_args()
    seeds = [options.seed] if options.seed is not None else range(options.first, options.first + options.count)
    logging.disable()  # nodes warn of disks that are full, as they should
    failed = 0
    started = time.perf_counter()
    for seed in seeds:
        outcome = run_seed(seed, verbose=options.verbose)
        if options.verbose:
            print("\n".join(outcome.trace))
        if outcome.failure:
            failed += 1
            print(outcome.report(), end="\n\n")
            if options.stop:
                break
        elif len(seeds) == 1:
            print(f"seed {seed}: {outcome.entries} entries, {outcome.answers} answers, trace {outcome.trace_hash}")
    print(f"{len(seeds)} seeds, {failed} failed, {time.perf_counter() - started:.1f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
