"""Files of weights -> {key: tensor}, without running what stands in them.

    state_dict = read_state_dict("ViT-B-16.pt")

The kind of a file is told by its first bytes, not by its name: safetensors (sharded ones by their index), torch's zip
and old pickle formats, and TorchScript archives (OpenAI's CLIP). A pickle is a program, so none is run freely: torch
reads it with `weights_only`; what torch refuses is read by `_Unpickler` below, where every class but tensors and
ordered dictionaries becomes an inert stand-in. Of a TorchScript archive only the tensors are read, its code never.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import safetensors.torch
import torch
from torch import Tensor

from muybridge.errors import CheckpointError, MissingFile

# Under these names training codes put the state dict into a larger checkpoint.
WRAPPERS = (
    *("state_dict", "model_state_dict", "model_state", "model", "module", "network", "net", "backbone", "params"),
    *("teacher", "student", "ema", "model_ema", "state_dict_ema"),
)

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # Reference: torch/serialization.py, MAGIC_NUMBER of the format before 1.6

_STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


def read_state_dict(path: str | Path, entry: str | None = None) -> dict[str, Tensor]:
    """Read the weights in a file, or in a folder with one safetensors file, sharded or not.

    Args:
        path: the file or folder.
        entry: which state dict of a checkpoint that holds several, e.g. `teacher`; by default the only one.

    Returns:
        {key: tensor} on the CPU, dtypes as stored. Tensors may be mapped from the file: copy before it is replaced.

    Raises:
        MissingFile: nothing is there.
        CheckpointError: the file is empty, damaged, of a foreign kind, or holds no or several state dicts.
    """
    path = Path(path)
    if not path.exists():
        raise MissingFile(f"{path}: no such file of weights.")
    if path.is_dir():
        path = _in_folder(path)
    try:
        with path.open("rb") as file:
            start = file.read(512)
        if not start:
            raise CheckpointError(f"{path} is empty.")
        if path.name.endswith(".index.json"):
            return _read_shards(path)
        if start[8:9] == b"{" and int.from_bytes(start[:8], "little") < path.stat().st_size:
            return dict(safetensors.torch.load_file(path))
        if start[:4] == b"PK\x03\x04":
            return _read_zip(path, entry)
        if start[:1] == b"\x80":
            return unwrap(_read_legacy(path), str(path), entry)
    except (CheckpointError, MissingFile):
        raise
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error}.") from error
    except Exception as error:  # whatever a damaged file makes the readers say
        raise CheckpointError(f"{path} is damaged ({type(error).__name__}: {error}). Fetch it again.") from error
    raise CheckpointError(
        f"{path} is no file of weights: {_kind(start)}. Expected safetensors, a torch.save file or OpenAI's archive."
    )


def sha256_of(path: str | Path) -> str:
    """SHA-256 of a file's bytes, 64 hexadecimal digits.

    Raises:
        MissingFile: there is no such file.
    """
    if not Path(path).is_file():
        raise MissingFile(f"{path}: no such file.")
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of_state(state_dict: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, dtypes, shapes and bytes of all tensors in sorted order: the same in any file format."""
    digest = hashlib.sha256()
    for key in sorted(state_dict):
        tensor = state_dict[key].detach().cpu().contiguous()
        digest.update(f"{key} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def unwrap(stored: object, what: str, entry: str | None = None) -> dict[str, Tensor]:
    """The state dict in what a file held: itself, or the only one under a usual name such as `state_dict`.

    Args:
        stored: what was read.
        what: how to call it in messages.
        entry: take this one, if there are several.

    Raises:
        CheckpointError: there is none, or there are several and no `entry`.
    """
    if not isinstance(stored, Mapping):
        raise CheckpointError(f"{what} holds a {type(stored).__name__}; expected a dictionary of tensors.")
    if stored and all(isinstance(key, str) and isinstance(value, Tensor) for key, value in stored.items()):
        return dict(stored)
    names = [entry] if entry else [name for name in WRAPPERS if isinstance(stored.get(name), Mapping)]
    found = {}
    for name in names:
        try:
            found[name] = unwrap(stored[name], f"'{name}' in {what}")
        except (CheckpointError, KeyError):
            continue
    if len(found) == 1:
        return next(iter(found.values()))
    keys = ", ".join(str(key) for key in list(stored)[:6]) or "none"
    if found:
        raise CheckpointError(f"{what} holds several state dicts ({', '.join(found)}); choose one with entry=...")
    raise CheckpointError(f"{what} holds no state dict{f' {entry!r}' if entry else ''}; its entries: {keys}.")


def _in_folder(folder: Path) -> Path:
    for pattern in ("*.safetensors.index.json", "*.safetensors", "pytorch_model.bin"):
        found = sorted(folder.glob(pattern))
        if len(found) == 1:
            return found[0]
        if found:
            names = ", ".join(path.name for path in found[:4])
            raise CheckpointError(f"{folder} holds {len(found)} files of weights ({names}); give one of them.")
    raise MissingFile(f"{folder}: no file of weights (*.safetensors or pytorch_model.bin) in this folder.")


def _kind(start: bytes) -> str:
    text = start.lstrip().lower()
    if text.startswith((b"<!doctype html", b"<html")):
        return "it is a web page, as a failed download leaves"
    if text.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer; fetch the file itself with `git lfs pull`"
    return f"it begins with {start[:8]!r}"


def _read_shards(index: Path) -> dict[str, Tensor]:
    shards = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
    state_dict: dict[str, Tensor] = {}
    for name in sorted(set(shards.values())):
        if Path(name).name != name:  # an index from elsewhere must not lead out of its folder
            raise CheckpointError(f"{index} names a file outside its folder: {name!r}.")
        if not (index.parent / name).is_file():
            raise MissingFile(f"{index.parent / name}: a shard that {index.name} names is not there.")
        state_dict.update(safetensors.torch.load_file(index.parent / name))
    if set(state_dict) != set(shards):
        odd = sorted(set(state_dict) ^ set(shards))[:3]
        raise CheckpointError(f"{index} and its shards differ (first: {', '.join(odd)}).")
    return state_dict


def _read_zip(path: Path, entry: str | None) -> dict[str, Tensor]:
    with zipfile.ZipFile(path) as archive:
        roots = [name[: -len("data.pkl")] for name in archive.namelist() if re.fullmatch(r"[^/]*/data\.pkl", name)]
        if len(roots) != 1:
            raise CheckpointError(f"{path} is a zip file, but torch did not write it: it has no data.pkl.")
        root = roots[0]
        if f"{root}constants.pkl" in archive.namelist():
            return dict(_script_tensors(_load_pickle(archive, root), archive, root))
        try:
            stored = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except pickle.UnpicklingError:  # classes of other libraries in it
            stored = _load_pickle(archive, root)
    return unwrap(stored, str(path), entry)


class Inert:
    """Stands in for any class or function that a pickle names: it takes whatever it is given and does nothing."""

    origin = ""  # the dotted name in the file
    state: object = None

    def __new__(cls, *args: object, **kwargs: object) -> Inert:
        return super().__new__(cls)

    def __init__(self, *args: object, **kwargs: object) -> None: ...

    def __setstate__(self, state: object) -> None:
        self.state = state

    def __call__(self, *args: object, **kwargs: object) -> Inert:
        return self

    def __setitem__(self, key: object, value: object) -> None: ...

    def append(self, item: object) -> None: ...

    def extend(self, items: object) -> None: ...


class _Unpickler(pickle.Unpickler):
    """Builds tensors, containers and inert stand-ins; can call nothing else."""

    def __init__(self, file: IO[bytes], storage: Callable[[str, torch.dtype, int], Tensor]) -> None:
        super().__init__(file)
        self._storage = storage

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _ALLOWED:
            return _ALLOWED[module, name]
        if module in ("torch", "torch.storage") and name in _STORAGES:
            return _STORAGES[name]
        return type(name, (Inert,), {"origin": f"{module}.{name}"})

    def persistent_load(self, pid: Any) -> Tensor:
        kind, dtype, key, _, count = pid[:5]
        if kind != "storage" or not isinstance(dtype, torch.dtype):
            raise pickle.UnpicklingError(f"an entry of kind {kind!r} is not supported")
        return self._storage(str(key), dtype, int(count))


def _rebuild(storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: object) -> Tensor:
    # A stride of 0 would make a huge tensor of a small storage; other bounds are as_strided's own.
    if math.prod(size) > storage.numel():
        raise pickle.UnpicklingError("a tensor is larger than its storage")
    return storage.as_strided(size, stride, offset)


def _first(value: Any, *_: object) -> Any:
    return value


_ALLOWED: dict[tuple[str, str], object] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor"): _rebuild,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild,
    ("torch._utils", "_rebuild_parameter"): _first,
    ("torch._utils", "_rebuild_parameter_with_state"): _first,
    ("torch", "Size"): tuple,
    # TorchScript wraps typed lists and dictionaries in these.
    ("torch.jit._pickle", "build_intlist"): _first,
    ("torch.jit._pickle", "build_doublelist"): _first,
    ("torch.jit._pickle", "build_boollist"): _first,
    ("torch.jit._pickle", "build_tensorlist"): _first,
    ("torch.jit._pickle", "restore_type_tag"): _first,
}


def _load_pickle(archive: zipfile.ZipFile, root: str) -> object:
    if f"{root}byteorder" in archive.namelist() and archive.read(f"{root}byteorder") != b"little":
        raise CheckpointError(f"{archive.filename} was written on a big-endian machine, which is not supported.")
    storages: dict[str, Tensor] = {}

    def storage(key: str, dtype: torch.dtype, count: int) -> Tensor:
        if key not in storages:
            data = bytearray(archive.read(f"{root}data/{key}"))
            if len(data) < count * dtype.itemsize:
                raise pickle.UnpicklingError(f"record data/{key} is too short")
            empty = torch.empty(0, dtype=dtype)
            storages[key] = torch.frombuffer(data, dtype=dtype, count=count) if count else empty
        return storages[key]

    return _Unpickler(io.BytesIO(archive.read(f"{root}data.pkl")), storage).load()


def _read_legacy(path: Path) -> object:
    """torch's format before 1.6: four pickles in a row (the third the tensors' shapes), then the storages."""
    limit = path.stat().st_size
    storages: dict[str, Tensor] = {}

    def storage(key: str, dtype: torch.dtype, count: int) -> Tensor:
        if not 0 <= count * dtype.itemsize <= limit:
            raise pickle.UnpicklingError(f"storage {key} is larger than the file")
        return storages.setdefault(key, torch.zeros(count, dtype=dtype))  # filled below, in place

    with path.open("rb") as file:
        if _Unpickler(file, storage).load() != _LEGACY_MAGIC:
            raise CheckpointError(f"{path} is a pickle, but torch did not write it; it was not run.")
        _Unpickler(file, storage).load()  # version of the format
        _Unpickler(file, storage).load()  # sizes of C types
        stored = _Unpickler(file, storage).load()
        for key in _Unpickler(file, storage).load():
            if int.from_bytes(file.read(8), "little") != storages[key].numel():
                raise pickle.UnpicklingError(f"storage {key} has another length than announced")
            if storages[key].numel():
                view = storages[key].view(torch.uint8).numpy().data
                if file.readinto(view) != len(view):
                    raise pickle.UnpicklingError("the file ends too early")
    return stored


def _script_tensors(
    module: object, archive: zipfile.ZipFile, root: str, prefix: str = "", depth: int = 0
) -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers of a TorchScript module, by the dotted names that its state_dict() would give."""
    if not isinstance(module, Inert) or not isinstance(module.state, Mapping) or depth > 100:
        raise CheckpointError(f"{archive.filename} is a TorchScript archive, but not of a module.")
    named = _declared(archive, root, module.origin)
    for name, value in module.state.items():
        if isinstance(value, Tensor):
            if named is None or name in named:
                yield prefix + name, value
        elif isinstance(value, Inert) and isinstance(value.state, Mapping):
            yield from _script_tensors(value, archive, root, f"{prefix}{name}.", depth + 1)


def _declared(archive: zipfile.ZipFile, root: str, origin: str) -> set[str] | None:
    """Names that a scripted class's source, read as text, lists as parameters and buffers.

    Other tensors of a module are plain attributes, e.g. a mask, and no part of its state dict. None where the source
    lists no buffers, as torch wrote it once: then every tensor is part of it.
    """
    module, _, name = origin.rpartition(".")
    source = f"{root}code/{module.replace('.', '/')}.py"
    if source not in archive.namelist():
        return None
    text = archive.read(source).decode("utf-8", "replace")
    body = re.search(rf"^class {re.escape(name)}\(.*?(?=^class |\Z)", text, re.MULTILINE | re.DOTALL)
    lists = dict(re.findall(r"^  __(parameters|buffers)__ = \[(.*?)\]", body[0] if body else "", re.MULTILINE))
    return set(re.findall(r'"([^"]+)"', " ".join(lists.values()))) if "buffers" in lists else None
