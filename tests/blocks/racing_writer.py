"""One of several processes that write the same keys: ``python racing_writer.py NAME KEYS``.

Reads a line with a store as JSON, {"S3Store": {...}}, says ``ready``, waits for another line, writes, and prints the
keys that it won. The store may hold a secret, so it is no argument.
"""

from __future__ import annotations

import json
import sys

from trimtab_blocks import DirectoryStore, S3Store

name, count = sys.argv[1:]
((kind, settings),) = json.loads(sys.stdin.readline()).items()
store = {"S3Store": S3Store, "DirectoryStore": DirectoryStore}[kind](**settings)
print("ready", flush=True)
sys.stdin.readline()
print(json.dumps([key for key in range(int(count)) if store.write_once(f"race/{key}", name.encode() * 5_000)]))
