"""Runs facelatch and its peers in turn on the same frames and prints how many times as long each takes.

    python compare.py FACELATCH FRAMES WORK PEER...
"""

import json
import os
import subprocess
import sys
from pathlib import Path

# A configuration that others can write is refused.
os.umask(0o022)

HERE = Path(__file__).resolve().parent
# Each program's turn comes so often, and its best turn counts: what else the machine does can only make it slower.
ROUNDS, SECONDS = 3, 4
WORDS = {
    "w8": "facelatch, w8",
    "int8": "facelatch, int8",
    "ort": "Python, onnxruntime: the same files and cascade",
    "hog": "face_recognition: dlib's HOG, one upsampling, and ResNet",
    "haar": "OpenCV's Haar cascade, which only detects",
}
STAGES = ["detect", "embed", "frame"]


def facelatch(program, frames, work, precision, seconds):
    configuration = work / "facelatch.toml"
    configuration.write_text('mode = "attendance"\n[detection]\nmin_face = 80\n')
    command = [program, "--config", configuration, "--json", "bench", "--frames", frames, "--seconds", str(seconds)]
    return command + ["--models", HERE.parents[1] / "models", "--embedder", "dlib", "--precision", precision]


def figures_of_facelatch(answer):
    figures = {"faces": answer["stages"]["embed"]["runs"] / answer["stages"]["frame"]["runs"]}
    for of, key in (("", "median_ms"), (" cpu", "median_cpu_ms")):
        stages = {name: times[key] for name, times in answer["stages"].items()}
        # Of others the two are timed together.
        figures |= {"detect" + of: stages["detect"], "embed" + of: stages["align"] + stages["embed"], "frame" + of: stages["frame"]}
    return figures


def turn(name, cores, program, frames, work):
    ours = name in ("w8", "int8")
    command = facelatch(program, frames, work, name, SECONDS) if ours else [sys.executable, HERE / f"{name}.py", frames, str(SECONDS)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(len(cores))}
    done = subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, check=True, preexec_fn=lambda: os.sched_setaffinity(0, cores)
    )
    answer = json.loads(done.stdout)
    return figures_of_facelatch(answer) if ours else answer


def main(program, frames, work, *peers):
    frames, work = Path(frames), Path(work)
    every = sorted(os.sched_getaffinity(0))
    modes = {"one thread": every[:1], f"all {len(every)} cores": every}
    names = ["w8", "int8", *peers]
    best = {}
    for _ in range(ROUNDS):
        for mode, cores in modes.items():
            for name in names:
                figures = turn(name, cores, program, frames, work)
                before = best.setdefault((mode, name), figures)
                best[mode, name] = {key: min(figures[key], before[key]) for key in figures}
    (work / "figures.json").write_text(json.dumps({f"{mode}: {name}": f for (mode, name), f in best.items()}, indent=1))
    for mode, cores in modes.items():
        # Of one thread the processor time tells what it takes on a machine that does nothing else; of several it does not.
        of = " cpu" if len(cores) == 1 else ""
        base = best[mode, "w8"]
        print(f"\n| {mode} | detect | align and embed | a fresh frame | faces found |\n|---|---|---|---|---|")
        for name in names:
            figures = best[mode, name]
            cells = [f"{figures[stage + of] / base[stage + of]:.2f}" if stage in figures else "–" for stage in STAGES]
            print(f"| {WORDS[name]} | {' | '.join(cells)} | {figures['faces']:.2f} |")
    print(f"\n1 is {best['one thread', 'w8']['frame cpu']:.1f} ms of processor time for a fresh frame on one thread here")


if __name__ == "__main__":
    main(*sys.argv[1:])
