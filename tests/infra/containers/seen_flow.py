"""A flow that writes down what it finds in its image."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from prefect import flow
from prefect.runtime import flow_run


@flow
def seen(folder: str) -> None:
    """Trains on a few rows, and says who it is and what it can write to."""
    import lightgbm
    import numpy as np

    import trimtab_flows.lifecycle  # noqa: F401 - with all that it needs

    rows = np.random.default_rng(1).normal(size=(200, 3))
    model = lightgbm.LGBMClassifier(n_estimators=5, verbose=-1).fit(rows, rows[:, 0] > 0)
    found = {
        "uid": os.getuid(),
        "python": sys.executable,
        "accuracy": float(model.score(rows, rows[:, 0] > 0)),
        "modules": sorted({name.partition(".")[0] for name in sys.modules} & {"pip", "pytest", "setuptools"}),
        "writable": [path for path in ("/opt/trimtab", "/usr/local/bin", "/work", "/tmp") if os.access(path, os.W_OK)],
        "gpus": os.environ.get("CUDA_VISIBLE_DEVICES"),
        "claim": "TRIMTAB_CLAIM" in os.environ,
    }
    Path(folder, f"{flow_run.get_id()}.json").write_text(json.dumps(found))
