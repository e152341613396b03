"""Inputs for benchmarks: a known share of all-zero 64 x 64 tiles, and ALiBi slopes."""
import torch

TILE = 64


def tiles(tokens, head_dim, share, heads, dtype=torch.bfloat16, seed=0):
    """query, key, value [1, heads, tokens, head_dim] whose causal 1.5-entmax has about `share` all-zero tiles.

    Half of the dimensions hold topics, half noise. Each key tile has one topic, each query tile asks for a random
    part (1 - share) of all topics, its own among them. A matching pair of tiles lies 4 above the others in z, whose
    window of positive weights is at most 1 wide; noise within it is 0.3.
    """
    generator = torch.Generator("cuda").manual_seed(seed)

    def random(*sizes):
        return torch.rand(*sizes, device="cuda", generator=generator)

    def normal(*sizes):
        return torch.randn(*sizes, device="cuda", generator=generator)

    topics, count = head_dim // 2, (tokens + TILE - 1) // TILE
    lift = (4 * 2 * head_dim**0.5) ** 0.5  # squared, times 1/sqrt(d) of attention and 1/2 of 1.5-entmax: 4
    topic = (random(heads, count) * topics).long()
    own = torch.nn.functional.one_hot(topic, topics).float()
    asked = max(1, round((1 - share) * topics))
    preference = random(heads, count, topics) - own  # the smallest are asked for, one's own first
    wanted = (preference.argsort(-1).argsort(-1) < asked).float()

    def with_noise(of_tile):
        codes = (lift * of_tile).repeat_interleave(TILE, dim=1)[:, :tokens]
        return torch.cat([codes, 0.92 * normal(heads, tokens, head_dim - topics)], -1).to(dtype)[None]

    return with_noise(wanted), with_noise(own), normal(1, heads, tokens, head_dim).to(dtype)


def gaussian(tokens, head_dim, spread, heads, dtype=torch.bfloat16, seed=0):
    """query, key, value of standard deviation `spread` each."""
    generator = torch.Generator("cuda").manual_seed(seed)
    return tuple((spread * torch.randn(1, heads, tokens, head_dim, device="cuda", generator=generator)).to(dtype)
                 for _ in range(3))


def half_alibi(heads):
    """The first half of the heads are ALiBi heads of slopes 2^-h (h from 0), the rest have none: NAPE."""
    return torch.tensor([2.0**-h if h < heads // 2 else 0.0 for h in range(heads)], device="cuda")
