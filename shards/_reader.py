"""Read single clips and labels at known offsets; every byte is checked before it is used."""

import os
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import google_crc32c
import numpy as np
import numpy.typing as npt

from pipeline import IntegrityError, UsageError
from shards._fetch import read_range
from shards._sidecar import AudioClips, AudioSidecar, LabelClips, LabelSidecar, Sidecar
from shards._store import is_remote
from shards.codecs._audio import decode_audio
from shards.codecs._label import decode_label_checked

TAR_ENDS = "the tar ends in it; restore the tar, or delete its .json and write it again"
NOT_AS_WRITTEN = "is not what was written; restore the tar, or delete its .json and write it again"
"""What is wrong with a member, after its tar and clip."""

_Reader = TypeVar("_Reader", bound="_ShardReader")


def check_tar_size(sidecar: Sidecar) -> None:
    """Raise IntegrityError unless the tar is there and as long as its sidecar states: the cheapest sign of damage."""
    size = sidecar.tar_path.stat().st_size if sidecar.tar_path.exists() else None
    if size != sidecar.tar_bytes:
        has = "is not there" if size is None else f"has {size} bytes"
        raise IntegrityError(
            f"{sidecar.tar_path}: {has}, its sidecar states {sidecar.tar_bytes}; restore it, or delete "
            f"{sidecar.path.name} and write the shard again"
        )


class _ShardReader:
    """One open tar. Reads are positional, so threads may share a reader.

    Other OS errors (no descriptor left, a disk or network that fails) are the machine's trouble, not the clip's: they
    pass as OSError and cost no clip.
    """

    def __init__(self, tar_path: Path, clips: AudioClips | LabelClips) -> None:
        self._tar_path = tar_path
        self._clips = clips
        self._file: FileIO | None = None  # on a store every read is a request of its own
        if not is_remote(tar_path):
            try:
                self._file = tar_path.open("rb", buffering=0)
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError) as error:
                raise IntegrityError(f"{tar_path}: cannot be read ({error.strerror}); restore it") from error

    def __enter__(self: _Reader) -> _Reader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def read_bytes(self, row: int) -> bytes:
        """The member of clip `row` as it is stored. Raises IntegrityError unless it has its length and CRC32C."""
        clips = self._clips
        content = self._read_at(clips.offset[row], clips.length[row])
        if len(content) != clips.length[row]:
            raise IntegrityError(f"{self._where(row)}: {TAR_ENDS}")
        if google_crc32c.value(content) != clips.crc32c[row]:
            raise IntegrityError(f"{self._where(row)}: {NOT_AS_WRITTEN}")
        return content

    def _read_at(self, offset: int, length: int) -> bytes:
        if self._file is None:
            try:
                return read_range(self._tar_path, offset, length)
            except (FileNotFoundError, PermissionError) as error:
                raise IntegrityError(
                    f"{self._tar_path}: cannot be read ({type(error).__name__}); restore it"
                ) from error
        try:
            return os.pread(self._file.fileno(), length, offset)
        except OSError as error:  # it does not know the file's name
            raise OSError(error.errno, error.strerror, str(self._tar_path)) from error

    def _where(self, row: int) -> str:
        return f"{self._tar_path}: clip {self._clips.key[row]}"


class AudioReader(_ShardReader):
    """`with AudioReader(sidecar) as reader: pcm = reader.read(row)`. Raises IntegrityError if there is no tar."""

    def __init__(self, sidecar: AudioSidecar) -> None:
        super().__init__(sidecar.tar_path, sidecar.clips)
        self.sidecar = sidecar

    def read(self, row: int) -> npt.NDArray[np.int16]:
        """Clip `row` as int16 [samples] (mono) or [channels, samples].

        Raises IntegrityError for damaged bytes, FormatError for whole ones that are not what the sidecar says.
        """
        side = self.sidecar
        return decode_audio(self.read_bytes(row), side.spec, side.clips.samples[row], side.codec, self._where(row))


class LabelReader(_ShardReader):
    """`with LabelReader(sidecar) as reader: logits = reader.read(row)`. Raises IntegrityError if there is no tar."""

    def __init__(self, sidecar: LabelSidecar) -> None:
        super().__init__(sidecar.tar_path, sidecar.clips)
        self.sidecar = sidecar

    def read(self, row: int) -> npt.NDArray[np.float32]:
        """The label of clip `row`, float32 of sidecar.target.shape.

        Raises UsageError for a clip without a label (clips.length[row] is 0), IntegrityError for damaged bytes,
        FormatError for whole ones that are not what the sidecar says.
        """
        if not self.sidecar.clips.length[row]:
            raise UsageError(f"{self._where(row)}: has no label; skip the clips that the sidecar lists as failed")
        side = self.sidecar
        shape, kind = side.target.shape, side.target.kind
        content, where = self.read_bytes(row), self._where(row)
        return decode_label_checked(content, shape=shape, kind=kind, codec=side.codec, where=where)
