"""Readers for the two weight formats, without torch and without dlib.

read_torch_state: a state dict of torch before 1.6 (five pickles, then the raw storages).
read_dlib_net: a net as dlib's serialize() writes it, enough of it for the face recognition ResNet:
  int     control byte (bit 7: negative, low nibble: number of bytes), then that many bytes, little-endian
  float   int mantissa, int exponent; value = mantissa * 2**exponent
  bool    '0' or '1';  string: int length, then the bytes
  tensor  int 2 (version), int N, K, NR, NC, then raw little-endian f32
Layer versions come from the outermost layer to the input, layer bodies from the input outwards.
"""

import collections
import pickle
import struct

import numpy as np

TORCH_MAGIC = 0x1950A86A20F9469CFC6C
TORCH_TYPES = {"FloatStorage": np.float32, "DoubleStorage": np.float64, "LongStorage": np.int64}


def read_torch_state(path):
    """-> {name: array}, in the file's order."""
    with open(path, "rb") as file:
        if pickle.load(file) != TORCH_MAGIC or pickle.load(file) != 1001:
            raise ValueError(f"{path}: not a torch checkpoint of the old (pre-zip) format")
        pickle.load(file)  # sizes of C types on the writer's machine
        storages = {}

        class Unpickler(pickle.Unpickler):
            def find_class(self, module, name):
                if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
                    return lambda storage, offset, size, stride, *_: (storage, offset, size, stride)
                if (module, name) == ("collections", "OrderedDict"):
                    return collections.OrderedDict
                if module == "torch" and name in TORCH_TYPES:
                    return name
                raise ValueError(f"{path}: refuses to load {module}.{name}")

            def persistent_load(self, persistent_id):
                _, type_name, key, _, count, _ = persistent_id
                storages[key] = (type_name, count)
                return key

        state = Unpickler(file).load()
        data = {}
        for key in pickle.load(file):
            type_name, count = storages[key]
            if struct.unpack("<q", file.read(8))[0] != count:
                raise ValueError(f"{path}: storage {key} has another length than announced")
            dtype = np.dtype(TORCH_TYPES[type_name])
            data[key] = np.frombuffer(file.read(count * dtype.itemsize), dtype)
    arrays = {}
    for name, (key, offset, size, stride) in state.items():
        start = data[key][offset:]
        view = np.lib.stride_tricks.as_strided(start, size, [s * start.itemsize for s in stride])
        arrays[name] = view.copy()
    return arrays


class DlibReader:
    def __init__(self, data):
        self.data, self.position = data, 0

    def take(self, count):
        piece = self.data[self.position : self.position + count]
        if len(piece) != count:
            raise ValueError("the file ends too early")
        self.position += count
        return piece

    def integer(self):
        control = self.take(1)[0]
        value = int.from_bytes(self.take(control & 15), "little")
        return -value if control & 128 else value

    def floating(self):
        mantissa, exponent = self.integer(), self.integer()
        return mantissa * 2.0**exponent

    def boolean(self):
        return self.take(1) == b"1"

    def string(self):
        return self.take(self.integer()).decode()

    def tensor(self):
        if self.integer() != 2:
            raise ValueError("unknown tensor version")
        shape = [self.integer() for _ in range(4)]
        return np.frombuffer(self.take(4 * int(np.prod(shape))), "<f4").reshape(shape)

    def shape(self):
        if self.integer() != 1:
            raise ValueError("unknown alias tensor version")
        return [self.integer() for _ in range(4)]


def _dlib_layer(reader):
    kind = reader.string()
    layer = {"kind": kind.rstrip("_0123456789")}
    if layer["kind"] == "con":
        parameters = reader.tensor().ravel()
        reader.integer()
        layer["kernel"] = (reader.integer(), reader.integer())
        layer["stride"] = (reader.integer(), reader.integer())
        layer["pad"] = (reader.integer(), reader.integer())
        weights, bias = reader.shape(), reader.shape()
        [reader.floating() for _ in range(4)]
        if kind >= "con_5":
            reader.boolean()
        count = int(np.prod(weights))
        layer["weights"] = parameters[:count].reshape(weights).astype(np.float64)
        layer["bias"] = parameters[count : count + int(np.prod(bias))].astype(np.float64)
    elif layer["kind"] == "affine":
        parameters = reader.tensor().ravel()
        gamma, _ = reader.shape(), reader.shape()
        reader.integer()
        if kind == "affine_2":
            reader.boolean()
        count = int(np.prod(gamma))
        layer["gamma"], layer["beta"] = parameters[:count].astype(np.float64), parameters[count:].astype(np.float64)
    elif layer["kind"] in ("max_pool", "avg_pool"):
        layer["kernel"] = (reader.integer(), reader.integer())
        layer["stride"] = (reader.integer(), reader.integer())
        layer["pad"] = (reader.integer(), reader.integer())
    elif layer["kind"] == "fc":
        outputs, inputs = reader.integer(), reader.integer()
        parameters = reader.tensor().ravel()
        weights, _ = reader.shape(), reader.shape()
        reader.integer()
        [reader.floating() for _ in range(4)]
        if kind == "fc_3":
            reader.boolean()
        layer["weights"] = parameters[: int(np.prod(weights))].reshape(inputs, outputs).astype(np.float64)
    elif layer["kind"] not in ("relu", "add_prev"):
        raise ValueError(f"unknown layer {kind}")
    return layer


def read_dlib_net(path):
    """-> (mean of the input's channels, side of the input, layers from the input outwards).

    Residual blocks appear as 'tag' (their input is remembered) and 'skip' (the shortcut starts at the last tag).
    """
    with open(path, "rb") as file:
        reader = DlibReader(file.read())
    if reader.integer() != 1:
        raise ValueError(f"{path}: not a dlib net")
    reader.string(), reader.floating(), reader.floating()  # the loss layer and its margins
    versions = []
    while not versions or versions[-1] != 3:
        versions.append(reader.integer())
    if reader.string() != "input_rgb_image_sized":
        raise ValueError(f"{path}: unknown input layer")
    mean = [reader.floating() for _ in range(3)]
    size = (reader.integer(), reader.integer())
    layers = []
    for version in reversed(versions):
        if version == 1:
            after_tag = layers and layers[-1]["kind"] == "tag"
            layers.append({"kind": "skip" if after_tag else "tag"})
            continue
        layer = _dlib_layer(reader)
        [reader.boolean() for _ in range(3)]
        reader.tensor(), reader.tensor(), reader.tensor()
        if version == 3:
            reader.integer()
        layers.append(layer)
    if reader.position != len(reader.data):
        raise ValueError(f"{path}: {len(reader.data) - reader.position} bytes are left over")
    return np.array(mean), size[0], layers
