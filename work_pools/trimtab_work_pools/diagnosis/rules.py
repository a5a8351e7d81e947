"""The words of errors, by what they mean: tables of patterns, the more special first. Pure.

To add a text: put it into tests/cases/diagnosis/ with the right answer, then a pattern here, under its cause. A pattern
has to fit the words of an error, and no sentence about one. Nothing fits both `GPU_MEMORY` and `HOST_MEMORY` that does
not say which memory it was: what stays open is no evidence.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

from trimtab_work_pools.diagnosis.causes import Cause, Confidence
from trimtab_work_pools.xids import XidClass, class_of

__all__ = ["Match", "match"]

_HIGH, _MEDIUM, _LOW = Confidence.HIGH, Confidence.MEDIUM, Confidence.LOW
_DEVICE = r"\b(?:cuda|hip|gpu|rocm|xla|mps|xpu|npu|tpu|metal|hbm|vram|nccl|cumem|device)\w*"


@dataclass(frozen=True, slots=True)
class _Rule:
    cause: Cause
    pattern: re.Pattern[str]
    confidence: Confidence = _HIGH


@dataclass(frozen=True, slots=True)
class Match:
    """`start` is where in the text the evidence begins."""

    cause: Cause
    confidence: Confidence
    start: int


def _rules(cause: Cause, patterns: Iterable[str], confidence: Confidence = _HIGH) -> list[_Rule]:
    return [_Rule(cause, re.compile(pattern, re.IGNORECASE), confidence) for pattern in patterns]


_NOT_MEMORY = [
    # Shared memory of a multiprocessor, registers: not the memory of the GPU.
    *_rules(
        Cause.KERNEL_TOO_LARGE,
        [
            r"out of resources?: (?:shared memory|registers|threads|tensor memory)",
            r"triton\.\S*OutOfResources",
            r"too many resources requested for launch|CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES|cudaErrorLaunchOutOfResources",
            r"uses too much shared data",
        ],
    ),
    *_rules(
        Cause.UNSUPPORTED_GPU,
        [
            r"no kernel image is available|cudaErrorNoKernelImageForDevice|CUDA_ERROR_NO_BINARY_FOR_GPU",
            r"device kernel image is invalid|CUDA_ERROR_INVALID_IMAGE|hipErrorNoBinaryForGpu",
            r"Value 'sm_\d+\w*' is not defined for option 'gpu-name'",
        ],
    ),
    *_rules(
        Cause.DRIVER_MISMATCH,
        [
            r"driver version is insufficient|cudaErrorInsufficientDriver|CUDA_ERROR_INSUFFICIENT_DRIVER",
            r"NVIDIA driver on your system is too old",
            r"forward compatibility was attempted on non supported HW|CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE",
            r"driver/library version mismatch|CUDA_ERROR_SYSTEM_DRIVER_MISMATCH|unsupported display driver",
            r"API mismatch: the (?:client|NVIDIA kernel module)",
            r"PTX was compiled with an unsupported toolchain|CUDA_ERROR_UNSUPPORTED_PTX_VERSION",
            r"unsatisfied condition: (?:cuda|driver) *>",
        ],
    ),
    *_rules(Cause.TOO_MANY_FILES, [r"too many open files", r"\[Errno (?:24|23)\]", r"\bE[MN]FILE\b"]),
]
_LOST_DEVICE = [
    *_rules(
        Cause.LOST_DEVICE,
        [
            r"fallen off the bus",
            r"GPU (?:is|has been) lost|NVMLError_GpuIsLost|NVML_ERROR_GPU_IS_LOST|DeviceLost\b",
            r"(?<!no )(?<!\b0 )uncorrectable (?:ECC|NVLink|memory|DRAM|SRAM|GPU|error)|(?:ECC|NVLINK)_?UNCORRECTABLE",
            r"double[- ]bit ECC|UNCONTAINED_ERROR|uncontained (?:ECC|memory) error",
            r"\bNVLink\b[^\n]{0,40}\b(?:fatal|uncorrectable|link (?:is )?down|training failed|errors?\b(?!\W*0\b))",
            r"\bSXid\b[^\n]*(?<!Non-)\bfatal",
            r"timeout waiting for RPC from GSP",
            r"RmInitAdapter failed|GPU requires reset|NVML_ERROR_RESET_REQUIRED",
            r"CUDA error: (?:device|hardware) (?:lost|stack error)|cudaErrorHardwareStackError|HARDWARE_STACK_ERROR",
            r"reason ?: ?GPU Hang|GPU reset begin|HIP error: .*device lost",
        ],
    ),
    *_rules(
        Cause.LOST_DEVICE,
        [
            r"CUDA unknown error - this may be due to an incorrectly set up environment",
            r"CUDA (?:runtime |driver )?error[^\n]{0,20}: unknown error|CUDA_ERROR_UNKNOWN|cudaErrorUnknown",
            r"CUDA-capable device\(?s?\)? (?:is/are|are|is) busy or unavailable|cudaErrorDevicesUnavailable",
            r"no CUDA-capable device is detected|cudaErrorNoDevice|CUDA_ERROR_NO_DEVICE",
            r"unable to determine the device handle for (?:GPU|gpu)[^\n]*unknown error",
            r"failed to initialize NVML: unknown error",
            r"unspecified launch failure|CUDA_ERROR_LAUNCH_FAILED|cudaErrorLaunchFailure",
        ],
        _MEDIUM,
    ),
]
_GPU_MEMORY = [
    *_rules(
        Cause.GPU_MEMORY,
        [
            _DEVICE + r"[^\n]{0,160}?\b(?:(?:ran |run )?out of (?:gpu |device |video )?memory|OOM\b)",
            r"\bout of memory\b[^\n]{0,160}?(?:\bon (?:device|gpu)|device ordinal|\bGPU \d|\bhbm\b|\.cuh?\b|cuda)",
            r"\btorch(?:\.cuda)?\.OutOfMemoryError|cupy[\w.]*\.OutOfMemoryError|TOutOfMemoryError",
            r"out of memory (?:to allocate|allocating|(?:while|when) trying to allocate) [\d,.]+ ?\w*bytes",
            r"cudaErrorMemoryAllocation|CUDA_ERROR_OUT_OF_MEMORY|hipErrorOutOfMemory|HIP_ERROR_OUT_OF_MEMORY",
            (
                r"OUT_OF_DEVICE_MEMORY|OutOfDeviceMemory|CL_MEM_OBJECT_ALLOCATION_FAILURE"
                r"|kIOGPUCommandBufferCallbackErrorOutOfMemory"
            ),
            r"\bCU[A-Z]+_(?:STATUS_)?ALLOC(?:ATION)?_FAILED|\b(?:HIPBLAS|ROCBLAS|MIOPEN)_STATUS_ALLOC_FAILED",
            r"CU(?:SPARSE|SOLVER)_STATUS_INSUFFICIENT_RESOURCES",
            r"\berror out of memory at line \d+ in file",
            (
                r"RESOURCE_EXHAUSTED[^\n]*?(?:out of memory|(?:failed"
                r"|attempting) to (?:allocate|reserve)|ran out of memory)"
            ),
            r"Failed to allocate request for [\d.]+\w+",
            (
                r"failed to allocate [^\n]{0,60}\b(?:on device ordinal|from device"
                r"|gpu memory|device memory|on (?:the )?GPU)"
            ),
            (
                r"(?:cannot|could not|can't|unable to) allocate [^\n]{0,60}\b(?:gpu memory"
                r"|device memory|cuda|on (?:the )?GPU)"
            ),
            r"\bRMM\b[^\n]*(?:bad_alloc|out_of_memory|pool size exceeded)|RMM_ERROR_OUT_OF_MEMORY",
            r"bad_alloc[^\n]*(?:\bRMM\b|\brmm\b|cuda)|maximum pool size exceeded",
            r"amount of GPU memory \([^)]*\) could not be allocated",
            # vLLM, SGLang, TGI, accelerate: the cache or the weights do not fit.
            r"failed to cuda [cm]alloc|\bcudaMalloc\w* failed",
            r"no available memory for the cache blocks",
            r"larger than the (?:maximum number of tokens that can be stored in|available) KV cache",
            r"KV cache is needed, which is larger than the available",
            r"free memory on device [^\n]* is less than desired GPU memory utili[sz]ation",
            r"not enough memory\. please try to increase --mem-fraction-static",
            r"not enough memory to handle \d+ (?:prefill|total) tokens",
            r"enough GPU RAM to fit|(?:insufficient|not enough) (?:gpu|vram|video|device) (?:memory|ram)",
        ],
    ),
    *_rules(
        Cause.GPU_MEMORY,
        [
            (
                r"Resource_?\s?Exhausted_?(?:Error)?\b.{0,600}?(?:OOM when allocating"
                r"|failed to allocate memory|out of memory)"
            ),
            r"OOM when allocating tensor",
            r"dst tensor is not copied",
            r"CUBLAS_STATUS_NOT_INITIALIZED[^\n]*(?:allocation|alloc) fail",
            r"Error Code 2: OutOfMemory",
        ],
        _MEDIUM,
    ),
    *_rules(Cause.GPU_MEMORY, [r"CUBLAS_STATUS_NOT_INITIALIZED when calling `?cublasCreate"], _LOW),
]
_ON_THE_CPU = _rules(
    Cause.HOST_MEMORY,
    [
        r"OOM when allocating tensor[^\n]*(?:device:CPU|allocator (?:mkl)?_?cpu)",
        (
            r"DefaultCPUAllocator: (?:not enough|can't allocate"
            r"|cannot allocate) memory|not enough memory: you tried to allocate"
        ),
        r"java\.lang\.OutOfMemoryError|GC overhead limit exceeded|JavaScript heap out of memory",
        r"ray\.exceptions\.OutOfMemoryError|due to the node running low on memory",
        r"requires more system memory",
    ],
)
_HOST_MEMORY = [
    *_rules(
        Cause.HOST_MEMORY,
        [
            r"(?<!outof)(?<!gpu)(?<!cuda)MemoryError\b",
            r"unable to allocate [\d.]+ ?[KMGTP]?i?B (?:for an array|for array)",
            r"std::bad_alloc|\bbad allocation\b",
            r"(?:cannot|can't|could not|unable to) allocate (?:memory|vector of size)|\bENOMEM\b|\[Errno 12\]",
            (
                r"memory allocation of \d+ bytes failed|(?:malloc|realloc"
                r"|calloc) of size \d+ failed|runtime: out of memory"
            ),
            (
                r"Error tokenizing data\. C error: out of memory|failed to (?:m"
                r"|re|c)alloc\b|\b(?:m|re|c)alloc\(?\)? failed"
            ),
            r"\bout of memory error: (?:failed|could not) |duckdb\.\S*OutOfMemoryException",
            # The kernel, and what runs on top of it.
            r"\bOOMKilled\b|\boom[-_ ]kill(?:er|ed)?\b|\bkilled process \d+ \(|memory cgroup out of memory",
            r"cgroup out-of-memory handler|killed as a result of limit of",
            (
                r"killed by \S+ for exceeding (?:physical |virtual )?memory limits"
                r"|running beyond (?:physical|virtual) memory"
            ),
            r"exceeded (?:job|step) memory limit|exceeded \d+% memory budget|State: OUT_OF_MEMORY",
        ],
    ),
    *_rules(
        Cause.HOST_MEMORY,
        [
            # A signal that hardly anybody but the kernel sends to a child.
            (
                r"terminated abruptly[^\n]*SIGKILL|was sent SIGKILL|killed by signal: Killed|\{SIGKILL\(-9\)\}"
                r"|terminated with signal SIGKILL|died with <Signals\.SIGKILL"
            ),
            r"excessive memory usage[^\n]*SIGKILL",
            r"^(?:\S*: line \d+: *)?(?:\d+ )?Killed\b(?! process| by)[^:]*$|^make: \*\*\* .*\bError 137\b",
            # /dev/shm is memory too, and grows with what a container of ours is given.
            r"\bbus error\b[^\n]*(?:\bshm\b|shared memory)|(?:\bshm\b|shared memory)[^\n]*\bbus error\b",
            r"killed by signal: Bus error|unexpected bus error encountered in worker|out of shared memory\b",
            r"No space left on device[^\n]*/dev/shm|/dev/shm[^\n]*No space left on device",
            (
                r"unable to (?:write to|mmap|resize"
                r"|allocate shared memory)[^\n]*</torch_[^\n]*(?:No space left|Cannot allocate)"
            ),
            r"Error while creating shared memory segment",
        ],
        _MEDIUM,
    ),
    *_rules(
        Cause.HOST_MEMORY,
        [
            (
                r"\bexit(?:ed)?(?: with)?(?: (?:exit|status|code))*[: ]*\(?(?:-9"
                r"|137)\b|\bexitcode ?: -9\b|\bsignal 9\b"
            ),
        ],
        _LOW,
    ),
]
_OTHERS = [
    *_rules(
        Cause.PROGRAM_FAULT,
        [
            r"illegal memory access|cudaErrorIllegalAddress|CUDA_ERROR_ILLEGAL_ADDRESS|Memory access fault by GPU",
            r"device-side assert triggered|cudaErrorAssert\b|CUDA_ERROR_ASSERT\b",
            r"misaligned address|CUDA_ERROR_MISALIGNED_ADDRESS",
        ],
        _MEDIUM,
    ),
    *_rules(Cause.QUOTA, [r"disk quota exceeded|\[Errno 122\]|\bEDQUOT\b"]),
    *_rules(
        Cause.DISK_FULL,
        [
            (
                r"no space left on device|\[Errno 28\](?![^\n]*inotify)|\bENOSPC\b"
                r"|database or disk is full|\bdisk (?:is )?full\b"
            ),
            r"not enough (?:free )?disk space|not enough space on the disk",
        ],
    ),
    *_rules(
        Cause.NOT_AUTHORISED,
        [
            r"\b40[13] (?:Client Error|Unauthorized|Forbidden)|\b(?:Client error|status code|HTTP)\D{0,12}40[13]\b",
            r"password authentication failed|authentication failed|\(AccessDenied\)|\bAccess Denied\b",
            r"InvalidAccessKeyId|SignatureDoesNotMatch|ExpiredToken|NoCredentialsError|unable to locate credentials",
            r"GatedRepoError|invalid api[- ]key|incorrect api key|token (?:has |is )?expired",
        ],
    ),
    *_rules(
        Cause.UNREACHABLE,
        [
            r"name or service not known|failure in name resolution|nodename nor servname|getaddrinfo failed",
            r"could not resolve host|no address associated with hostname|NameResolutionError|\bno such host\b",
            r"connection refused|ConnectionRefusedError|network is unreachable|no route to host",
            r"connect(?:ion)?[ _]?time?d? ?out\b|ConnectTimeout|max retries exceeded with url",
            r"httpx\.(?:ConnectError|ReadTimeout)|EndpointConnectionError|could not connect to (?:server|the endpoint)",
            r"\b50[234] (?:Server Error|Bad Gateway|Service Unavailable|Gateway Time-?out)",
        ],
        _MEDIUM,
    ),
    *_rules(
        Cause.BAD_DATA,
        [r"\bContractRefused\b|\btable '[^'\n]*' refused: ", r"pandera\.errors\.\w+|\bSchemaErrors?:"],
    ),
    *_rules(
        Cause.TIMED_OUT,
        [
            r"(?:flow|task) run exceeded timeout of|(?:Flow|Task)RunTimeoutError",
            r"CANCELLED AT \S+ DUE TO TIME LIMIT|exceeded (?:its )?time limit of",
        ],
    ),
    *_rules(
        Cause.BAD_EXIT,
        [r"^Segmentation fault\b|^Fatal Python error: Segmentation fault|^Aborted \(core dumped\)|SIGSEGV"],
        _MEDIUM,
    ),
]
_RULES = [*_NOT_MEMORY, *_LOST_DEVICE, *_ON_THE_CPU, *_GPU_MEMORY, *_HOST_MEMORY, *_OTHERS]
_XID = re.compile(r"\bXid\b(?: ?\([^)\n]*\))?(?: errors?| code)?[ :=,]*(\d{1,3})\b", re.IGNORECASE)
_PROGRAM_XIDS = frozenset({13, 31})

_WORDS = re.compile(
    r"error|memory|exit|signal|alloc|out_of|OOM|kill|bus|lost|ECC|NVLink|Xid|CUDA|HIP|driver|kernel"
    r"|resource|KV cache|space|quota|"
    r"files?\b|denied|auth|forbidden|token|credential|resol|host|connect|network|refused|timeout|time limit|pandera|"
    r"schema|fault|assert|aborted|SIG|NFILE|MFILE|EDQUOT|ENOSPC|GPU|device|gateway|url|PTX|sm_|tensor",
    re.IGNORECASE,
)
"""No rule fits a text without one of these: most lines are done with at once."""


def match(text: str) -> Match | None:
    """What the words of an error say. Of several lines the first that says something counts: those after it explain."""
    start = 0
    for line in text.split("\n"):
        if (found := _match(line)) is not None:
            return replace(found, start=start + found.start)
        start += len(line) + 1
    return _match(text) if "\n" in text else None


def _match(text: str) -> Match | None:
    if not _WORDS.search(text):
        return None
    if (found := _xid(text)) is not None:
        return found
    for rule in _RULES:
        if (at := rule.pattern.search(text)) is not None:
            return Match(rule.cause, rule.confidence, at.start())
    return None


def _xid(text: str) -> Match | None:
    for at in _XID.finditer(text):
        kind = class_of(int(at[1]))
        if kind in (XidClass.RESET, XidClass.CONTAINED):
            return Match(Cause.LOST_DEVICE, Confidence.HIGH, at.start())
        if int(at[1]) in _PROGRAM_XIDS:
            return Match(Cause.PROGRAM_FAULT, Confidence.MEDIUM, at.start())
    return None
