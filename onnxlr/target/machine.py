"""What this machine is: processor name, cores this process may use, the channel block of its fast kernels."""

from __future__ import annotations

import os
import platform
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")
_TOPOLOGY = Path("/sys/devices/system/cpu")
_CGROUP = Path("/sys/fs/cgroup")
_GPUS = Path("/proc/driver/nvidia/gpus")


def usable_cores(cgroup: Path = _CGROUP, topology: Path = _TOPOLOGY) -> int:
    """Count the physical cores this process may use: by its affinity mask and its cgroup's CPU quota; at least 1."""
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    quota = cpu_quota(cgroup)
    cores = len({_core_of(cpu, topology) for cpu in allowed})
    return max(1, cores if quota is None else min(cores, int(quota)))


def cpu_quota(cgroup: Path = _CGROUP) -> float | None:
    """Read how many CPUs' worth of time the cgroup (version 2, else 1) at ``cgroup`` allows; None: no limit."""
    text = _read(cgroup / "cpu.max").split()
    if len(text) == 2:
        return None if text[0] == "max" else int(text[0]) / int(text[1])
    quota, period = _read(cgroup / "cpu" / "cpu.cfs_quota_us"), _read(cgroup / "cpu" / "cpu.cfs_period_us")
    if quota and period and int(quota) > 0:
        return int(quota) / int(period)
    return None


def cpu_name() -> str:
    """Name the processor."""
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def gpu_name() -> str:
    """Name the first NVIDIA GPU; an empty string when the driver shows none."""
    for folder in sorted(_GPUS.glob("*")) if _GPUS.is_dir() else []:
        for line in _read(folder / "information").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "Model":
                return value.strip()
    return ""


def channel_block(provider: str = "cpu") -> int:
    """Tell how many channels a fast convolution kernel handles at once: ranks should be rounded to its multiples.

    On the CPU provider it is the block of ONNX Runtime's blocked layout NCHWc: 16 with AVX-512 or on 64-bit Arm,
    else 8. On the others 8, which suits the tensor cores' half-precision tiles.
    """
    if provider != "cpu":
        return 8
    wide = "avx512f" in _cpuinfo("flags").split() or platform.machine().lower() in {"aarch64", "arm64"}
    return 16 if wide else 8


def _cpuinfo(key: str) -> str:
    """Find the first value of ``key`` in /proc/cpuinfo, or an empty string."""
    for line in _read(_CPUINFO).splitlines():
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return ""


def _core_of(cpu: int, topology: Path) -> tuple[str, str]:
    """Find package and core of a logical CPU; hyper-threads share both. Unknown topology: each CPU is a core."""
    folder = topology / f"cpu{cpu}" / "topology"
    package, core = _read(folder / "physical_package_id"), _read(folder / "core_id")
    return (package, core) if core else ("", f"cpu{cpu}")


def _read(path: Path) -> str:
    """Read a small system file; an empty string where there is none."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
