"""Talking with a process that a test started, line by line."""

from __future__ import annotations

import subprocess


def await_line(process: subprocess.Popen[str], text: str) -> None:
    """Until the process says this. What libraries say before it does not count."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.rstrip() == text:
            return
    raise AssertionError(f"the process ended without saying {text!r}")


def say(process: subprocess.Popen[str], text: str) -> None:
    """Give the process a line."""
    assert process.stdin is not None
    process.stdin.write(f"{text}\n")
    process.stdin.flush()
