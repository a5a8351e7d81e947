import os, sys
from pathlib import Path
import prefect

os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
prefect.__development_base_path__ = Path(os.environ["TRIMTAB_PREFECT_SOURCE"])
import anyio, types
import prefect.testing.fixtures as f


class Patient(types.ModuleType):
    def __getattr__(self, n):
        return getattr(anyio, n)


p = Patient("anyio")
p.move_on_after = lambda s, **k: anyio.move_on_after(max(s, 90.0), **k)
f.anyio = p
