"""Readers for the two weight formats, without torch and without dlib.

read_torch_state: a state dict of torch, in the zip format of version 1.6 or the one before it.
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
import zipfile

import numpy as np

TORCH_MAGIC = 0x1950A86A20F9469CFC6C
TORCH_TYPES = {"FloatStorage": np.float32, "DoubleStorage": np.float64, "LongStorage": np.int64}

UNREADABLE = (EOFError, LookupError, TypeError, AttributeError, UnicodeDecodeError, struct.error)
UNREADABLE += (pickle.UnpicklingError, zipfile.BadZipFile)


def read_torch_state(path):
    """A checkpoint of either format -> {name: array}, in the file's order."""
    try:
        with open(path, "rb") as file:
            zipped = file.read(2) == b"PK"
        state, data = _read_zip(path) if zipped else _read_pickles(path)
        return {name: _tensor(path, name, data, *place) for name, place in state.items()}
    # What these readers do with a file that ends early, or is something else, depends on where it ends.
    except UNREADABLE as error:
        raise ValueError(f"{path}: not a torch checkpoint, or one that was cut off ({error!r})") from error


def _read_zip(path):
    """torch 1.6 and later: a zip archive with data.pkl and one uncompressed file per storage."""
    with zipfile.ZipFile(path) as archive:
        pickled = next((name for name in archive.namelist() if name.endswith("/data.pkl")), None)
        if pickled is None:
            raise ValueError(f"{path}: the archive holds no data.pkl, so it is no torch checkpoint")
        with archive.open(pickled) as file:
            reader = _StateUnpickler(path, file)
            state = reader.load()
        folder = pickled.removesuffix("data.pkl")
        data = {}
        for key, (type_name, count) in reader.storages.items():
            data[key] = _storage(path, key, type_name, count, archive.read(f"{folder}data/{key}"))
    return state, data


def _read_pickles(path):
    """torch before 1.6: five pickles, then the raw storages."""
    with open(path, "rb") as file:
        plain = lambda: _StateUnpickler(path, file).load()
        if plain() != TORCH_MAGIC or plain() != 1001:
            raise ValueError(f"{path}: not a torch checkpoint")
        plain()  # sizes of C types on the writer's machine
        reader = _StateUnpickler(path, file)
        state, data = reader.load(), {}
        for key in plain():
            type_name, count = reader.storages[key]
            if struct.unpack("<q", file.read(8))[0] != count:
                raise ValueError(f"{path}: storage {key} has another length than announced")
            data[key] = _storage(path, key, type_name, count, file.read(count * np.dtype(TORCH_TYPES[type_name]).itemsize))
    return state, data


class _StateUnpickler(pickle.Unpickler):
    """Rebuilds nothing but tensors of plain numbers: a pickle may otherwise run anything."""

    def __init__(self, path, file):
        super().__init__(file)
        self.path, self.storages = path, {}

    def find_class(self, module, name):
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return lambda storage, offset, size, stride, *_: (storage, offset, size, stride)
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if module == "torch" and name in TORCH_TYPES:
            return name
        raise ValueError(f"{self.path}: refuses to load {module}.{name}")

    def persistent_load(self, persistent_id):
        _, type_name, key, _, count, *_ = persistent_id
        self.storages[key] = (type_name, count)
        return key


def _storage(path, key, type_name, count, raw):
    dtype = np.dtype(TORCH_TYPES[type_name])
    if len(raw) != count * dtype.itemsize:
        raise ValueError(f"{path}: storage {key} has {len(raw)} bytes instead of {count * dtype.itemsize}: the file was cut off")
    return np.frombuffer(raw, dtype)


def _tensor(path, name, data, key, offset, size, stride):
    numbers = data[key]
    last = offset + sum((n - 1) * step for n, step in zip(size, stride))
    if min(size, default=1) < 1 or min(stride, default=0) < 0 or not 0 <= offset <= last < len(numbers):
        raise ValueError(f"{path}: {name} reaches beyond its storage")
    view = np.lib.stride_tricks.as_strided(numbers[offset:], size, [step * numbers.itemsize for step in stride])
    return view.copy()


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
