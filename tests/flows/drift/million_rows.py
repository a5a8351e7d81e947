"""All signals of a million rows of twenty columns against as many: seconds of one core and the peak of the process.

Prints one JSON value. `python tests/flows/drift/million_rows.py`
"""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import numpy as np
import polars as pl

from trimtab_flows.drift.domain import domain_shift
from trimtab_flows.drift.estimated import calibrate, estimate
from trimtab_flows.drift.performance import interval
from trimtab_flows.drift.season import recount
from trimtab_flows.drift.signals import fit_reference, measure
from trimtab_flows.drift.streams import errors_of, watch
from trimtab_flows.metrics import auc

ROWS = 1_000_000


def wide(random: np.random.Generator) -> pl.DataFrame:
    return pl.DataFrame(
        {f"n{number}": random.normal(size=ROWS) for number in range(12)}
        | {f"d{number}": random.integers(0, 30, ROWS) for number in range(3)}
        | {f"c{number}": pl.Series(random.integers(0, 40, ROWS)).cast(pl.String) for number in range(5)}
    )


def main() -> None:
    random = np.random.default_rng(0)
    before, now = wide(random), wide(random)
    scores = random.random(ROWS)
    labels = (random.random(ROWS) < scores).astype(float)
    days = np.arange(ROWS) // 33_000
    began = time.process_time()
    reference = fit_reference(before, before.columns, scores)
    signals = measure(reference, now, scores)
    took = {"profile, psi, js, missing, unseen, gone": time.process_time() - began}
    for name, work in {
        "domain classifier": lambda: domain_shift(before, now, before.columns),
        "auc with interval": lambda: interval(labels, scores, auc, days),
        "estimated auc": lambda: estimate(calibrate(labels[:100_000], scores[:100_000]), scores, auc),
        "adwin": lambda: watch(errors_of(labels, scores)),
    }.items():
        start = time.process_time()
        work()
        took[name] = time.process_time() - start
    all_s = time.process_time() - began
    # Not ru_maxrss: that is kept from the process which started this one.
    peak_mib = int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) // 1024
    recounted = recount(reference, now).profiles[0].rows
    facts = {"signals": len(signals), "recounted_rows": recounted, "all_s": round(all_s, 2), "peak_mib": peak_mib}
    print(json.dumps(facts | {"seconds": {name: round(seconds, 2) for name, seconds in took.items()}}))


if __name__ == "__main__":
    main()
