"""Safetensors files of a checkpoint folder: what is in them, read from their headers alone, one tensor at a time when
asked for, and written in shards with an index (``model.safetensors.index.json``, as transformers writes it).

A header is 8 bytes of length (little endian), then JSON: for each tensor its dtype, shape and place behind the header.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

WEIGHTS = "model.safetensors"
INDEX = WEIGHTS + ".index.json"
SHARD_BYTES = 5 * 10**9
MAX_HEADER = 100_000_000
"""Bytes; the limit of the safetensors library."""

BYTES = {"F32": 4, "BF16": 2, "F16": 2, "F8_E4M3": 1}


class CheckpointError(ValueError):
    """A checkpoint that is absent, damaged or of another shape. Nothing was changed."""

    exit_status = 2


@contextmanager
def intact(path: Path) -> Iterator[None]:
    """Around what reads a file of a checkpoint: whichever exception tells that it is not whole, the file is named.
    Raises CheckpointError."""
    try:
        yield
    except Exception as error:
        raise CheckpointError(f"{path}: damaged ({str(error).partition(chr(10))[0]})") from error


class Entry(NamedTuple):
    """One tensor of a file. ``truncated``: its bytes are not all there."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    truncated: bool


class Shards:
    """The tensors of a folder, by name. Raises CheckpointError where a file is absent or its header unreadable, or
    where the index names a tensor that its file does not hold."""

    def __init__(self, folder: Path) -> None:
        self.entries: dict[str, Entry] = {}
        index = _index(folder)
        for file in sorted(set(index.values())) if index else [WEIGHTS]:
            self.entries |= _header(folder / file)
        lost = sorted(name for name, file in index.items() if name not in self.entries and (folder / file).is_file())
        if lost:
            listed = "\n  ".join(f"missing {name}: {INDEX} says that it is in {index[name]}" for name in lost)
            raise CheckpointError(f"{folder}: files and index differ:\n  {listed}")
        self._open = lru_cache(maxsize=2)(lambda file: safe_open(file, framework="pt"))

    def read(self, name: str) -> Tensor:
        """One tensor, as stored."""
        entry = self.entries[name]
        try:
            tensor: Tensor = self._open(entry.file).get_tensor(name)
        except SafetensorError as error:
            raise CheckpointError(f"{entry.file}: damaged ({error})") from None
        return tensor

    def in_order(self, names: Iterable[str]) -> list[str]:
        """Names sorted so that each file is read once, from its beginning to its end."""
        places = {name: place for place, name in enumerate(self.entries)}
        return sorted(names, key=places.__getitem__)


def _index(folder: Path) -> dict[str, str]:
    """Which file holds each tensor; empty where the folder has no index."""
    path = folder / INDEX
    if not path.is_file():
        return {}
    try:
        files = json.loads(path.read_text())["weight_map"]
        if not all(isinstance(file, str) and Path(file).name == file for file in files.values()):
            raise ValueError("a tensor's file is not the name of a file beside it")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path}: not an index of safetensors files ({error})") from None
    return dict(files)


def _header(path: Path) -> dict[str, Entry]:
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > min(MAX_HEADER, size - 8):
                raise ValueError("its header does not end within the file")
            values = json.loads(file.read(length))
        values.pop("__metadata__", None)
        entries = {name: _entry(path, value, size - 8 - length) for name, value in values.items()}
    except FileNotFoundError:
        raise CheckpointError(f"{path.parent}: there is no {path.name} in it") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path}: damaged or truncated ({error})") from None
    return dict(sorted(entries.items(), key=lambda item: values[item[0]]["data_offsets"]))


def _entry(path: Path, value: Mapping[str, Any], available: int) -> Entry:
    dtype, shape, (begin, end) = str(value["dtype"]), tuple(value["shape"]), value["data_offsets"]
    if not all(isinstance(n, int) and n >= 0 for n in (*shape, begin, end)):
        raise ValueError("a size in its header is not a whole number")
    if dtype in BYTES and end - begin != math.prod(shape) * BYTES[dtype]:
        raise ValueError(f"a tensor of shape {list(shape)} and dtype {dtype} does not take {end - begin} bytes")
    return Entry(path, dtype, shape, end > available)


def write(
    folder: Path, sizes: Mapping[str, int], make: Callable[[str], Mapping[str, Tensor]], shard_bytes: int = SHARD_BYTES
) -> None:
    """Writes tensors into an existing folder, holding one shard at a time. ``sizes`` are bytes; ``make(name)`` gives
    the tensor of that name, and what belongs to it (its scale), to be kept in the same file."""
    plan: list[list[str]] = [[]]
    filled = 0
    for name, size in sizes.items():
        if plan[-1] and filled + size > shard_bytes:
            plan.append([])
            filled = 0
        plan[-1].append(name)
        filled += size
    index: dict[str, str] = {}
    for number, names in enumerate(plan, 1):
        file = WEIGHTS if len(plan) == 1 else f"model-{number:05}-of-{len(plan):05}.safetensors"
        tensors = {key: tensor.contiguous() for name in names for key, tensor in make(name).items()}
        save_file(tensors, folder / file, metadata={"format": "pt"})
        index |= dict.fromkeys(tensors, file)
    if len(plan) > 1:
        values = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": index}
        (folder / INDEX).write_text(json.dumps(values, indent=2) + "\n")
