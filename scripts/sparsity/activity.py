"""How much of the causal half alpha-entmax leaves active: exact thresholds of captured queries and keys, and what
they keep, counted in units of keys for tiles of queries. Needs torch alone.

A unit of keys is active for a tile of query rows if one row of the tile gives one of its keys a positive weight: that
is what a kernel that skips units must compute. The rows of a causal model do not depend on what follows, so that the
first n rows of a long window are the window of n tokens: one pass counts for all context lengths.
"""

from dataclasses import dataclass, field

import torch

QUERY_TILES = (64, 128)
KEY_UNITS = (64, 32, 16, 8, 1)
ROW_ALIGNMENT = max(QUERY_TILES)
MAP_TILE = 64  # of the map of active tiles, which tells where they lie
LONG_SUPPORT = 64
MOST_STEPS = 100


def entmax_thresholds(z, alpha):
    """tau of each row with sum [z - tau]_+ ^ (1 / (alpha - 1)) = 1.

    z: [rows, keys] fp32 or fp64, (alpha - 1) times the scores minus the row's largest, -inf where a key is not visible;
    each row sees a key. Newton's method from tau = -1, which is a lower bound: the sum is convex and decreasing in
    tau, so that no step leaves the left side, and each one comes closer. Returns tau [rows, 1] and the largest
    |sum of weights - 1| over the rows.
    """
    power = 1 / (alpha - 1)
    tolerance = 1e-6 if z.dtype == torch.float32 else 1e-12
    tau = torch.full((z.shape[0], 1), -1.0, dtype=z.dtype, device=z.device)
    for _ in range(MOST_STEPS):
        excess = (z - tau).clamp_(min=0)
        if alpha == 1.5:
            total = torch.linalg.vector_norm(excess, dim=1, keepdim=True).square()
            slope = 2 * excess.sum(1, keepdim=True)
        elif alpha == 2:
            total = excess.sum(1, keepdim=True)
            slope = (excess > 0).sum(1, keepdim=True)
        else:
            weight = excess.pow(power - 1)
            slope = power * weight.sum(1, keepdim=True)
            total = weight.mul_(excess).sum(1, keepdim=True)
        step = (total - 1) / slope
        tau += step
        if step.abs().max() <= tolerance:
            return tau, (total - 1).abs().max().item()
    raise RuntimeError(f"no thresholds after {MOST_STEPS} steps, the last one {step.abs().max().item():.3g}: "
                       "the scores are not finite?")


@dataclass
class HeadActivity:
    """One head over one window. Counts are exact; index of the lists: the query tile."""
    active: dict = field(default_factory=dict)  # (query tile, key unit) -> [tiles] active units
    support: list = field(default_factory=list)  # chunks of [rows] keys with a positive weight
    tile_map: list = field(default_factory=list)  # chunks of [rows / 64, tokens / 64] bool


class WindowActivity:
    """All heads of one layer over one window, and how many units are visible at all."""

    def __init__(self, heads, tokens):
        self.tokens = tokens
        self.heads = [HeadActivity() for _ in range(heads)]
        self.visible = {}  # (query tile, key unit) -> [tiles]
        self.visible_keys = []  # chunks of [rows]
        self.worst_residual = 0.0

    def _count(self, allowed, counts):
        for tile in QUERY_TILES:
            rows = allowed.view(-1, tile, allowed.shape[1]).any(1)
            for unit in KEY_UNITS:
                units = rows.view(rows.shape[0], -1, unit).any(2)
                counts.setdefault((tile, unit), []).append(units.sum(1).cpu())

    def add_visible(self, visible):
        self.visible_keys.append(visible.sum(1).cpu())
        self._count(_aligned(visible), self.visible)

    def add_head(self, head, active, residual):
        activity = self.heads[head]
        activity.support.append(active.sum(1).cpu())
        aligned = _aligned(active)
        self._count(aligned, activity.active)
        tiles = aligned.view(aligned.shape[0] // MAP_TILE, MAP_TILE, -1, MAP_TILE).any(3).any(1).cpu()
        width = -(-self.tokens // MAP_TILE)
        activity.tile_map.append(torch.nn.functional.pad(tiles, (0, width - tiles.shape[1])))
        self.worst_residual = max(self.worst_residual, residual)

    def numbers(self, head, context):
        """Sums over the window's first `context` tokens, a multiple of 128 or all: they may be added over heads,
        layers and windows."""
        activity, sums = self.heads[head], {}
        for (tile, unit), counts in activity.active.items():
            tiles = -(-context // tile)
            sums[f"active_{tile}x{unit}"] = int(torch.cat(counts)[:tiles].sum())
            sums[f"visible_{tile}x{unit}"] = int(torch.cat(self.visible[tile, unit])[:tiles].sum())
        support = torch.cat(activity.support)[:context]
        sums["rows"] = support.numel()
        sums["support"] = int(support.sum())
        sums["largest_support"] = int(support.max())
        sums["rows_over_64"] = int((support > LONG_SUPPORT).sum())
        sums["visible_pairs"] = int(torch.cat(self.visible_keys)[:context].sum())
        sums.update(_places(torch.cat(activity.tile_map)[:-(-context // MAP_TILE)]))
        return sums


def _places(tiles):
    """Where the active 64 x 64 tiles lie; tiles: [query tiles, key tiles] bool. A tile may be first and diagonal."""
    queries, keys = tiles.nonzero(as_tuple=True)
    distance = queries - keys
    count = tiles.shape[0]
    per_column = tiles[:, :count].sum(0)
    return {"tiles": int(tiles.sum()),
            "tiles_first": int((keys == 0).sum()),
            "tiles_diagonal": int((distance == 0).sum()),
            "tiles_near": int(((distance > 0) & (distance <= 4)).sum()),
            "columns": count,
            "busiest_column": int(per_column.max())}


def _aligned(pairs):
    """Rows filled up to whole query tiles and keys to whole units, with nothing in them."""
    rows, keys = pairs.shape
    return torch.nn.functional.pad(pairs, (0, -keys % MAP_TILE, 0, -rows % ROW_ALIGNMENT))


def measure_layer(query, key, slopes, scale, alpha, cu_seqlens, chunk_rows=1024, dtype=torch.float32):
    """query: [heads, tokens, head_dim]; key: [kv_heads, tokens, head_dim]; slopes: of each head; cu_seqlens:
    [documents + 1], from 0 to tokens. Works on the tensors' device, chunk_rows (a multiple of 128) rows of one head at
    a time. Returns a WindowActivity."""
    assert chunk_rows % ROW_ALIGNMENT == 0, chunk_rows
    heads, tokens, _ = query.shape
    group = heads // key.shape[0]
    device = query.device
    query, key = query.to(dtype), key.to(dtype)
    positions = torch.arange(tokens, device=device)
    boundaries = cu_seqlens.to(device=device, dtype=torch.int64)
    first_key = boundaries[torch.searchsorted(boundaries, positions, right=True) - 1]
    window = WindowActivity(heads, tokens)
    for begin in range(0, tokens, chunk_rows):
        end = min(tokens, begin + chunk_rows)
        distance = positions[begin:end, None] - positions[None, :end]
        visible = (distance >= 0) & (positions[None, :end] >= first_key[begin:end, None])
        window.add_visible(visible)
        for head in range(heads):
            scores = query[head, begin:end] @ key[head // group, :end].T
            scores *= scale
            if slopes[head] != 0:
                scores -= slopes[head] * distance
            z = scores.mul_(alpha - 1).masked_fill_(~visible, -torch.inf)
            z -= z.amax(1, keepdim=True)
            tau, residual = entmax_thresholds(z, alpha)
            window.add_head(head, z > tau, residual)
    return window
