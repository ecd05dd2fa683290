"""Times a peer on a folder of frames, as `facelatch bench` does with itself, and prints the figures as JSON.

What calls this takes FRAMES and SECONDS as its arguments, and may use the processors that it is allowed to run on.
"""

import json
import os
import sys
import time
from pathlib import Path
from statistics import median

import numpy as np
from PIL import Image

CORES = len(os.sched_getaffinity(0))


def run(detect, embed=None):
    """detect(picture) -> faces; embed(picture, face). Pictures are u8 [h, w, 3], RGB."""
    folder, seconds = Path(sys.argv[1]), float(sys.argv[2])
    pictures = [np.asarray(Image.open(file).convert("RGB")) for file in sorted(folder.glob("*.png"))]
    times = {stage + of: [] for stage in ("detect", "embed", "frame") for of in ("", " cpu")}
    faces, number, until = 0, 0, None

    def now():
        return np.array([time.perf_counter(), time.process_time()])

    def note(stage, spent):
        times[stage].append(spent[0])
        times[stage + " cpu"].append(spent[1])

    # The first round does not count: it warms caches.
    while until is None or time.perf_counter() < until:
        if number == len(pictures):
            times, faces, until = {stage: [] for stage in times}, 0, until or time.perf_counter() + seconds
        picture = pictures[number % len(pictures)]
        started = now()
        found = detect(picture)
        note("detect", now() - started)
        if embed:
            for face in found:
                begun = now()
                embed(picture, face)
                note("embed", now() - begun)
            note("frame", now() - started)
        faces += len(found)
        number += 1
    figures = {stage: median(values) * 1e3 for stage, values in times.items() if values}
    print(json.dumps({**figures, "faces": faces / len(times["detect"])}))
