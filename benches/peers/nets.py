"""Each net alone, facelatch beside onnxruntime, on one thread: processor time, the best of some turns.

    target/peers/venv/bin/python benches/peers/nets.py [TURNS]          (made by `make peers`; the example `cost` is built in release)

onnxruntime calculates the file as it is, in integers, and once more with its weights dequantized beforehand, in floating point, which is what facelatch makes of it as w8.
"""

import os
import resource
import subprocess
import sys
import time

import numpy as np
import onnx
import onnxruntime

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
sys.path.insert(0, os.path.join(ROOT, "models", "export"))
from quantize import dequantized  # noqa: E402

COST = os.path.join(ROOT, "target", "release", "examples", "cost")
# File, input, runs in a turn.
NETS = {
    "pnet": ("pnet", [1, 3, 120, 160], 300),
    "rnet": ("rnet", [1, 3, 24, 24], 4000),
    "onet": ("onet", [1, 3, 48, 48], 1200),
    "embedder": ("dlib", [1, 3, 150, 150], 60),
}


def processor_time_of(net, precision, times):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**os.environ, "RAYON_NUM_THREADS": "1"}
    subprocess.run([COST, net, precision, str(times)], check=True, cwd=ROOT, env=environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def facelatch(net, precision, times):
    """Seconds for one run: what is prepared before, and takes as long for one run, is subtracted."""
    return (processor_time_of(net, precision, times + 1) - processor_time_of(net, precision, 1)) / times


def session(model):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def other(session, shape, times):
    inputs = {session.get_inputs()[0].name: np.full(shape, 128, np.float32)}
    session.run(None, inputs)
    begun = time.process_time()
    for _ in range(times):
        session.run(None, inputs)
    return (time.process_time() - begun) / times


def main():
    turns = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    print("| net | facelatch w8 / int8, ms | onnxruntime f32 / int8, ms | w8 against f32 | int8 against int8 |\n|---|---|---|---|---|")
    for net, (file, shape, times) in NETS.items():
        model = onnx.load(os.path.join(ROOT, "models", f"{file}.onnx"))
        sessions = [session(dequantized(model)), session(model)]
        measured = [
            [facelatch(net, precision, times) for precision in ("w8", "int8")] + [other(s, shape, times) for s in sessions]
            for _ in range(turns)
        ]
        w8, int8, real, integers = (1000 * min(column) for column in zip(*measured))
        print(f"| {net} | {w8:.3f} / {int8:.3f} | {real:.3f} / {integers:.3f} | {w8 / real:.2f} | {int8 / integers:.2f} |", flush=True)


if __name__ == "__main__":
    main()
