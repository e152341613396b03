"""Packed token shards and the order of their samples, read independently of the C++ code: written from the
descriptions in src/asplash/data/shard_format.h and src/asplash/data/sampler.h."""

import json
import os
import struct

import numpy as np

HEADER_BYTES = 4096
MASK64 = (1 << 64) - 1


class Tokens:
    """The token stream of a split (a folder with manifest.json), memory-mapped."""

    def __init__(self, folder):
        with open(os.path.join(folder, "manifest.json"), encoding="utf-8") as file:
            manifest = json.load(file)
        self.shards = []
        for shard in manifest["shards"]:
            path = os.path.join(folder, shard["file"])
            with open(path, "rb") as file:
                magic, _, token_bytes, tokens = struct.unpack("<8sIIQ", file.read(24))
            assert magic == b"ASPLTOK\n", path
            self.shards.append(np.memmap(path, {2: "<u2", 4: "<u4"}[token_bytes], "r", HEADER_BYTES, (tokens,)))
        self.begins = np.cumsum([0] + [len(s) for s in self.shards])

    def __len__(self):
        return int(self.begins[-1])

    def read(self, begin, count):
        parts = []
        while count > 0:
            i = int(np.searchsorted(self.begins, begin, side="right")) - 1
            part = self.shards[i][begin - self.begins[i]:][:count]
            assert len(part), "past the end of the stream"
            parts.append(part)
            begin, count = begin + len(part), count - len(part)
        return np.concatenate(parts)


def mix(x):
    x = (x + 0x9E3779B97F4A7C15) & MASK64
    x = ((x ^ x >> 30) * 0xBF58476D1CE4E5B9) & MASK64
    x = ((x ^ x >> 27) * 0x94D049BB133111EB) & MASK64
    return x ^ x >> 31


class Sampler:
    """Which window of the stream a global sample index of an epoch stands for."""

    def __init__(self, samples, seed, shuffle):
        self.samples, self.seed, self.shuffle = samples, seed, shuffle
        self.half = 1
        while 1 << 2 * self.half < samples:
            self.half += 1

    def window(self, epoch, sample):
        if not self.shuffle:
            return sample
        mask = (1 << self.half) - 1
        key = mix((mix(self.seed) + epoch) & MASK64)
        v = sample
        while True:
            left, right = v >> self.half, v & mask
            for r in range(4):
                left, right = right, left ^ (mix(mix((key + r) & MASK64) ^ right) & mask)
            v = left << self.half | right
            if v < self.samples:
                return v
