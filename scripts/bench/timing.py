"""Medians of GPU times."""
import functools
import statistics

import torch


@functools.lru_cache(maxsize=None)
def flush_buffer():
    """Larger than any L2 cache; zeroing it also gives the host time to enqueue the next call."""
    return torch.empty(256 << 20, dtype=torch.uint8, device="cuda")


def median_ms(call, milliseconds):
    """Median time of a call by events, caches flushed before each; as many calls as fit, 10 to 200, after warm-up."""
    def timed(count):
        events = []
        for _ in range(count):
            flush_buffer().zero_()
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            call()
            end.record()
            events.append((begin, end))
        torch.cuda.synchronize()
        return [begin.elapsed_time(end) for begin, end in events]

    timed(2)
    estimate = max(statistics.median(timed(3)), 1e-3)
    return statistics.median(timed(max(10, min(200, int(milliseconds / estimate)))))
