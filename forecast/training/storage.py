"""Sharded checkpoints without pickles: torch.distributed.checkpoint's storage as safetensors files.

A tensor's key is `<group>/<name>`. Each rank writes its pieces of a group to `<group>-00001-of-00004.safetensors`;
where a piece lies in its tensor stands in the file's header. The groups in WHOLE are then joined into
`<group>.safetensors`, which any reader of safetensors understands; so is every group of a run of one rank.
"""

from __future__ import annotations

import json
import os
import zlib
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.checkpoint import StorageReader, StorageWriter
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import LoadPlan, LoadPlanner, SavePlan, SavePlanner, WriteItem
from torch.distributed.checkpoint.storage import WriteResult
from torch.futures import Future

import forecast
from forecast.core.errors import ForecastError

WHOLE = ("model", "ema")
Manifest = dict[str, list[int]]
"""file -> its size in bytes and its CRC-32"""
_PIECES = "pieces"  # keys of a header: JSON {name: [offsets, size of the whole tensor]}
_VERSION = "forecast"


class Writer(StorageWriter):
    """Writes `folder`, which must not be read before `finish` has come to its end.

    Args:
        folder: made by the coordinator, anew.
        finish: called on the coordinator, with the files that all ranks wrote, once they are flushed to disk.
    """

    def __init__(self, folder: Path, prepare: Callable[[], None], finish: Callable[[Manifest], None]) -> None:
        self._folder, self._prepare, self._finish = folder, prepare, finish

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        """Nothing is kept between checkpoints."""

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        """The folder is given at construction."""
        return checkpoint_id is None

    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        """Make the folder; the others get their plans after that."""
        if is_coordinator:
            self._prepare()

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        """As it is."""
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        """Tell each rank its number and that of all."""
        return [replace(plan, storage_data=(rank, len(plans))) for rank, plan in enumerate(plans)]

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        """Write this rank's pieces, a file for each group."""
        rank, ranks = plan.storage_data
        suffix = f"-{rank + 1:05d}-of-{ranks:05d}" if ranks > 1 else ""
        groups: dict[str, list[WriteItem]] = defaultdict(list)
        for item in plan.items:
            groups[item.index.fqn.partition("/")[0]].append(item)
        written = [self._write(f"{group}{suffix}.safetensors", items, planner) for group, items in groups.items()]
        done: Future[list[WriteResult]] = Future()
        done.set_result(written)
        return done

    def _write(self, file: str, items: list[WriteItem], planner: SavePlanner) -> WriteResult:
        tensors, pieces = {}, {}
        for item in items:
            assert item.tensor_data is not None
            name = item.index.fqn.partition("/")[2]
            tensor = planner.resolve_data(item)
            assert isinstance(tensor, Tensor)
            tensors[name] = tensor.detach().cpu().contiguous()
            if tensors[name].shape != item.tensor_data.size:
                pieces[name] = [list(item.tensor_data.chunk.offsets), list(item.tensor_data.size)]
        save_file(tensors, self._folder / file, _header(pieces))
        found = fingerprint(self._folder / file)
        sync(self._folder / file)
        return WriteResult(items[0].index, found[0], (file, found))

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """Join what is to be whole, then hand over the list of files."""
        manifest: Manifest = dict(result.storage_data for each in results for result in each)
        for group in WHOLE:
            parts = [name for name in manifest if name.startswith(f"{group}-")]
            if parts:
                whole = self._folder / f"{group}.safetensors"
                save_file(_joined([self._folder / name for name in parts]), whole, _header({}))
                manifest[whole.name] = fingerprint(whole)
                sync(whole)
            for name in parts:
                (self._folder / name).unlink()
                del manifest[name]
        self._finish(manifest)


class Reader(StorageReader):
    """Reads what Writer wrote, on any number of ranks.

    Raises:
        ForecastError: pieces of a tensor are missing, or versions of this program are mixed.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files: dict[MetadataIndex, Path] = {}
        self._metadata = Metadata({})
        versions = {self._add(path): path.name for path in sorted(folder.glob("*.safetensors"))}
        if len(versions) > 1:
            mixed = " and ".join(f"{version} ({name})" for version, name in versions.items())
            raise ForecastError(
                f"{folder} was written by several versions of forecast, {mixed}: use another checkpoint"
            )
        for key, tensor in self._metadata.state_dict_metadata.items():
            assert isinstance(tensor, TensorStorageMetadata)
            if sum(chunk.sizes.numel() for chunk in tensor.chunks) != tensor.size.numel():
                raise ForecastError(f"{folder}: pieces of `{key}` are missing; use another checkpoint")

    def tensors(self, group: str) -> dict[str, Tensor]:
        """Tensors without memory, with the shapes and types of all of a group."""
        found = {}
        for key, stored in self._metadata.state_dict_metadata.items():
            if key.startswith(f"{group}/"):
                assert isinstance(stored, TensorStorageMetadata)
                found[key.partition("/")[2]] = torch.empty(stored.size, dtype=stored.properties.dtype, device="meta")
        return found

    def _add(self, path: Path) -> str:
        """Take in the header of a file; returns the version that wrote it."""
        group = path.stem.partition("-")[0]
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            pieces = json.loads(header.get(_PIECES, "{}"))
            for name in file.keys():  # noqa: SIM118  (no mapping)
                there = file.get_slice(name)
                sizes = torch.Size(there.get_shape())
                offsets, size = pieces.get(name, ([0] * len(sizes), sizes))
                index = MetadataIndex(f"{group}/{name}", torch.Size(offsets))
                self._files[index] = path
                known = self._metadata.state_dict_metadata.setdefault(
                    index.fqn, TensorStorageMetadata(TensorProperties(_TYPES[there.get_dtype()]), torch.Size(size), [])
                )
                assert isinstance(known, TensorStorageMetadata)
                known.chunks.append(ChunkStorageMetadata(torch.Size(offsets), sizes))
        return header.get(_VERSION, "unknown")

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        """Nothing is kept between loads."""

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        """The folder is given at construction."""
        return checkpoint_id is None

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """What the headers of all files say."""
        return self._metadata

    def set_up_storage_reader(self, metadata: Metadata, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        """Nothing to set up."""

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        """As it is."""
        return plan

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        """As they are."""
        return plans

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        """Copy the parts of stored pieces that this rank needs, file by file."""
        wanted = defaultdict(list)
        for item in plan.items:
            wanted[self._files[item.storage_index]].append(item)
        for path, items in wanted.items():
            with safe_open(path, framework="pt") as file:
                for item in items:
                    name = item.storage_index.fqn.partition("/")[2]
                    spans = zip(item.storage_offsets, item.lengths, strict=True)
                    part = tuple(slice(offset, offset + length) for offset, length in spans)
                    target = planner.resolve_tensor(item).detach()
                    target.copy_(file.get_slice(name)[part] if part else file.get_tensor(name))
                    planner.commit_tensor(item, target)
        done: Future[None] = Future()
        done.set_result(None)
        return done


_TYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip


def _header(pieces: dict[str, Any]) -> dict[str, str]:
    return {_VERSION: forecast.__version__} | ({_PIECES: json.dumps(pieces)} if pieces else {})


def _joined(paths: list[Path]) -> dict[str, Tensor]:
    """The whole tensors of several files of pieces."""
    whole: dict[str, Tensor] = {}
    for path in paths:
        with safe_open(path, framework="pt") as file:
            pieces = json.loads((file.metadata() or {}).get(_PIECES, "{}"))
            for name in file.keys():  # noqa: SIM118  (no mapping)
                piece = file.get_tensor(name)
                offsets, size = pieces.get(name, ([0] * piece.ndim, piece.shape))
                target = whole.setdefault(name, piece.new_empty(size))
                target[tuple(slice(a, a + n) for a, n in zip(offsets, piece.shape, strict=True))] = piece
    return whole


def fingerprint(path: Path) -> list[int]:
    """Size and CRC-32 of a file."""
    crc, size = 0, 0
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            crc, size = zlib.crc32(block, crc), size + len(block)
    return [size, crc]


def sync(path: Path) -> None:
    """Flush a file or folder to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
