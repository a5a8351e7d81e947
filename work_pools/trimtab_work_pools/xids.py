"""What the driver's error codes (XIDs) ask for, by NVIDIA's own catalogue of them. Pure.

Source: https://docs.nvidia.com/deploy/xid-errors/analyzing-xid-catalog.html, column "Resolution Bucket (Immediate
Action)", as of driver R575: RESET_GPU, RESTART_BM, the workflows of ECC and NVLink, and what has to be mended by hand
are RESET; RESTART_APP is APPLICATION; IGNORE is NOTE. Two departures: 94 (a contained memory error) is no fault of the
program that met it, so it is kept apart; 43 and 45 follow the end of a program and say nothing by themselves.
"""

from __future__ import annotations

from enum import StrEnum

__all__ = ["XidClass", "class_of", "meaning"]


class XidClass(StrEnum):
    """What an XID asks for."""

    RESET = "reset"
    CONTAINED = "contained"
    APPLICATION = "application"
    NOTE = "note"
    UNKNOWN = "unknown"

    @property
    def harmless(self) -> bool:
        """The GPU may be used on. A code that nobody knows is held against it."""
        return self in (XidClass.APPLICATION, XidClass.NOTE)


_RESET = frozenset(
    {46, 48, 54, 62, 64, 74, 78, 79, 95, 109, 110, 119, 120, 136, 140, 142, 143, 151, 155, 156, 158, 167, 171, 172}
) | frozenset(range(144, 151))
_APPLICATION = (
    frozenset({8, 11, 13, 25, 31, 32, 39, 40, 41, 43, 45, 60, 68, 69, 70, 71, 72, 75, 76, 77, 80, 82, 83, 84, 85, 86})
    | frozenset({88, 89, 108, 137, 139})
    | frozenset(range(96, 106))
    | frozenset(range(126, 136))
)
_NOTE = frozenset(
    {14, 37, 38, 44, 63, 66, 67, 92, 93, 106, 107, 121, 141, 152, 153, 154, 157, 160, 161, 162, 163, 164, 165}
)
_MEANINGS = {
    13: "graphics engine exception",
    31: "GPU memory page fault",
    43: "GPU stopped processing",
    45: "preemptive clean-up",
    46: "GPU stopped processing",
    48: "double-bit ECC error",
    62: "micro-controller halt",
    63: "memory row remapped",
    64: "memory row could not be remapped",
    69: "graphics engine class error",
    74: "NVLink error",
    79: "GPU has fallen off the bus",
    94: "contained memory error",
    95: "uncontained memory error",
    109: "context switch time-out",
    110: "security fault",
    119: "GSP time-out",
    120: "GSP error",
    136: "NVLink training failed",
    140: "unrecovered ECC error",
    143: "GPU could not be initialised",
    158: "GPU fatal time-out",
    167: "PCIe fatal time-out",
    171: "uncorrectable DRAM error",
    172: "uncorrectable SRAM error",
} | dict.fromkeys(range(144, 151), "NVLink error")


def class_of(code: int) -> XidClass:
    """UNKNOWN for a code that the catalogue does not have, or calls unused."""
    if code == 94:
        return XidClass.CONTAINED
    for numbers, kind in ((_RESET, XidClass.RESET), (_APPLICATION, XidClass.APPLICATION), (_NOTE, XidClass.NOTE)):
        if code in numbers:
            return kind
    return XidClass.UNKNOWN


def meaning(code: int) -> str:
    """In words, of those that are met most; "" for others."""
    return _MEANINGS.get(code, "")
