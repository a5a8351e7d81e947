"""What a host has: its GPUs as NVML tells them, its CPUs, memory and disk, and whether each GPU may be used."""

from trimtab_work_pools.inventory.fake import FakeReader
from trimtab_work_pools.inventory.health import Fault, Health, Limits, Process, Xid
from trimtab_work_pools.inventory.reader import DeviceReader, NodeReader, Reader, open_reader
from trimtab_work_pools.inventory.reading import Devices, GpuReading, Host, HostReading, MigSlice, Topology, node_of

__all__ = [
    "DeviceReader",
    "Devices",
    "FakeReader",
    "Fault",
    "GpuReading",
    "Health",
    "Host",
    "HostReading",
    "Limits",
    "MigSlice",
    "NodeReader",
    "Process",
    "Reader",
    "Topology",
    "Xid",
    "node_of",
    "open_reader",
]
