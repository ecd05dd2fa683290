"""Exports the quantized nets, the embedder's last layers and the manifest; the same bytes every time.

    python export.py --weights DIR --out DIR

DIR of the weights holds pnet.pt, rnet.pt, onet.pt (facenet-pytorch 2.6.0) and dlib_face_recognition_resnet_model_v1.dat
(face_recognition_models 0.3.0). No pictures are needed: activation ranges are read from ranges.json (calibrate.py measures
them), distance thresholds from thresholds.json. The last layer trained by `facelatch train` (see README.md) is taken as it is.
"""

import argparse
import io
import json
import os

import numpy as np
from blake3 import blake3

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
# The embedders that share dlib's net: name, file of the last layer, what was done to it.
EMBEDDERS = [
    ("dlib", "dlib-last.npy", ""),
    ("dlib-triplet", "dlib-triplet.npy", "; last layer trained by triplet loss on folds 1 to 5 of Labeled Faces in the Wild"),
]
# Made by `make hidden`, of no weights that are exported here.
HIDDEN = "dlib-hidden.npy"
MTCNN_ORIGIN = "facenet-pytorch 2.6.0 (PyPI), weights of the original MTCNN (Zhang et al. 2016)"
DLIB_ORIGIN = "face_recognition_models 0.3.0 (PyPI), dlib_face_recognition_resnet_model_v1 by Davis King"


def float_models(weights):
    """-> ({name: float model}, the embedder's last layer)."""
    models = {net: mtcnn(net, os.path.join(weights, f"{net}.pt")) for net in ("pnet", "rnet", "onet")}
    backbone, last = dlib_backbone(os.path.join(weights, "dlib_face_recognition_resnet_model_v1.dat"))
    return {**models, "dlib": equalize(backbone)}, last


def manifest(checksums, thresholds):
    lines = [
        "# The models of facelatch: written by models/export/export.py, do not edit by hand.",
        "# Files are verified against their checksums (b3sum prints them) before they are loaded.",
        "# precisions: w8 = 8-bit weights, f32 arithmetic; int8 = 8-bit arithmetic; both come from the one file.",
        "version = 1",
    ]
    for net in ("pnet", "rnet", "onet"):
        lines += entry(net, net, net, checksums, "MIT", MTCNN_ORIGIN)
    template = json.dumps(cascade.TEMPLATE.tolist())
    weights = json.dumps(cascade.WEIGHTS.tolist())
    for name, layer, done in EMBEDDERS:
        lines += entry(name, "embedder", "dlib", checksums, "CC0-1.0", DLIB_ORIGIN + done)
        lines += [
            "dimension = 128",
            "# The dense layer from the 2 x 2 x 256 feature map (channel, row, column) to the embedding, f32 [128, 1024].",
            f'last_layer = {{ file = "{layer}", checksum = "{checksums[layer]}" }}',
            "# What tells from the features that the mouth or the eyes are hidden, f32 [2, 1025] (make hidden); for enrolment only.",
            f'hidden = {{ file = "{HIDDEN}", checksum = "{checksums[HIDDEN]}" }}',
            "# What a pixel (0 to 255) becomes: (pixel - mean) * scale; the net's own normalisation is inside it.",
            'pixels = { order = "rgb", mean = 0.0, scale = 1.0 }',
            "# Where the eyes, the nose tip and the corners of the mouth lie in the 150 x 150 input, and how much each counts.",
            f"alignment = {{ points = {template}, weights = {weights} }}",
            f"# {thresholds[name]['measured']}",
            *table("thresholds", thresholds[name]["table"]),
            "# The same with mirror images averaged in.",
            *table("mirror_thresholds", thresholds[name]["mirror"]),
        ]
    return "\n".join(lines) + "\n"


def entry(name, role, net, checksums, license_name, origin):
    return [
        "",
        "[[net]]",
        f'name = "{name}"',
        f'role = "{role}"',
        f'file = "{net}.onnx"',
        f'checksum = "{checksums[net + ".onnx"]}"',
        f"precisions = {json.dumps(PRECISIONS[net])}",
        f"input = [{INPUTS[net]}, {INPUTS[net]}]" + ("  # the smallest; any larger size works" if net == "pnet" else ""),
        f'license = "{license_name}"',
        f'origin = "{origin}"',
    ]


def table(name, rows):
    """Rows of rate and distance, and of the shrink where that was measured."""

    def row(fmr, distance, *shrink):
        return f"    {{ fmr = {fmr}, distance = {distance}" + "".join(f", shrink = {s}" for s in shrink) + " },"

    return [f"{name} = [", *(row(*values) for values in rows), "]"]


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
    for kept in ("dlib-triplet.npy", HIDDEN):
        with open(os.path.join(HERE, "..", kept), "rb") as file:
            files[kept] = file.read()
    checksums = {name: f"blake3:{blake3(data).hexdigest()}" for name, data in files.items()}
    files["models.toml"] = manifest(checksums, thresholds).encode()
    for name, data in files.items():
        with open(os.path.join(arguments.out, name), "wb") as file:
            file.write(data)
        print(f"{name}: {len(data)} bytes")


if __name__ == "__main__":
    main()
