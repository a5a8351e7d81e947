"""The toy recipe, with a secret of its own that its source asks for."""

from __future__ import annotations

import os
from collections.abc import Mapping

import polars as pl

from toy_recipe import Toy
from trimtab_flows.windows import Window


class Guarded(Toy):
    name = "guarded"

    def load(self, window: Window) -> Mapping[str, pl.DataFrame]:
        if not os.environ["PLANTED_TOKEN"]:
            raise PermissionError("the source wants a token")
        return super().load(window)


guarded = Guarded()
