"""Measures the activation ranges that quantization needs, over a folder of pictures of faces.

    python calibrate.py --weights DIR --images DIR [--count 150] [--nets mobilefacenet ...]

Writes ranges.json, and for MobileFaceNet channels.json: how its channels are scaled before they are quantized.
"""

import argparse
import glob
import json
import os
import random
import textwrap

import numpy as np
import onnx
from PIL import Image

import cascade
from export import KEEP_FLOAT, float_models
from quantize import Channels, quantized_tensors

HERE = os.path.dirname(os.path.abspath(__file__))
MOBILE = "mobilefacenet"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--images", required=True)
    parser.add_argument("--count", type=int, default=150)
    parser.add_argument("--nets", nargs="*", help="only these; the others' ranges stay as they are")
    arguments = parser.parse_args()

    models, _ = float_models(arguments.weights)
    mobile = models.pop(MOBILE)
    names = {net: quantized_tensors(model, KEEP_FLOAT[net]) for net, model in models.items()}
    sessions = {net: cascade.session(_with_outputs(model, names[net])) for net, model in models.items()}
    ranges = {net: {name: [0.0, 0.0] for name in names[net]} for net in models}

    def observe(net, planes):
        inside = [name for name in names[net] if name != "input"]
        values = sessions[net].run(inside, {"input": planes[None].astype(np.float32)})
        for name, value in [("input", planes), *zip(inside, values)]:
            if name in ranges[net]:
                low, high = ranges[net][name]
                ranges[net][name] = [min(low, float(value.min())), max(high, float(value.max()))]

    detector = cascade.Cascade(models["pnet"], models["rnet"], models["onet"], same_face=0.7)  # as for the committed ranges
    detector.tap, faces = observe, []
    pictures = sorted(glob.glob(os.path.join(arguments.images, "**", "*.jpg"), recursive=True))
    random.Random(7).shuffle(pictures)
    for done, path in enumerate(pictures[: arguments.count]):
        picture = np.asarray(Image.open(path).convert("RGB"))
        boxes, _, landmarks = detector.detect(picture)
        if len(boxes):
            biggest = np.argmax(boxes[:, 2] - boxes[:, 0])
            observe("dlib", cascade.align(picture, landmarks[biggest]).transpose(2, 0, 1))
            faces.append(cascade.align_arcface(picture, landmarks[biggest]).transpose(2, 0, 1))
        print(f"\r{done + 1} of {arguments.count} pictures", end="", flush=True)
    print()
    exponents, ranges[MOBILE] = _mobile(mobile, faces)
    path = os.path.join(HERE, "ranges.json")
    with open(path) as file:
        measured = json.load(file)
    for net in arguments.nets or ranges:
        measured[net] = {name: [float(f"{v:.4g}") for v in pair] for name, pair in ranges[net].items()}
        for whole in {"input", "padded"} & set(measured[net]):
            measured[net][whole] = [0.0, 255.0]
    with open(path, "w") as file:
        json.dump(measured, file, indent=1)
        file.write("\n")
    if MOBILE in (arguments.nets or ranges):
        lines = [textwrap.fill(json.dumps(values), 98) for values in exponents.values()]
        texts = [f'"{name}":\n{line}' for name, line in zip(exponents, lines)]
        with open(os.path.join(HERE, "channels.json"), "w") as file:
            file.write("{\n" + ",\n".join(texts) + "\n}\n")


def _mobile(model, faces):
    """-> (what the channels are scaled by, ranges of the net scaled so)."""
    names = quantized_tensors(model, KEEP_FLOAT[MOBILE], inputs_only=True)

    def observed(model):
        session = cascade.session(_with_outputs(model, names))
        for face in faces:
            values = session.run(names, {"input": face[None].astype(np.float32)})
            yield {name: value[0] for name, value in zip(names, values)}

    greatest = {name: 0 for name in names}
    for values in observed(model):
        for name, value in values.items():
            greatest[name] = np.maximum(greatest[name], np.abs(value).max((1, 2)))
    exponents = Channels(model).exponents(greatest)
    ranges = {name: [0.0, 0.0] for name in names}
    for values in observed(Channels(model).equalized(exponents)):
        for name, value in values.items():
            low, high = ranges[name]
            ranges[name] = [min(low, float(value.min())), max(high, float(value.max()))]
    return exponents, ranges


def _with_outputs(model, names):
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    present = {output.name for output in copy.graph.output}
    for name in names:
        if name not in present and name != "input":
            copy.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    return copy


if __name__ == "__main__":
    main()
