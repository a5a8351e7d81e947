"""One of several processes that write the same keys: ``python racing_writer.py DIRECTORY NAME KEYS``.

Says ``ready``, waits for a line, writes, and prints the keys that it won.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from trimtab_blocks.stores import DirectoryStore

directory, name, count = sys.argv[1:]
store = DirectoryStore(path=Path(directory))
print("ready", flush=True)
sys.stdin.readline()
print(json.dumps([key for key in range(int(count)) if store.write_once(f"race/{key}", name.encode() * 5_000)]))
