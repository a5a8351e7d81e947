"""Decides why a run ended badly, and what is done next. Pure.

`causes`: the kinds, and the step after each. `rules`, `retold`: the words of errors. `log`: reads what a program wrote.
`evidence`: finds what ended it. `ending`: the verdict on a run of a worker.
"""

from trimtab_work_pools.diagnosis.causes import ADVICE, NEXT, SAID, Cause, Confidence, Step
from trimtab_work_pools.diagnosis.ending import Diagnosis, Ended, Largest, Peak, diagnose, found_in, lost_host
from trimtab_work_pools.diagnosis.evidence import Finding, of_end, of_log

__all__ = [
    "ADVICE",
    "NEXT",
    "SAID",
    "Cause",
    "Confidence",
    "Diagnosis",
    "Ended",
    "Finding",
    "Largest",
    "Peak",
    "Step",
    "diagnose",
    "found_in",
    "lost_host",
    "of_end",
    "of_log",
]
