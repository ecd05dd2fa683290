"""FaceNet for facelatch: facenet-pytorch's checkpoint of Inception-ResNet-v1 -> facenet.onnx, facenet-last.npy, facenet.toml.

    python facenet.py --checkpoint FILE --download --images DIR --models DIR --out DIR

The net is that of Szegedy, Ioffe, Vanhoucke and Alemi 2017 ("Inception-v4, Inception-ResNet and the Impact of Residual
Connections on Learning", figures 10-15) in the form that was trained on VGGFace2 and is published as 20180402-114759-vggface2.pt.
--download fetches it when FILE is not there. Another checkpoint of the same net is taken with --other-checkpoint.

Activation ranges, which integer arithmetic needs, are measured on the faces found in --images. Match thresholds are not measured
here: the manifest entry has none, so the program demands recognition.max_distance until `facelatch eval` has measured some.
"""

import argparse
import glob
import hashlib
import io
import json
import os
import sys
import urllib.request

import numpy as np
import onnx
from PIL import Image

import cascade
from graphs import Graph
from quantize import dequantized, equalize, quantize, quantized_tensors
from weights import read_torch_state

URL = "https://github.com/timesler/facenet-pytorch/releases/download/v2.2.9/20180402-114759-vggface2.pt"
SIZE = 111_898_327
SHA256 = "281cebca8662831adb987a874bdcb36e73f5b1c6dc5ee5878f305e985625d99b"

SIDE, DIMENSION = 160, 512
BATCH_NORM_EPSILON = 1e-3
# facenet-pytorch's `margin`, in pixels of the 160. Its own default is 0; 14 is what its evaluation on LFW uses, and nearer to
# what the net was trained on.
MARGIN = 14
# Mean distances from the float net's embedding, on the faces of --images. Up to the first, one scale per tensor is good enough for
# the weights (the shipped embedder's 8-bit forms are at 0.023 and 0.028); else each output channel has its own, which makes int8
# several times slower. Beyond the second a form is not offered.
GOOD_DEVIATION, MOST_DEVIATION = 0.05, 0.2

# Branches of the blocks: per convolution (output channels, kernel height, kernel width). All keep the size of the map.
BLOCK35 = [[(32, 1, 1)], [(32, 1, 1), (32, 3, 3)], [(32, 1, 1), (32, 3, 3), (32, 3, 3)]]
BLOCK17 = [[(128, 1, 1)], [(128, 1, 1), (128, 1, 7), (128, 7, 1)]]
BLOCK8 = [[(192, 1, 1)], [(192, 1, 1), (192, 1, 3), (192, 3, 1)]]
# The reductions: the last convolution of a branch halves the map; a pooled branch is added.
MIXED_6A = [[(384, 3, 3)], [(192, 1, 1), (192, 3, 3), (256, 3, 3)]]
MIXED_7A = [[(256, 1, 1), (384, 3, 3)], [(256, 1, 1), (256, 3, 3)], [(256, 1, 1), (256, 3, 3), (256, 3, 3)]]


class Builder:
    """Adds layers by the checkpoint's names; every tensor's shape is checked before it is used."""

    def __init__(self, state, path):
        self.state, self.path, self.graph, self.channels = state, path, Graph("facenet"), {"input": 3}

    def tensor(self, name, *shape):
        if name not in self.state:
            raise ValueError(f"{self.path}: {name} is missing; this is no checkpoint of Inception-ResNet-v1")
        array = self.state[name]
        if array.shape != shape:
            raise ValueError(f"{self.path}: {name} has shape {list(array.shape)}, Inception-ResNet-v1's is {list(shape)}")
        if not np.isfinite(array).all():
            raise ValueError(f"{self.path}: {name} holds numbers that are not finite")
        return array.astype(np.float64)

    def batch_norm(self, name, channels):
        """-> (factor, summand) per channel."""
        part = {key: self.tensor(f"{name}.{key}", channels) for key in ("weight", "bias", "running_mean", "running_var")}
        if (part["running_var"] < 0).any():
            raise ValueError(f"{self.path}: {name}.running_var is negative")
        factor = part["weight"] / np.sqrt(part["running_var"] + BATCH_NORM_EPSILON)
        return factor, part["bias"] - part["running_mean"] * factor

    def unit(self, source, name, outputs, height, width, stride=1, pad=None):
        """Convolution, batch normalisation (folded), Relu. Without `pad` the map keeps its size."""
        inputs = self.channels[source]
        weights = self.tensor(f"{name}.conv.weight", outputs, inputs, height, width)
        factor, bias = self.batch_norm(f"{name}.bn", outputs)
        weights = weights * factor[:, None, None, None]
        if source == "input":  # (pixel - 127.5) / 128; exact, because this convolution has no padding
            bias = bias - weights.sum((1, 2, 3)) * 127.5 / 128
            weights = weights / 128
        pad = ((height - 1) // 2, (width - 1) // 2) if pad is None else pad
        self.graph.convolution(source, weights, bias, name, stride, pad)
        return self.named(self.graph.add("Relu", [name], f"{name}.relu"), outputs)

    def branches(self, source, name, branches, shrinking=False):
        ends = []
        for number, units in enumerate(branches):
            x = source
            for place, (outputs, height, width) in enumerate(units):
                full_name = f"{name}.branch{number}" + (f".{place}" if len(units) > 1 else "")
                halves = shrinking and place == len(units) - 1
                x = self.unit(x, full_name, outputs, height, width, *((2, 0) if halves else ()))
            ends.append(x)
        return ends

    def concatenation(self, sources, name):
        self.graph.add("Concat", sources, name, axis=1)
        return self.named(name, sum(self.channels[source] for source in sources))

    def residual(self, source, name, branches, scale, relu=True):
        channels = self.channels[source]
        merged = self.concatenation(self.branches(source, name, branches), f"{name}.concat")
        weights = self.tensor(f"{name}.conv2d.weight", channels, self.channels[merged], 1, 1)
        bias = self.tensor(f"{name}.conv2d.bias", channels)
        self.graph.convolution(merged, weights * scale, bias * scale, f"{name}.conv2d")
        x = self.graph.add("Add", [f"{name}.conv2d", source], f"{name}.add")
        return self.named(self.graph.add("Relu", [x], f"{name}.out") if relu else x, channels)

    def pool(self, source, name):
        self.graph.add("MaxPool", [source], name, kernel_shape=[3, 3], strides=[2, 2])
        return self.named(name, self.channels[source])

    def reduction(self, source, name, branches):
        ends = self.branches(source, name, branches, shrinking=True)
        pooled = self.pool(source, f"{name}.branch{len(branches)}")
        return self.concatenation([*ends, pooled], f"{name}.concat")

    def named(self, name, channels):
        self.channels[name] = channels
        return name


def backbone(path):
    """-> (float model whose output 'features' [1, 1793] is the pooled map and a 1, last layer f32 [512, 1793]).

    The last layer is the checkpoint's dense layer and the batch normalisation behind it; the constant 1 among the features
    carries its bias. It is kept apart so that it can be retrained.
    """
    net = Builder(read_torch_state(path), path)
    x = net.unit("input", "conv2d_1a", 32, 3, 3, stride=2, pad=0)
    x = net.unit(x, "conv2d_2a", 32, 3, 3, pad=0)
    x = net.unit(x, "conv2d_2b", 64, 3, 3)
    x = net.pool(x, "maxpool_3a")
    x = net.unit(x, "conv2d_3b", 80, 1, 1)
    x = net.unit(x, "conv2d_4a", 192, 3, 3, pad=0)
    x = net.unit(x, "conv2d_4b", 256, 3, 3, stride=2, pad=0)
    for i in range(5):
        x = net.residual(x, f"repeat_1.{i}", BLOCK35, 0.17)
    x = net.reduction(x, "mixed_6a", MIXED_6A)
    for i in range(10):
        x = net.residual(x, f"repeat_2.{i}", BLOCK17, 0.10)
    x = net.reduction(x, "mixed_7a", MIXED_7A)
    for i in range(5):
        x = net.residual(x, f"repeat_3.{i}", BLOCK8, 0.20)
    x = net.residual(x, "block8", BLOCK8, 1.0, relu=False)
    graph, channels = net.graph, net.channels[x]
    x = graph.add("GlobalAveragePool", [x], "avgpool_1a")
    x = graph.add("Flatten", [x], "pooled", axis=1)
    graph.add("Concat", [x, graph.constant("one", np.ones((1, 1), np.float32))], "features", axis=1)
    factor, bias = net.batch_norm("last_bn", DIMENSION)
    dense = net.tensor("last_linear.weight", DIMENSION, channels) * factor[:, None]
    last = np.hstack([dense, bias[:, None]]).astype(np.float32)
    return graph.model([1, 3, SIDE, SIDE], "features", [1, channels + 1]), last


def crop(picture, box, margin=MARGIN):
    """facenet-pytorch's extract_face: the box with its margin, stretched onto a square. u8 [h, w, 3] -> u8 [160, 160, 3]."""
    x1, y1, x2, y2 = (float(edge) for edge in box)
    more_x, more_y = (margin * side / (SIDE - margin) / 2 for side in (x2 - x1, y2 - y1))
    height, width = picture.shape[:2]
    area = (int(max(x1 - more_x, 0)), int(max(y1 - more_y, 0)), int(min(x2 + more_x, width)), int(min(y2 + more_y, height)))
    return np.asarray(Image.fromarray(picture).crop(area).resize((SIDE, SIDE), Image.Resampling.BILINEAR))


def faces_of(folder, models, margin=MARGIN):
    """Every face found in the pictures of a folder: [(file name, box, u8 [160, 160, 3])]."""
    nets = [dequantized(onnx.load(os.path.join(models, f"{net}.onnx"))) for net in ("pnet", "rnet", "onet")]
    detector, faces = cascade.Cascade(*nets, same_face=0.7), []  # facenet-pytorch's, whose faces these are
    for path in sorted(glob.glob(os.path.join(folder, "**", "*"), recursive=True)):
        if path.lower().endswith((".jpg", ".jpeg", ".png")):
            picture = np.asarray(Image.open(path).convert("RGB"))
            boxes, _, _ = detector.detect(picture)
            faces += [(os.path.relpath(path, folder), box, crop(picture, box, margin)) for box in boxes]
    if not faces:
        raise ValueError(f"{folder}: no picture (.jpg, .png) with a face was found; activation ranges cannot be measured")
    return faces


def variations(face):
    """A face as other light and the mirror show it, so that a few faces cover the activations of more."""
    bright = np.clip(face * 1.3 + 10, 0, 255).round()
    return [face, face[:, ::-1], bright, np.round(face * 0.6)]


def measured_ranges(model, faces):
    names = [name for name in quantized_tensors(model) if name != "input"]
    tapped = onnx.ModelProto()
    tapped.CopyFrom(model)
    tapped.graph.output.extend(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names)
    session, ranges = cascade.session(tapped), {name: [0.0, 0.0] for name in names}
    for face in faces:
        for picture in variations(face):
            planes = picture.transpose(2, 0, 1)[None].astype(np.float32)
            for name, value in zip(names, session.run(names, {"input": planes})):
                low, high = ranges[name]
                ranges[name] = [min(low, float(value.min())), max(high, float(value.max()))]
    return {**ranges, "input": [0.0, 255.0]}


def deviations(model, exact, last, faces):
    """Distances between a form's embeddings and those of the float net."""
    form = cascade.session(model)
    return [float(np.linalg.norm(cascade.embed(form, face, last) - cascade.embed(exact, face, last))) for face in faces]


def manifest(name, hashes, precisions, origin, notes, margin):
    lines = [
        "# Written by models/export/facenet.py. The model's name is for the daemon: models.embedder.",
        *(f"# {note}" for note in notes),
        "# No thresholds were measured: set recognition.max_distance (facelatch eval measures it).",
        "version = 1",
        "",
        "[[net]]",
        f'name = "{name}"',
        'role = "embedder"',
        f'file = "{name}.onnx"',
        f'checksum = "sha256:{hashes[f"{name}.onnx"]}"',
        f"precisions = {json.dumps(precisions)}",
        f"input = [{SIDE}, {SIDE}]",
        'license = "MIT (facenet-pytorch, facenet); trained on VGGFace2, which has terms of its own"',
        f"origin = {json.dumps(origin)}",
        f"dimension = {DIMENSION}",
        "# The dense layer from the pooled map and a constant 1 (for the bias) to the embedding, f32 [512, 1793].",
        f'last_layer = {{ file = "{name}-last.npy", checksum = "sha256:{hashes[f"{name}-last.npy"]}" }}',
        "# (pixel - 127.5) / 128 is inside the net.",
        'pixels = { order = "rgb", mean = 0.0, scale = 1.0 }',
        f"# The detector's box, not turned and not made square, with {margin:g} of the {SIDE} pixels around it.",
        f"alignment = {{ box_margin = {margin / (SIDE - margin):.6f}, square = false }}",
    ]
    return "\n".join(lines) + "\n"


def verified(path, download, other):
    """-> the checkpoint's origin for the manifest. Downloads it if it is to; refuses a file that is not the published one."""
    if not os.path.exists(path) and download:
        print(f"downloading {URL}")
        with urllib.request.urlopen(URL, timeout=60) as answer, open(f"{path}.part", "wb") as file:
            while piece := answer.read(1 << 20):
                file.write(piece)
        os.replace(f"{path}.part", path)
    with open(path, "rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    size = os.path.getsize(path)
    print(f"{path}: {size} bytes, SHA-256 {sha256}")
    if other:
        return f"{os.path.basename(path)}, SHA-256 {sha256}"
    if (size, sha256) != (SIZE, SHA256):
        raise ValueError(
            f"{path}: not the published checkpoint, which has {SIZE} bytes and SHA-256 {SHA256}; "
            "remove it and download it again, or say --other-checkpoint if it is meant to be another"
        )
    return f"{URL}, Inception-ResNet-v1 of David Sandberg's facenet"


def write_all(folder, files):
    """All or none: everything is written beside its place first."""
    beside = {name: os.path.join(folder, f".{name}.part") for name in files}
    try:
        for name, data in files.items():
            with open(beside[name], "wb") as file:
                file.write(data)
    except OSError:
        for path in filter(os.path.exists, beside.values()):
            os.remove(path)
        raise
    for name, data in files.items():
        os.replace(beside[name], os.path.join(folder, name))
        print(f"{os.path.join(folder, name)}: {len(data)} bytes")


def export(arguments):
    origin = verified(arguments.checkpoint, arguments.download, arguments.other_checkpoint)
    model, last = backbone(arguments.checkpoint)
    model = equalize(model)
    faces = [face for _, _, face in faces_of(arguments.images, arguments.models, arguments.margin)]
    ranges = measured_ranges(model, faces)
    exact = cascade.session(model)
    convolutions = [node.name for node in model.graph.node if node.op_type == "Conv"]
    for scales in ("tensor", "channel") if arguments.scales == "auto" else (arguments.scales,):
        int8 = quantize(model, ranges, per_channel=convolutions if scales == "channel" else ())
        far = {name: deviations(form, exact, last, faces) for name, form in (("w8", dequantized(int8)), ("int8", int8))}
        if np.mean(far["w8"]) <= GOOD_DEVIATION:
            break
    notes = [
        f"Weights: one scale per {scales}. Activation ranges, on which int8 depends: measured on {len(faces)} faces.",
        "Distance from the float net's embedding on these faces, mean and most: "
        + ", ".join(f"{name} {np.mean(values):.3f} {max(values):.3f}" for name, values in far.items()),
    ]
    precisions = [name for name, values in far.items() if np.mean(values) <= MOST_DEVIATION]
    notes += [f"{name} is not offered: that is more than {MOST_DEVIATION}" for name in far if name not in precisions]
    print(*notes, sep="\n")
    if not precisions:
        raise ValueError(f"{arguments.checkpoint}: 8 bits are not enough for these weights; nothing was written")
    name, layer = arguments.name, io.BytesIO()
    np.save(layer, last)
    files = {f"{name}.onnx": int8.SerializeToString(deterministic=True), f"{name}-last.npy": layer.getvalue()}
    hashes = {file: hashlib.sha256(data).hexdigest() for file, data in files.items()}
    text = manifest(name, hashes, precisions, origin, notes, arguments.margin)
    os.makedirs(arguments.out, exist_ok=True)
    write_all(arguments.out, {**files, f"{name}.toml": text.encode()})


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True, metavar="FILE")
    parser.add_argument("--download", action="store_true", help="fetch the checkpoint when FILE is not there")
    parser.add_argument("--other-checkpoint", action="store_true", help="FILE is not the published one, and is meant to be another")
    parser.add_argument("--images", required=True, metavar="DIR", help="pictures with faces, to measure activation ranges on")
    parser.add_argument("--models", required=True, metavar="DIR", help="the folder of the detector's nets")
    parser.add_argument("--out", required=True, metavar="DIR", help="where the three files go: the daemon's models.dir")
    parser.add_argument("--name", default="facenet", help="the embedder's name (default: facenet)")
    choices = ("auto", "tensor", "channel")
    parser.add_argument("--scales", choices=choices, default="auto", help="what the 8-bit weights share a scale in (default: auto)")
    parser.add_argument("--margin", type=float, default=MARGIN, help=f"pixels of the {SIDE} around the box (default: {MARGIN})")
    try:
        export(parser.parse_args())
    except (ValueError, OSError) as error:
        sys.exit(f"facenet.py: {error}")


if __name__ == "__main__":
    main()
