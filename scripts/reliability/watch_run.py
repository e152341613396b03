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


def processor_time(pid):
    """Seconds that the process has computed, in all its threads, whatever else the machine was doing."""
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()  # from the third on; the second, in brackets, may hold spaces
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def watch(command, pause):
    """Runs the command with its output in a pipe, as a batch system does; returns (step, bytes, seconds of processor
    time) samples and status."""
    samples = []
    with open("output.log", "wb") as output:
        tee = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=output)
        run = subprocess.Popen(command, stdout=tee.stdin, stderr=tee.stdin)
        tee.stdin.close()
        while run.poll() is None:
            sample = (last_step("run/metrics.jsonl"), private_memory(run.pid), processor_time(run.pid))
            if sample[1] > 0:
                samples.append(sample)
            time.sleep(pause)
        tee.wait()
    with open("memory.tsv", "w") as file:
        file.writelines(f"{step}\t{memory}\t{seconds}\n" for step, memory, seconds in samples)
    return samples, run.returncode


def judge(ok, what):
    print(f"{'ok' if ok else 'BROKEN'}: {what}", flush=True)
    return ok


def judge_memory(samples, steps):
    """The highest value before a tenth of the rest has passed against the highest of the last half: peaks, since
    saving holds copies for a moment."""
    early_end = FIRST_STEP + max(500, (steps - FIRST_STEP) // 10)
    early = [memory for step, memory, _ in samples if FIRST_STEP <= step < early_end]
    late = [memory for step, memory, _ in samples if step >= (FIRST_STEP + steps) // 2]
    if len(early) < 5 or len(late) < 5:
        return judge(False, f"memory: only {len(early)} and {len(late)} samples")
    growth = max(late) - max(early)
    medians = statistics.median(late) - statistics.median(early)
    return judge(
        growth <= MOST_GROWTH and medians <= MOST_GROWTH,
        f"memory: peak {max(early) / 2**20:.2f} MiB in steps {FIRST_STEP} to {early_end}, {max(late) / 2**20:.2f} MiB "
        f"in the last half ({growth / 2**10:+.0f} KiB; medians {medians / 2**10:+.0f} KiB), {len(samples)} samples")


def clock_of_steps(lines, first, last):
    """Milliseconds of the fastest tenth of the steps: what else the machine does only ever slows steps down."""
    times = sorted(line["step_ms"] for line in lines if first <= line["step"] < last)
    return times[len(times) // 10]


def processor_time_of_steps(samples, first, last):
    """Milliseconds of processor time a step, evaluations and saves between them included."""
    inside = [(step, seconds) for step, _, seconds in samples if first <= step < last]
    if len(inside) < 2 or inside[0][0] == inside[-1][0]:
        return float("nan")
    (step, seconds), (later_step, later_seconds) = inside[0], inside[-1]
    return 1e3 * (later_seconds - seconds) / (later_step - step)


def judge_speed(samples, lines, steps):
    """Both measures in a long run. In a short one, beside other programs, one is enough: they take the cores from its
    steps, or slow its instructions down, for as long as it lasts."""
    part = (steps - FIRST_STEP) // 4
    early, late = (FIRST_STEP, FIRST_STEP + part), (steps - part, steps)
    measured = {"": (clock_of_steps(lines, *early), clock_of_steps(lines, *late)),
                " of processor time": (processor_time_of_steps(samples, *early), processor_time_of_steps(samples, *late))}
    most = MOST_SLOWDOWN if steps >= LONG else MOST_SLOWDOWN_SHORT
    holds = [after <= most * before for before, after in measured.values()]
    return judge(all(holds) if steps >= LONG else any(holds), "speed: " + "; ".join(
        f"{before:.3f} ms{what} a step in the first quarter, {after:.3f} in the last ({after / before:.3f} times)"
        for what, (before, after) in measured.items()))


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
    results = [judge_memory(samples, steps), judge_speed(samples, lines, steps), judge_logs(steps, lines), judge_output()]
    sys.exit(0 if all(results) else 1)


if __name__ == "__main__":
    main()
