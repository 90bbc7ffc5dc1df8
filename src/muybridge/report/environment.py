"""What a bug report needs to know of a machine, without what tells who one is."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import muybridge
from muybridge.backbones.imgfocus import cache_folder
from muybridge.engine.device import cores_allowed
from muybridge.measure.machine import commit, processor

NEEDED = ("torch", "numpy", "pillow", "av", "accelerate", "safetensors", "huggingface_hub", "tokenizers", "cyclopts")
VARIABLES = ("HF_ENDPOINT", "HF_HUB_OFFLINE", "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "MUYBRIDGE_CACHE")


def environment() -> dict[str, dict[str, Any]]:
    """Versions, machine, libraries and caches, in groups of plain values; the home folder is written as `~`."""
    groups: dict[str, dict[str, Any]] = {
        "muybridge": {
            "version": muybridge.__version__,
            "commit": commit() or "installed, not from a checkout",
            "place": without_home(Path(muybridge.__file__).parent),
        },
        "system": {
            "python": f"{platform.python_version()} ({platform.python_implementation()})",
            "system": f"{platform.system()} {platform.release()}",
            "distribution": _told(_distribution),
            "processor": processor(),
            "architecture": platform.machine(),
            "cores": os.cpu_count() or 1,
            "cores_allowed": cores_allowed(),
            "memory": _told(_memory),
        },
        "torch": _torch(),
        "ffmpeg": _told_group(_ffmpeg),
        "libraries": {name: version(name) for name in NEEDED},
        "extras": extras(),
        "caches": {name: f"{without_home(path)} ({_size(path)})" for name, path in caches().items()},
        "variables": {name: without_home(os.environ[name]) for name in VARIABLES if name in os.environ},
    }
    return {name: group for name, group in groups.items() if group}


def without_home(path: str | Path) -> str:
    """A path or sentence with the home folder written as `~`, so that no user's name is told."""
    text, home = str(path), os.path.expanduser("~").rstrip("/\\")
    if len(home) > 1:
        # A whole folder's name: neither /home/meow nor /mnt/home/me.
        text = re.sub(rf"(?<![\w.-]){re.escape(home)}(?![\w-]|\.\w)", "~", text)
    return re.sub(r"//[^/@\s]+@", "//...@", text)  # a name and a password in an address


def version(name: str) -> str:
    """Of an installed distribution; `not installed` otherwise."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def extras() -> dict[str, str]:
    """Each extra of muybridge: `installed`, or which of its distributions are not."""
    try:
        lines = metadata.requires("muybridge") or []
    except metadata.PackageNotFoundError:
        return {}
    wanted: dict[str, list[str]] = {}
    for line in lines:
        found = re.match(r"([\w.-]+)[^;]*;.*extra\s*==\s*[\"']([\w-]+)[\"']", line)
        if found and found[2] != "dev" and found[1] != "muybridge":
            wanted.setdefault(found[2], []).append(found[1])
    told = {}
    for extra, names in sorted(wanted.items()):
        absent = [name for name in names if version(name) == "not installed"]
        versions = ", ".join(f"{name} {version(name)}" for name in names if name not in absent)
        told[extra] = versions if not absent else "not installed" if len(names) == 1 else f"lacks {', '.join(absent)}"
    return told


def caches() -> dict[str, Path]:
    """Where files are kept: ours, and that of the Hugging Face hub."""
    from huggingface_hub import constants

    return {"muybridge": cache_folder(), "hub": Path(constants.HF_HUB_CACHE)}


def _torch() -> dict[str, Any]:
    facts: dict[str, Any] = {
        "version": torch.__version__,
        "threads": torch.get_num_threads(),
        "cuda": torch.version.cuda or "built without",
        "gpus": "none",
    }
    # Found by pattern: what torch prints of its build are many lines.
    build = torch.__config__.show()
    facts["cpu_capability"] = torch.backends.cpu.get_cpu_capability()
    facts["mkldnn"] = bool(torch.backends.mkldnn.is_available())
    facts["compiler"] = next(iter(re.findall(r"GCC [\d.]+|[Cc]lang [\d.]+|MSVC [\d.]+", build)), "unknown")
    if torch.cuda.is_available():
        devices = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
        facts["gpus"] = ", ".join(f"{one.name} ({one.total_memory / 2**30:.0f} GiB)" for one in devices)
        facts["cudnn"] = torch.backends.cudnn.version()
    if torch.backends.mps.is_available():
        facts["gpus"] = "Apple (mps; not used by muybridge)"
    return facts


def _ffmpeg() -> dict[str, Any]:
    import av

    names = ("libavcodec", "libavformat", "libavutil", "libswscale")
    versions = {name: ".".join(map(str, av.library_versions[name])) for name in names if name in av.library_versions}
    told = getattr(av, "ffmpeg_version_info", "")
    return {**({"version": told} if told else {}), **versions}


def _distribution() -> str:
    return platform.freedesktop_os_release().get("PRETTY_NAME", "unknown")


def _memory() -> str:
    return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.1f} GiB"


def _told(ask: Callable[[], str]) -> str:
    try:
        return ask()
    except (OSError, ValueError, AttributeError):
        return "unknown"


def _told_group(ask: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    try:
        return ask()
    except Exception as error:  # a broken library is what a bug report is about
        return {"error": f"{type(error).__name__}: {without_home(str(error))}"}


def _size(folder: Path) -> str:
    """Of a folder's files, each counted once; links of the hub's cache lead to files that are counted themselves."""
    if not folder.is_dir():
        return "not there"
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                facts = os.lstat(os.path.join(place, name))
            except OSError:
                continue
            total += facts.st_size
    return f"{total / 1e9:.2f} GB" if total >= 1e9 else f"{total / 1e6:.1f} MB"
