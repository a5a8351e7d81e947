"""One of several processes that read through one cache: ``python cache_user.py STORE CACHE LIMIT SEED READS``.

Prints ``ready``, waits for a line, reads, and looks at each file when it gets it and again before it gives it back.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

from trimtab_blocks.cache import CachedStore
from trimtab_blocks.stores import DirectoryStore

where, cache, limit, seed, reads = sys.argv[1:]
store = CachedStore(DirectoryStore(path=Path(where)), Path(cache), int(limit))
pick = random.Random(int(seed))
keys = sorted(store.keys())
most = 0
print("ready", flush=True)
sys.stdin.readline()
for _ in range(int(reads)):
    key = pick.choice(keys)
    with store.local(key) as path:
        first = path.read_bytes()
        most = max(most, store.used_bytes())
        assert first == path.read_bytes(), "changed while it was held"
    assert first == key.encode() * (len(first) // len(key)), f"{key} holds something else"
    assert first, f"{key} is empty"
print(json.dumps({"most": most}))
