"""Runs a training program, samples its memory, and judges the whole: see long_run.sh, which calls this.

    watch_run.py STEPS PROGRAM [ARGUMENT...]     in a folder whose configuration trains into run/

Prints one line for each promise, "ok" or "BROKEN", and ends with status 1 if any was broken.
"""
import json
import os
import statistics
import subprocess
import sys
import time

FIRST_STEP = 500  # from here on everything the run does has happened at least once
MOST_GROWTH = 1 << 20  # bytes; what an allocator may still shift about
MOST_SLOWDOWN = 1.25
MOST_SLOWDOWN_SHORT = 2  # below LONG steps, where other programs on the machine count for more
LONG = 10000
LOG_BYTES = 1 << 20
OLDER_LOGS = 3


def last_step(path):
    """The step of the last whole line of metrics.jsonl, 0 where there is none yet."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, os.path.getsize(path) - 4096))
            lines = file.read().split(b"\n")
    except FileNotFoundError:
        return 0
    return json.loads(lines[-2])["step"] if len(lines) > 1 else 0


def private_memory(pid):
    """Bytes of resident memory that are the process's own; mapped files come and go as the system likes."""
    with open(f"/proc/{pid}/status") as file:
        for line in file:
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
    return 0  # it has ended


def watch(command, pause):
    """Runs the command with its output in a pipe, as a batch system does; returns (step, bytes) samples and status."""
    samples = []
    with open("output.log", "wb") as output:
        tee = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=output)
        run = subprocess.Popen(command, stdout=tee.stdin, stderr=tee.stdin)
        tee.stdin.close()
        while run.poll() is None:
            sample = (last_step("run/metrics.jsonl"), private_memory(run.pid))
            if sample[1] > 0:
                samples.append(sample)
            time.sleep(pause)
        tee.wait()
    with open("memory.tsv", "w") as file:
        file.writelines(f"{step}\t{memory}\n" for step, memory in samples)
    return samples, run.returncode


def judge(ok, what):
    print(f"{'ok' if ok else 'BROKEN'}: {what}", flush=True)
    return ok


def judge_memory(samples, steps):
    """The highest value before a tenth of the rest has passed against the highest of the last half: peaks, since
    saving holds copies for a moment."""
    early_end = FIRST_STEP + max(500, (steps - FIRST_STEP) // 10)
    early = [memory for step, memory in samples if FIRST_STEP <= step < early_end]
    late = [memory for step, memory in samples if step >= (FIRST_STEP + steps) // 2]
    if len(early) < 5 or len(late) < 5:
        return judge(False, f"memory: only {len(early)} and {len(late)} samples")
    growth = max(late) - max(early)
    medians = statistics.median(late) - statistics.median(early)
    return judge(
        growth <= MOST_GROWTH and medians <= MOST_GROWTH,
        f"memory: peak {max(early) / 2**20:.2f} MiB in steps {FIRST_STEP} to {early_end}, {max(late) / 2**20:.2f} MiB "
        f"in the last half ({growth / 2**10:+.0f} KiB; medians {medians / 2**10:+.0f} KiB), {len(samples)} samples")


def judge_speed(lines, steps):
    """The fastest tenth of the steps of both parts: what else the machine does only ever slows steps down."""
    def typical(first, last):
        times = sorted(line["step_ms"] for line in lines if first <= line["step"] < last)
        return times[len(times) // 10]

    part = (steps - FIRST_STEP) // 4
    early, late = typical(FIRST_STEP, FIRST_STEP + part), typical(steps - part, steps)
    most = MOST_SLOWDOWN if steps >= LONG else MOST_SLOWDOWN_SHORT
    return judge(late <= most * early,
                 f"speed: {early:.3f} ms a step in the first quarter, {late:.3f} ms in the last ({late / early:.3f} times)")


def judge_logs(steps, lines):
    sizes = {name: os.path.getsize(f"run/{name}") for name in sorted(os.listdir("run")) if name.endswith(".log")}
    bounded = max(sizes.values()) <= LOG_BYTES and len(sizes) <= 1 + OLDER_LOGS
    said = ", ".join(f"{name} {size / 2**20:.2f} MiB" for name, size in sizes.items())
    ok = judge(bounded, f"train.log: {said}, at most {LOG_BYTES / 2**20:.0f} MiB each")
    complete = [line["step"] for line in lines] == list(range(1, steps + 1))
    size = os.path.getsize("run/metrics.jsonl")
    return judge(complete, f"metrics.jsonl: {len(lines)} steps, {size / 2**20:.2f} MiB, {size // steps} bytes a step") and ok


def judge_output():
    with open("output.log", "rb") as file:
        output = file.read()
    return judge(b"\r" not in output and b"\x1b" not in output,
                 f"output in a pipe: {output.count(10)} lines without control characters")


def main():
    steps = int(sys.argv[1])
    begin = time.time()
    samples, status = watch(sys.argv[2:], pause=max(0.02, min(0.5, steps / 40000)))
    if not judge(status == 0, f"{steps} steps in {time.time() - begin:.0f} s, exit status {status}"):
        with open("output.log") as file:
            sys.exit("".join(file.readlines()[-5:]))
    with open("run/metrics.jsonl") as file:
        lines = [line for line in map(json.loads, file) if "event" not in line]
    results = [judge_memory(samples, steps), judge_speed(lines, steps), judge_logs(steps, lines), judge_output()]
    sys.exit(0 if all(results) else 1)


if __name__ == "__main__":
    main()
