"""The implementations that are compared: each a function of query, key, value and slopes."""
import dataclasses
import importlib.metadata
import os
import subprocess
import sys
import typing

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel


@dataclasses.dataclass
class Impl:
    call: typing.Callable
    version: str
    missing: str = ""  #: why it cannot be called; empty: it can


def dense_softmax(backend):
    def call(query, key, value, slopes=None):
        if slopes is not None:
            raise RuntimeError("has no ALiBi")
        with sdpa_kernel(backend):
            return torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)

    return call


def attend(query, key, value, slopes=None):
    return torch.ops.asplash.entmax_attention(query, key, value, alibi_slopes=slopes)


def forward(query, key, value, slopes=None, with_statistics=False):
    """out, tau, mean_value, weight_sum, tile_mask, support, statistics"""
    return torch.ops.asplash.entmax_attention_forward(query, key, value, alibi_slopes=slopes,
                                                      with_statistics=with_statistics)


def zero_tile_share(tensors, slopes=None):
    zero_tiles, tiles = forward(*tensors, slopes, with_statistics=True)[-1][:2].tolist()
    return zero_tiles / tiles


def passes(tensors, slopes=None):
    """Shares of the rows whose threshold was final after 1, 2, 3, more passes."""
    counts = forward(*tensors, slopes, with_statistics=True)[-1][4:]
    return (counts / counts.sum().clamp_min(1)).tolist()


def own_version():
    """The checkout's commit, and whether files differ from it; the library is taken to be built from it."""
    git = subprocess.run(["git", "-C", os.path.dirname(os.path.abspath(__file__)), "describe", "--always", "--dirty"],
                         capture_output=True, text=True, check=False)
    return git.stdout.strip()


def load_adasplash(folder):
    if folder:
        sys.path.insert(0, folder)
    try:
        from adasplash import adasplash_v2
    except Exception as error:  # noqa: BLE001: whatever its import meets
        return Impl(None, "", f"adasplash cannot be imported ({type(error).__name__}: {error}); --adasplash FOLDER")
    try:
        version = importlib.metadata.version("adasplash")
    except importlib.metadata.PackageNotFoundError:
        version = "unknown"

    def call(query, key, value, slopes=None):
        if slopes is not None:
            raise RuntimeError("has no ALiBi")
        return adasplash_v2(query, key, value, niter=1)

    return Impl(call, version)


def load(library, adasplash):
    torch.ops.load_library(library)
    return {
        "asplash": Impl(attend, own_version()),
        "adasplash2": load_adasplash(adasplash),
        "flash2": Impl(dense_softmax(SDPBackend.FLASH_ATTENTION), torch.__version__),
        "cudnn": Impl(dense_softmax(SDPBackend.CUDNN_ATTENTION),
                      f"{torch.__version__}, cuDNN {torch.backends.cudnn.version()}"),
    }
