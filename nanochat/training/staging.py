"""The bytes of a safetensors file in memory: filled from tensors in one go, written to the disk later.

The memory is taken once and laid out as the file will be, so that filling it is all that training waits for and writing
it needs neither torch nor a copy. Promises: what is written are the values of the moment of `fill`; the digest is that
of the bytes written, without reading them again; copying from a GPU goes through pinned memory. Not here: who calls
when (nanochat/training/saving.py), reading (nanochat/model/weights.py).
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

DTYPES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16", torch.int64: "I64"}
CHUNK = 16 * 2**20  # bytes written and hashed at a time; both let other threads run


class FileImage:
    """A file of tensors with the names, shapes and types of `tensors`; `pinned` where these live on a GPU.

    The format (github.com/huggingface/safetensors): the length of the header in 8 bytes, little-endian, the header in
    JSON, padded with spaces, then the numbers without gaps.
    """

    def __init__(self, tensors: Mapping[str, Tensor], *, pinned: bool) -> None:
        # the widest numbers first, so that each tensor lies at a multiple of its numbers' size
        names = sorted(tensors, key=lambda name: -tensors[name].element_size())
        header, spans, size = {}, {}, 0
        for name in names:
            tensor = tensors[name]
            spans[name] = (size, size := size + tensor.nbytes)
            header[name] = {
                "dtype": DTYPES[tensor.dtype],
                "shape": list(tensor.shape),
                "data_offsets": list(spans[name]),
            }
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        head = bytearray(len(text).to_bytes(8, "little") + text)
        self.buffer = torch.empty(len(head) + size, dtype=torch.uint8, pin_memory=pinned)
        self.buffer[: len(head)] = torch.frombuffer(head, dtype=torch.uint8)
        numbers = self.buffer[len(head) :]
        self.places = {
            name: numbers[begin:end].view(tensors[name].dtype).view(tensors[name].shape)
            for name, (begin, end) in spans.items()
        }

    def fill(self, tensors: Mapping[str, Tensor]) -> None:
        """Start copying; from a GPU the values are there once its current stream has got so far."""
        assert tensors.keys() == self.places.keys(), f"laid out for {sorted(self.places)}, given {sorted(tensors)}"
        for name, place in self.places.items():
            place.copy_(tensors[name], non_blocking=True)

    def write(self, path: Path) -> dict[str, Any]:
        """Writes the file, syncs it to the disk and returns its size and sha256; FileExistsError if it is there."""
        numbers: Any = self.buffer.numpy()  # of this memory; its type does not say that it is a buffer
        content, digest = memoryview(numbers), hashlib.sha256()
        with path.open("xb") as file:
            for begin in range(0, len(content), CHUNK):
                chunk = content[begin : begin + CHUNK]
                file.write(chunk)
                digest.update(chunk)
            file.flush()
            os.fsync(file.fileno())
        return {"size": len(content), "sha256": digest.hexdigest()}
