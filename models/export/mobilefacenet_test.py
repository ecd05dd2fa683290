"""The reader of TensorFlow Lite files and the float graph made of one.

    python mobilefacenet_test.py --tflite FILE [--reference mobilefacenet_f32.onnx]

Broken files and unknown operators are refused with the file named. With another conversion of the file (input
1 x 3 x 112 x 112, (pixel - 127.5) / 128), the embeddings are compared with that one's.
"""

import argparse
import os
import tempfile

import numpy as np

import cascade
from graphs import mobilefacenet
from weights import _FlatBuffer, read_tflite


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tflite", required=True)
    parser.add_argument("--reference")
    arguments = parser.parse_args()
    with open(arguments.tflite, "rb") as file:
        data = file.read()
    with tempfile.TemporaryDirectory() as folder:
        refuses_broken_files(data, os.path.join(folder, "broken.tflite"))
        refuses_layers_that_do_not_fit(data, os.path.join(folder, "unfit.tflite"))
        refuses_other_operators(data, os.path.join(folder, "other.tflite"))
    if arguments.reference:
        compare(arguments)
    print("mobilefacenet: broken files are refused")


def refusal(path, data):
    with open(path, "wb") as file:
        file.write(data)
    try:
        mobilefacenet(path)
    except ValueError as error:
        assert path in str(error), error
        return str(error)
    raise AssertionError(f"{path}: {len(data)} bytes were taken for the net")


def refuses_broken_files(data, path):
    for length in (0, 4, 8, 100, 10_000, len(data) // 2, len(data) - 10_000):
        refusal(path, data[:length])
    refusal(path, b"\0" * 8 + data[8:])
    refusal(path, data[:4] + b"TFL2" + data[8:])


def refuses_layers_that_do_not_fit(data, path):
    """Each operator in turn reads a tensor that nothing makes, or writes none."""
    buffer = _FlatBuffer(data)
    graph = buffer.tables(buffer.reference(0), 2)[0]
    tensors = len(buffer.tables(graph, 0))
    for operator in buffer.tables(graph, 3)[1:-1:7]:
        for field, values in ((1, (tensors - 1, tensors, 2**31 - 1)), (2, ())):
            place = buffer.table(operator, field)
            changed = bytearray(data)
            changed[place : place + 4] = (len(values) and 1).to_bytes(4, "little")
            for value in values:
                changed[place + 4 : place + 8] = value.to_bytes(4, "little")
                refusal(path, bytes(changed))
            refusal(path, bytes(changed))


def refuses_other_operators(data, path):
    """Each operator's number in turn becomes that of the hyperbolic tangent, 28; a 0 (add) is not written in the file."""
    with open(path, "wb") as file:
        file.write(data)
    kinds = {operator[0] for operator in read_tflite(path)[0]}
    for name, number in {"conv": 3, "depthwise": 4, "mul": 18, "relu": 19, "sub": 41, "abs": 101}.items():
        assert name in kinds
        changed = bytearray(data)
        places = [place for place in operator_codes(data) if data[place] == number]
        assert places, name
        for place in places:
            changed[place] = 28
        assert "operator 28" in refusal(path, bytes(changed)), name


def operator_codes(data):
    buffer = _FlatBuffer(data)
    fields = [buffer.field(table, field) for table in buffer.tables(buffer.reference(0), 1) for field in (0, 3)]
    return [place for place in fields if place is not None]


def compare(arguments):
    model, last = mobilefacenet(arguments.tflite)
    own, other = cascade.session(model), cascade.session(arguments.reference)
    for seed in range(6):
        random = np.random.default_rng(seed)
        planes = random.integers(0, 256, (3, 112, 112)) if seed else np.full((3, 112, 112), 200)
        ours = last.astype(np.float64) @ cascade.run(own, planes.astype(np.float32)).ravel()
        theirs = cascade.run(other, (planes.astype(np.float32) - 127.5) / 128).ravel()
        assert np.abs(ours - theirs).max() < 1e-4, np.abs(ours - theirs).max()
    print("mobilefacenet: another conversion of the file gives the same embeddings, to 1e-4")


if __name__ == "__main__":
    main()
