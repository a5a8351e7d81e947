"""Reads a policy from a file: JSON, TOML or YAML, by its suffix."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from trimtab_flows.drift.policy import Policy
from trimtab_flows.drift.values import InvalidPolicy

__all__ = ["parse_policy", "read_policy"]

FORMS = {".json": "json", ".toml": "toml", ".yaml": "yaml", ".yml": "yaml"}


def read_policy(path: str | Path) -> Policy:
    """The policy in a file.

    Raises:
        InvalidPolicy: it cannot be read, or holds no policy; the message names the file, and the field if it is one.
    """
    file = Path(path)
    form = FORMS.get(file.suffix.lower())
    if form is None:
        raise InvalidPolicy(f"policy {file}: the name must end in one of {', '.join(FORMS)}")
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InvalidPolicy(f"policy {file}: there is no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidPolicy(f"policy {file}: it cannot be read: {error}") from None
    try:
        return parse_policy(text, form)
    except InvalidPolicy as error:
        raise InvalidPolicy(f"{file}: {error}") from None


def parse_policy(text: str, form: str) -> Policy:
    """The policy in a text; ``form`` is ``json``, ``toml`` or ``yaml``.

    Raises:
        InvalidPolicy: the text holds none; the message names the field if it is one.
    """
    try:
        found: Any = {"json": json.loads, "toml": tomllib.loads, "yaml": yaml.safe_load}[form](text)
    except (ValueError, yaml.YAMLError) as error:
        raise InvalidPolicy(f"this is no policy in {form.upper()}: {error}") from None
    if found is None:
        found = {}
    if not isinstance(found, Mapping):
        raise InvalidPolicy(f"this is no policy: it is a {type(found).__name__}, not fields by name")
    if not all(isinstance(name, str) for name in found):
        raise InvalidPolicy("this is no policy: a field's name is no text")
    return Policy.from_mapping(found)
