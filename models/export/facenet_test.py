"""Tests facenet.py without the published checkpoint: on one of the same format with seeded random weights.

    python facenet_test.py --images tests/data --models models --out target/models/facenet-test

The checkpoint is written by this script, in both formats of torch. What facenet.py makes of it is compared with a forward pass in
plain numpy, written from the paper's figures and the checkpoint's names and sharing no code with facenet.py. DIR is left as a
models folder with the random FaceNet beside the shipped nets and facenet-golden.json, for the program's own test (tests/it/facenet.rs).
"""

import argparse
import collections
import contextlib
import hashlib
import io
import json
import os
import pickle
import shutil
import struct
import subprocess
import sys
import tempfile
import time
import types
import zipfile

import numpy as np
import onnx
from PIL import Image

import cascade
import facenet
from quantize import dequantized
from weights import TORCH_MAGIC, read_torch_state

HERE = os.path.dirname(os.path.abspath(__file__))

# --- Inception-ResNet-v1 in numpy -----------------------------------------------------------------------------------------------


class RandomWeights:
    """Makes each layer's weights when the forward pass first asks for it, and the running statistics of a batch normalisation from
    what really comes through, so that activations neither vanish nor explode and faces stay apart. What is taken off is nothing and
    what is divided by the root of the mean square: with mean and variance of a few faces, random layers would mostly amplify noise."""

    def __init__(self, seed):
        self.random, self.state = np.random.default_rng(seed), collections.OrderedDict()

    def conv(self, name, shape, bias):
        spread = np.sqrt(2 / np.prod(shape[1:])) * np.exp(self.random.normal(0, 0.3, (shape[0], 1, 1, 1)))
        self.state[f"{name}.weight"] = (self.random.uniform(-1.7, 1.7, shape) * spread).astype(np.float32)
        if bias:
            self.state[f"{name}.bias"] = self.random.normal(0, 0.1, shape[0]).astype(np.float32)

    def batch_norm(self, name, x):
        axes = tuple(i for i in range(x.ndim) if i != 1)
        channels = x.shape[1]
        self.state[f"{name}.weight"] = np.exp(self.random.normal(0, 0.3, channels)).astype(np.float32)
        self.state[f"{name}.bias"] = self.random.normal(0, 0.3, channels).astype(np.float32)
        self.state[f"{name}.running_mean"] = np.zeros(channels, np.float32)
        self.state[f"{name}.running_var"] = (x**2).mean(axes).astype(np.float32)
        self.state[f"{name}.num_batches_tracked"] = np.array(1, np.int64)

    def linear(self, name, shape):
        self.state[f"{name}.weight"] = self.random.normal(0, 1 / np.sqrt(shape[1]), shape).astype(np.float32)


class Forward:
    """x is [batch, channels, rows, columns], f64."""

    def __init__(self, state, making=None):
        self.state, self.making = state, making

    def conv(self, x, name, outputs, kernel, stride=1, pad=(0, 0), bias=False):
        if self.making:
            self.making.conv(name, (outputs, x.shape[1], *kernel), bias)
        x = np.pad(x, ((0, 0), (0, 0), (pad[0],) * 2, (pad[1],) * 2))
        windows = np.lib.stride_tricks.sliding_window_view(x, kernel, (2, 3))[:, :, ::stride, ::stride]
        y = np.tensordot(windows, self.state[f"{name}.weight"].astype(np.float64), ((1, 4, 5), (1, 2, 3))).transpose(0, 3, 1, 2)
        return y + self.state[f"{name}.bias"][None, :, None, None] if bias else y

    def batch_norm(self, x, name):
        if self.making:
            self.making.batch_norm(name, x)
        weight, bias, mean, var = (
            self.state[f"{name}.{part}"].astype(np.float64).reshape(1, -1, *[1] * (x.ndim - 2))
            for part in ("weight", "bias", "running_mean", "running_var")
        )
        return (x - mean) / np.sqrt(var + 0.001) * weight + bias

    def basic(self, x, name, outputs, kernel=(1, 1), stride=1, pad=(0, 0)):
        return np.maximum(self.batch_norm(self.conv(x, f"{name}.conv", outputs, kernel, stride, pad), f"{name}.bn"), 0)

    def pool(self, x):
        return np.lib.stride_tricks.sliding_window_view(x, (3, 3), (2, 3))[:, :, ::2, ::2].max((4, 5))

    def block35(self, x, name):
        a = self.basic(x, f"{name}.branch0", 32)
        b = self.basic(self.basic(x, f"{name}.branch1.0", 32), f"{name}.branch1.1", 32, (3, 3), pad=(1, 1))
        c = self.basic(self.basic(x, f"{name}.branch2.0", 32), f"{name}.branch2.1", 32, (3, 3), pad=(1, 1))
        c = self.basic(c, f"{name}.branch2.2", 32, (3, 3), pad=(1, 1))
        return np.maximum(x + 0.17 * self.conv(np.concatenate([a, b, c], 1), f"{name}.conv2d", 256, (1, 1), bias=True), 0)

    def block17(self, x, name):
        a = self.basic(x, f"{name}.branch0", 128)
        b = self.basic(x, f"{name}.branch1.0", 128)
        b = self.basic(b, f"{name}.branch1.1", 128, (1, 7), pad=(0, 3))
        b = self.basic(b, f"{name}.branch1.2", 128, (7, 1), pad=(3, 0))
        return np.maximum(x + 0.10 * self.conv(np.concatenate([a, b], 1), f"{name}.conv2d", 896, (1, 1), bias=True), 0)

    def block8(self, x, name, scale):
        a = self.basic(x, f"{name}.branch0", 192)
        b = self.basic(x, f"{name}.branch1.0", 192)
        b = self.basic(b, f"{name}.branch1.1", 192, (1, 3), pad=(0, 1))
        b = self.basic(b, f"{name}.branch1.2", 192, (3, 1), pad=(1, 0))
        return x + scale * self.conv(np.concatenate([a, b], 1), f"{name}.conv2d", 1792, (1, 1), bias=True)

    def embed(self, faces):
        """[batch, 3, 160, 160], RGB 0 to 255 -> unit-length [batch, 512]."""
        x = (faces.astype(np.float64) - 127.5) / 128
        x = self.basic(x, "conv2d_1a", 32, (3, 3), 2)
        x = self.basic(x, "conv2d_2a", 32, (3, 3))
        x = self.basic(x, "conv2d_2b", 64, (3, 3), pad=(1, 1))
        x = self.pool(x)
        x = self.basic(x, "conv2d_3b", 80)
        x = self.basic(x, "conv2d_4a", 192, (3, 3))
        x = self.basic(x, "conv2d_4b", 256, (3, 3), 2)
        for i in range(5):
            x = self.block35(x, f"repeat_1.{i}")
        a = self.basic(x, "mixed_6a.branch0", 384, (3, 3), 2)
        b = self.basic(self.basic(x, "mixed_6a.branch1.0", 192), "mixed_6a.branch1.1", 192, (3, 3), pad=(1, 1))
        b = self.basic(b, "mixed_6a.branch1.2", 256, (3, 3), 2)
        x = np.concatenate([a, b, self.pool(x)], 1)
        for i in range(10):
            x = self.block17(x, f"repeat_2.{i}")
        a = self.basic(self.basic(x, "mixed_7a.branch0.0", 256), "mixed_7a.branch0.1", 384, (3, 3), 2)
        b = self.basic(self.basic(x, "mixed_7a.branch1.0", 256), "mixed_7a.branch1.1", 256, (3, 3), 2)
        c = self.basic(self.basic(x, "mixed_7a.branch2.0", 256), "mixed_7a.branch2.1", 256, (3, 3), pad=(1, 1))
        c = self.basic(c, "mixed_7a.branch2.2", 256, (3, 3), 2)
        x = np.concatenate([a, b, c, self.pool(x)], 1)
        for i in range(5):
            x = np.maximum(self.block8(x, f"repeat_3.{i}", 0.20), 0)
        x = self.block8(x, "block8", 1.0).mean((2, 3))
        if self.making:
            self.making.linear("last_linear", (512, 1792))
        x = self.batch_norm(x @ self.state["last_linear.weight"].astype(np.float64).T, "last_bn")
        return x / np.linalg.norm(x, axis=1, keepdims=True)


# --- torch's formats, written without torch ---------------------------------------------------------------------------------------

_TORCH, _UTILS = types.ModuleType("torch"), types.ModuleType("torch._utils")
for _kind in ("FloatStorage", "LongStorage"):
    setattr(_TORCH, _kind, type(_kind, (), {"__module__": "torch", "__qualname__": _kind}))
_UTILS._rebuild_tensor_v2 = lambda *_: None
_UTILS._rebuild_tensor_v2.__module__, _UTILS._rebuild_tensor_v2.__qualname__ = "torch._utils", "_rebuild_tensor_v2"
_TORCH._utils = _UTILS


class _Storage:
    def __init__(self, key, array, newest):
        kind = getattr(_TORCH, "LongStorage" if array.dtype == np.int64 else "FloatStorage")
        self.id = ("storage", kind, key, "cpu", array.size) + (() if newest else (None,))


class _TensorAs:
    def __init__(self, key, array, newest):
        strides = tuple(step // array.itemsize for step in array.strides)
        self.arguments = (_Storage(key, array, newest), 0, array.shape, strides, False, collections.OrderedDict())

    def __reduce__(self):
        return _UTILS._rebuild_tensor_v2, self.arguments


class _Pickler(pickle.Pickler):
    def persistent_id(self, thing):
        return thing.id if isinstance(thing, _Storage) else None


def torch_checkpoint(state, newest):
    """The bytes torch.save would write: as a zip archive, or as before version 1.6."""
    keys = {name: str(i) for i, name in enumerate(state)}
    pickled = io.BytesIO()
    sys.modules.update({"torch": _TORCH, "torch._utils": _UTILS})
    tensors = collections.OrderedDict((name, _TensorAs(keys[name], array, newest)) for name, array in state.items())
    _Pickler(pickled, 2).dump(tensors)
    del sys.modules["torch"], sys.modules["torch._utils"]
    file = io.BytesIO()
    if newest:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            archive.writestr("archive/data.pkl", pickled.getvalue())
            for name, array in state.items():
                archive.writestr(f"archive/data/{keys[name]}", array.tobytes())
            archive.writestr("archive/version", "3\n")
        return file.getvalue()
    for part in (TORCH_MAGIC, 1001, {"protocol_version": 1001, "little_endian": True}):
        pickle.dump(part, file, 2)
    file.write(pickled.getvalue())
    pickle.dump(list(keys.values()), file, 2)
    for array in state.values():
        file.write(struct.pack("<q", array.size) + array.tobytes())
    return file.getvalue()


# --- the tests --------------------------------------------------------------------------------------------------------------------


def write(path, data):
    with open(path, "wb") as file:
        file.write(data)


def run(*arguments):
    """facenet.py as people call it -> (exit code, what it said)."""
    ran = subprocess.run([sys.executable, os.path.join(HERE, "facenet.py"), *arguments], capture_output=True, text=True)
    return ran.returncode, ran.stdout + ran.stderr


def check(condition, what):
    if not condition:
        sys.exit(f"FAILED: {what}")
    print(f"ok: {what}")


def check_bad_checkpoints(state, good, usual):
    """Each is refused in words, and the folder stays as it was."""
    less = {name: array for name, array in state.items() if name != "repeat_2.9.conv2d.bias"}
    narrow = {**state, "conv2d_4a.conv.weight": state["conv2d_4a.conv.weight"][:100]}
    nan = {**state, "block8.branch0.bn.bias": np.full(192, np.nan, np.float32)}
    legacy = torch_checkpoint(state, False)
    evil = b"cposix\nsystem\n(S'false'\ntR."
    for what, data, words in (
        ("a zip archive cut off in its middle", good[: len(good) // 2], "cut off"),
        ("an old checkpoint cut off in its middle", legacy[: len(legacy) // 2], "cut off"),
        ("an old checkpoint cut off in its first pickle", legacy[:9], "cut off"),
        ("an empty file", b"", "cut off"),
        ("a text", b"<html>not found</html>", "checkpoint"),
        ("a pickle that calls something", evil, "refuses to load posix.system"),
        ("a missing layer", torch_checkpoint(less, True), "repeat_2.9.conv2d.bias is missing"),
        ("a layer of another shape", torch_checkpoint(narrow, True), "[100, 80, 3, 3], Inception-ResNet-v1's is [192, 80, 3, 3]"),
        ("weights that are not finite", torch_checkpoint(nan, True), "not finite"),
    ):
        with tempfile.TemporaryDirectory() as folder:
            write(os.path.join(folder, "bad.pt"), data)
            out = os.path.join(folder, "out")
            os.mkdir(out)
            write(os.path.join(out, "facenet.onnx"), b"what was there")
            code, said = run("--checkpoint", os.path.join(folder, "bad.pt"), "--other-checkpoint", "--out", out, *usual)
            unchanged = os.listdir(out) == ["facenet.onnx"] and open(os.path.join(out, "facenet.onnx"), "rb").read() == b"what was there"
            check(code != 0 and words in said and "Traceback" not in said and unchanged, f"{what} is refused: {said.strip()[-160:]}")


def milliseconds(session, planes):
    best = 1e9
    for _ in range(8):
        start = time.perf_counter()
        cascade.run(session, planes)
        best = min(best, time.perf_counter() - start)
    return best * 1000


def moved_by_a_grey_level(session, faces, last, embeddings):
    """How far embeddings move when one value of a face, red, green or blue of one pixel, is one grey level larger: six values of each."""
    random, moved = np.random.default_rng(7), []
    for face, embedding in zip(faces, embeddings):
        for _ in range(6):
            channel, row, column = (random.integers(side) for side in face.shape)
            nudged = face.copy()
            nudged[channel, row, column] = min(int(nudged[channel, row, column]) + 1, 255)
            moved.append(np.linalg.norm(cascade.embed(session, nudged.transpose(1, 2, 0), last) - embedding))
    return moved


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for option in ("--images", "--models", "--out"):
        parser.add_argument(option, required=True, metavar="DIR")
    arguments = parser.parse_args()
    os.makedirs(arguments.out, exist_ok=True)

    found = facenet.faces_of(arguments.images, arguments.models)
    faces = np.stack([face for _, _, face in found]).transpose(0, 3, 1, 2)
    making = RandomWeights(20180402)
    Forward(making.state, making).embed(faces[:3])
    state = making.state
    expected = Forward(state).embed(faces)
    apart = min(np.linalg.norm(a - b) for i, a in enumerate(expected) for b in expected[:i])
    check(apart > 0.3, f"the random net tells the {len(faces)} faces apart: they lie {apart:.2f} or more from each other")

    zipped = torch_checkpoint(state, True)
    checkpoint = os.path.join(arguments.out, "random.pt")
    write(checkpoint, zipped)
    for newest in (True, False):
        with tempfile.NamedTemporaryFile() as file:
            write(file.name, zipped if newest else torch_checkpoint(state, False))
            read = read_torch_state(file.name)
        same = list(read) == list(state) and all(np.array_equal(read[name], state[name]) for name in state)
        check(same, f"the {'zip' if newest else 'old'} format is read as it was written, {len(read)} tensors")

    published = facenet.SHA256
    facenet.URL = f"file://{os.path.abspath(checkpoint)}"
    facenet.SIZE, facenet.SHA256 = len(zipped), hashlib.sha256(zipped).hexdigest()
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        fetched = os.path.join(folder, "fetched.pt")
        facenet.verified(fetched, True, False)
        whole = open(fetched, "rb").read() == zipped and os.listdir(folder) == ["fetched.pt"]
    check(whole, "what is downloaded is taken when size and SHA-256 are the ones recorded")

    usual = ("--images", arguments.images, "--models", arguments.models)
    code, said = run("--checkpoint", checkpoint, "--out", arguments.out, *usual)
    check(code != 0 and published in said, "a checkpoint that is not the published one is refused unless it is said to be another")
    for scales in ("tensor", "channel"):
        more = ("--other-checkpoint", "--out", arguments.out, "--name", f"facenet-{scales}", "--scales", scales, *usual)
        code, said = run("--checkpoint", checkpoint, *more)
        print(said, end="")
        check(code == 0, f"the random checkpoint is exported, one scale per {scales}")

    model, last = facenet.backbone(checkpoint)
    golden = {"faces": [], "nets": {}}
    forms = {"f32": (model, 1e-5)}
    for scales in ("tensor", "channel"):
        int8 = onnx.load(os.path.join(arguments.out, f"facenet-{scales}.onnx"))
        forms |= {f"{scales} w8": (dequantized(int8), 0.2), f"{scales} int8": (int8, 0.25)}
    for what, (form, limit) in forms.items():
        session = cascade.session(form)
        made = np.stack([cascade.embed(session, face.transpose(1, 2, 0), last) for face in faces])
        far, time_ms = np.linalg.norm(made - expected, axis=1), milliseconds(session, faces[0])
        check(far.max() < limit, f"{what}: {far.mean():.2g} on average, {far.max():.2g} at most from the pass in numpy; {time_ms:.1f} ms")
        if what != "f32":
            nudged = moved_by_a_grey_level(session, faces, last, made)
            print(f"{what}: one grey level more in one value of a face moves onnxruntime's embedding by {np.median(nudged):.2g}, {max(nudged):.2g} at most")
        golden["nets"][what] = {"onnxruntime_ms": time_ms, "embeddings": made.round(6).tolist()}
    for i, (picture, box, face) in enumerate(found):
        Image.fromarray(face).save(os.path.join(arguments.out, f"face{i}.png"))
        golden["faces"].append({"picture": picture, "box": [float(edge) for edge in box], "face": f"face{i}.png"})
    for file in ("pnet.onnx", "rnet.onnx", "onet.onnx", "dlib.onnx", "dlib-last.npy", "models.toml"):
        shutil.copy(os.path.join(arguments.models, file), arguments.out)
    with open(os.path.join(arguments.out, "facenet-golden.json"), "w") as file:
        json.dump(golden, file)
    check_bad_checkpoints(state, zipped, usual)
    print("facenet: all passed; cargo test --release --test it facenet compares the program with it")


if __name__ == "__main__":
    main()
