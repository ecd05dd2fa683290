"""Golden values for the program's tests, computed with onnxruntime and numpy only.

    python golden.py --pictures tests/data --models models --weights DIR --out tests/golden/portraits.json
    python golden.py --pictures tests/data --reference DIR --out tests/golden/reference_models.json

The first uses this project's files in both precisions, and MobileFaceNet's float net from the weights that export.py takes. The
second uses a folder of separately exported files (pnet_w8.onnx,
rnet_int8.onnx, dlib_w8.onnx ...), in which the embedder is one net whose output is the embedding before normalisation.
"""

import argparse
import glob
import json
import os

import numpy as np
import onnx
from PIL import Image

import cascade
from graphs import mobilefacenet
from quantize import dequantized


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", required=True)
    parser.add_argument("--models")
    parser.add_argument("--weights")
    parser.add_argument("--reference")
    parser.add_argument("--out", required=True)
    arguments = parser.parse_args()
    chains = own_chains(arguments.models) if arguments.models else reference_chains(arguments.reference)
    paths = [p for p in sorted(glob.glob(os.path.join(arguments.pictures, "*"))) if p.endswith((".jpg", ".png"))]
    golden = {"pictures": [describe(path, chains) for path in paths]}
    if arguments.models:
        add_mobilefacenet(golden["pictures"], arguments)
        golden["nets"] = net_values(arguments.models)
    with open(arguments.out, "w") as file:
        json.dump(golden, file)
        file.write("\n")


def own_chains(folder):
    int8 = {net: onnx.load(os.path.join(folder, f"{net}.onnx")) for net in ("pnet", "rnet", "onet", "dlib")}
    w8 = {net: dequantized(model) for net, model in int8.items()}
    last = np.load(os.path.join(folder, "dlib-last.npy"))
    return {
        precision: (
            cascade.Cascade(w8["pnet"], nets["rnet"], nets["onet"]),
            cascade.session(nets["dlib"]),
            last,
        )
        for precision, nets in (("w8", w8), ("int8", int8))
    }


def reference_chains(folder):
    path = lambda net, precision: os.path.join(folder, f"{net}_{precision}.onnx")
    return {
        precision: (
            cascade.Cascade(path("pnet", "w8"), path("rnet", precision), path("onet", precision)),
            cascade.session(path("dlib", precision)),
            None,
        )
        for precision in ("w8", "int8")
    }


def describe(path, chains):
    picture = np.asarray(Image.open(path).convert("RGB"))
    entry = {"picture": os.path.basename(path), "width": picture.shape[1], "height": picture.shape[0]}
    for precision, (detector, embedder, last) in chains.items():
        boxes, scores, landmarks = detector.detect(picture)
        biggest = int(np.argmax(boxes[:, 2] - boxes[:, 0]))
        # Rounded as written, so that whoever starts from the written landmarks cuts out the same face.
        points = np.array(rounded(landmarks[biggest], 3))
        face = cascade.align(picture, points)
        entry[precision] = {
            "detections": [
                {"box": rounded(box, 3), "score": round(float(score), 5), "landmarks": rounded(five, 3)}
                for box, score, five in zip(boxes, scores, landmarks)
            ],
            "biggest": biggest,
            "similarity": rounded(np.array(cascade.similarity(points)), 6),
            "embedding": rounded(cascade.embed(embedder, face, last), 6),
        }
    return entry


def add_mobilefacenet(entries, arguments):
    """Embeddings by the float net and by both forms of the file, from the landmarks that are written for w8."""
    exact, last = mobilefacenet(os.path.join(arguments.weights, "MobileFaceNet.tflite"))
    int8 = onnx.load(os.path.join(arguments.models, "mobilefacenet.onnx"))
    nets = {name: cascade.session(net) for name, net in (("f32", exact), ("w8", dequantized(int8)), ("int8", int8))}
    for entry in entries:
        picture = np.asarray(Image.open(os.path.join(arguments.pictures, entry["picture"])).convert("RGB"))
        found = entry["w8"]["detections"][entry["w8"]["biggest"]]
        face = cascade.align_arcface(picture, np.array(found["landmarks"]))
        entry["mobilefacenet"] = {name: rounded(cascade.embed(net, face, last), 5) for name, net in nets.items()}


def net_values(folder):
    """Each net alone on a made-up input: value at channel c, row y, column x is (c·7919 + y·104729 + x·1299709) mod 256."""
    values = {}
    sizes = {"pnet": (40, 56), "rnet": (24, 24), "onet": (48, 48), "dlib": (150, 150), "mobilefacenet": (112, 112)}
    for net, (height, width) in sizes.items():
        c, y, x = np.mgrid[:3, :height, :width]
        planes = ((c * 7919 + y * 104729 + x * 1299709) % 256).astype(np.float32)
        model = onnx.load(os.path.join(folder, f"{net}.onnx"))
        for precision, form in (("w8", dequantized(model)), ("int8", model)):
            if net == "pnet" and precision == "int8":
                continue
            out = cascade.run(cascade.session(form), planes)
            values[f"{net} {precision}"] = {"height": height, "width": width, "values": rounded(out.ravel(), 5)}
    return values


def rounded(array, digits):
    return np.round(np.asarray(array, np.float64), digits).tolist()


if __name__ == "__main__":
    main()
