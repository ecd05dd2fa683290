"""Measures the activation ranges that quantization needs, over a folder of pictures of faces; writes ranges.json.

    python calibrate.py --weights DIR --images DIR [--count 150]
"""

import argparse
import glob
import json
import os
import random

import numpy as np
import onnx
from PIL import Image

import cascade
from export import KEEP_FLOAT, float_models
from quantize import quantized_tensors


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--images", required=True)
    parser.add_argument("--count", type=int, default=150)
    arguments = parser.parse_args()

    models, last = float_models(arguments.weights)
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
    detector.tap = observe
    pictures = sorted(glob.glob(os.path.join(arguments.images, "**", "*.jpg"), recursive=True))
    random.Random(7).shuffle(pictures)
    for done, path in enumerate(pictures[: arguments.count]):
        picture = np.asarray(Image.open(path).convert("RGB"))
        boxes, _, landmarks = detector.detect(picture)
        if len(boxes):
            biggest = np.argmax(boxes[:, 2] - boxes[:, 0])
            observe("dlib", cascade.align(picture, landmarks[biggest]).transpose(2, 0, 1))
        print(f"\r{done + 1} of {arguments.count} pictures", end="", flush=True)
    print()
    rounded = {
        net: {name: [float(f"{v:.4g}") for v in pair] for name, pair in tensors.items()} for net, tensors in ranges.items()
    }
    for tensors in rounded.values():
        if "input" in tensors:
            tensors["input"] = [0.0, 255.0]
    with open(os.path.join(os.path.dirname(__file__), "ranges.json"), "w") as file:
        json.dump(rounded, file, indent=1)
        file.write("\n")


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
