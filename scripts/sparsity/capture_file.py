"""Reads what `asplash-eval --capture` wrote (docs/evaluation.md). Needs torch alone."""

import json
import struct

import torch

FORMAT = "asplash-attention-1"
DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16, "F64": torch.float64, "I32": torch.int32}


class CaptureFile:
    """A captured file, memory-mapped: tensors are read when asked for."""

    def __init__(self, path):
        self.path = path
        with open(path, "rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(length))
            size = file.seek(0, 2)
        self.metadata = header.pop("__metadata__", {})
        if self.metadata.get("format") != FORMAT:
            raise ValueError(f"{path}: metadata 'format' is {self.metadata.get('format')!r}, must be {FORMAT!r}: "
                             "give a file that asplash-eval --capture wrote")
        self._entries, self._begin = header, 8 + length
        self._bytes = torch.from_file(path, shared=False, size=size, dtype=torch.uint8)
        self.alpha = float(self.metadata["alpha"])
        self.scale = float(self.metadata["scale"])
        self.step = int(self.metadata["step"])
        self.context = int(self.metadata["context"])
        self.windows = int(self.metadata["windows"])
        self.layers = [int(layer) for layer in self.metadata["layers"].split(",")]
        self.head_kinds = self.metadata["head_kinds"].split(",")
        self.slopes = self.tensor("alibi_slopes").tolist()
        temperature = self.metadata["adaptive_temperature"] == "true"
        self.model = self.metadata["positions"] + (" + temperature" if temperature else "")

    def tensor(self, name):
        """On the host, sharing the file's memory: not to be written to."""
        entry = self._entries[name]
        begin, end = entry["data_offsets"]
        return self._bytes[self._begin + begin:self._begin + end].view(DTYPES[entry["dtype"]]).view(entry["shape"])

    def heads(self, window, layer, name):
        """name: query [heads, tokens, head_dim], key or value [kv_heads, tokens, head_dim]."""
        return self.tensor(f"window_{window}.layer_{layer}.{name}")

    def cu_seqlens(self, window):
        return self.tensor(f"window_{window}.cu_seqlens")
