"""What a flow does with an S3 store that was saved as a block: ``python flow_on_s3.py``, settings on standard input.

Prints, as JSON, which store it was given, what it read back, and the lineage of it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import polars as pl
from prefect import flow, get_run_logger
from prefect.events import emit_event

from trimtab_blocks import DirectoryStore, S3Store
from trimtab_flows import runtime
from trimtab_flows.manifest import collect, save
from trimtab_flows.snapshots.lineage import Edge

S3Store(**json.loads(sys.stdin.readline())).save("default")
DirectoryStore(path=Path("not-this-one")).save("default")


@flow
def use(store: str) -> dict[str, object]:
    """Data, lineage, a manifest, a line in the log and an event: all that a run leaves behind."""
    table = pl.DataFrame({"a": [1, 2, None], "b": ["x", "y", "z"]})
    library = runtime.library()
    first, second = library.put(table), library.put(table.reverse())
    runtime.lineage().record(Edge(second.digest, (first.digest,), "build", "flights", "2013-01"))
    manifest = collect(
        stage="train",
        recipe="trimtab_flows.recipes.flights:flights",
        parameters={"store": repr(runtime.store())},
        seed=0,
        inputs={"features": (first.digest,)},
    )
    save(manifest, runtime.store())
    get_run_logger().info("%r holds %s", runtime.store(), first.digest)
    emit_event("trimtab.tests.used", {"prefect.resource.id": "trimtab.tests"}, payload={"store": repr(runtime.store())})
    return {
        "store": str(runtime.store()),
        "same": library.get(first.digest).equals(table) and library.get(second.digest).equals(table.reverse()),
        "digests": [first.digest, second.digest],
        "found": list(library.digests()),
        "came from": list(runtime.lineage().ancestors(second.digest).nodes),
    }


print(json.dumps(use(str(runtime.store()))))
