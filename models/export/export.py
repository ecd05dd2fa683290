"""Exports the quantized nets, the embedder's last layer and the manifest; the same bytes every time.

    python export.py --weights DIR --out DIR

DIR of the weights holds pnet.pt, rnet.pt, onet.pt (facenet-pytorch 2.6.0) and dlib_face_recognition_resnet_model_v1.dat
(face_recognition_models 0.3.0). No pictures are needed: activation ranges are read from ranges.json (calibrate.py measures
them), distance thresholds from thresholds.json.
"""

import argparse
import hashlib
import io
import json
import os

import numpy as np

import cascade
from graphs import dlib_backbone, mtcnn
from quantize import equalize, quantize

HERE = os.path.dirname(os.path.abspath(__file__))
# The last layer of each detector net gives coordinates and decides: it stays in floating point.
KEEP_FLOAT = {"pnet": ("out",), "rnet": ("heads",), "onet": ("heads",), "dlib": ()}
# P-Net's integer form is several times slower than its float form in the network library, so only the latter is offered.
PER_CHANNEL = {"pnet": ("conv1", "conv2", "conv3"), "rnet": (), "onet": (), "dlib": ()}
PRECISIONS = {"pnet": ["w8"], "rnet": ["w8", "int8"], "onet": ["w8", "int8"], "dlib": ["w8", "int8"]}
INPUTS = {"pnet": 12, "rnet": 24, "onet": 48, "dlib": 150}
MTCNN_ORIGIN = "facenet-pytorch 2.6.0 (PyPI), weights of the original MTCNN (Zhang et al. 2016)"
DLIB_ORIGIN = "face_recognition_models 0.3.0 (PyPI), dlib_face_recognition_resnet_model_v1 by Davis King"


def float_models(weights):
    """-> ({name: float model}, the embedder's last layer)."""
    models = {net: mtcnn(net, os.path.join(weights, f"{net}.pt")) for net in ("pnet", "rnet", "onet")}
    backbone, last = dlib_backbone(os.path.join(weights, "dlib_face_recognition_resnet_model_v1.dat"))
    return {**models, "dlib": equalize(backbone)}, last


def manifest(hashes, thresholds):
    lines = [
        "# The models of facelatch: written by models/export/export.py, do not edit by hand.",
        "# Files are verified against sha256 before they are loaded.",
        "# precisions: w8 = 8-bit weights, f32 arithmetic; int8 = 8-bit arithmetic; both come from the one file.",
        "version = 1",
    ]
    for net in ("pnet", "rnet", "onet", "dlib"):
        embedder = net == "dlib"
        lines += [
            "",
            "[[net]]",
            f'name = "{net}"',
            f'role = "{"embedder" if embedder else net}"',
            f'file = "{net}.onnx"',
            f'sha256 = "{hashes[net + ".onnx"]}"',
            f"precisions = {json.dumps(PRECISIONS[net])}",
            f"input = [{INPUTS[net]}, {INPUTS[net]}]" + ("  # the smallest; any larger size works" if net == "pnet" else ""),
            f'license = "{"CC0-1.0" if embedder else "MIT"}"',
            f'origin = "{DLIB_ORIGIN if embedder else MTCNN_ORIGIN}"',
        ]
    template = json.dumps(cascade.TEMPLATE.tolist())
    weights = json.dumps(cascade.WEIGHTS.tolist())
    lines += [
        "dimension = 128",
        "# The dense layer from the 2 x 2 x 256 feature map (channel, row, column) to the embedding, f32 [128, 1024].",
        f'last_layer = {{ file = "dlib-last.npy", sha256 = "{hashes["dlib-last.npy"]}" }}',
        "# What a pixel (0 to 255) becomes: (pixel - mean) * scale; the net's own normalisation is inside it.",
        'pixels = { order = "rgb", mean = 0.0, scale = 1.0 }',
        "# Where the eyes, the nose tip and the corners of the mouth lie in the 150 x 150 input, and how much each counts.",
        f"alignment = {{ points = {template}, weights = {weights} }}",
        f"# {thresholds['measured']}",
        "thresholds = [",
        *(
            f"    {{ fmr = {fmr}, distance = {distance}, shrink = {shrink} }},"
            for fmr, distance, shrink in thresholds["table"]
        ),
        "]",
    ]
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--out", required=True)
    arguments = parser.parse_args()
    with open(os.path.join(HERE, "ranges.json")) as file:
        ranges = json.load(file)
    with open(os.path.join(HERE, "thresholds.json")) as file:
        thresholds = json.load(file)
    models, last = float_models(arguments.weights)
    os.makedirs(arguments.out, exist_ok=True)
    files = {
        f"{net}.onnx": quantize(model, ranges[net], KEEP_FLOAT[net], PER_CHANNEL[net]).SerializeToString(deterministic=True)
        for net, model in models.items()
    }
    layer = io.BytesIO()
    np.save(layer, last)
    files["dlib-last.npy"] = layer.getvalue()
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    files["models.toml"] = manifest(hashes, thresholds).encode()
    for name, data in files.items():
        with open(os.path.join(arguments.out, name), "wb") as file:
            file.write(data)
        print(f"{name}: {len(data)} bytes")


if __name__ == "__main__":
    main()
