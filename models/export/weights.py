"""Readers for the three weight formats, without torch, dlib and TensorFlow.

read_torch_state: a state dict of torch, in the zip format of version 1.6 or the one before it.
read_dlib_net: a net as dlib's serialize() writes it, enough of it for the face recognition ResNet:
  int     control byte (bit 7: negative, low nibble: number of bytes), then that many bytes, little-endian
  float   int mantissa, int exponent; value = mantissa * 2**exponent
  bool    '0' or '1';  string: int length, then the bytes
  tensor  int 2 (version), int N, K, NR, NC, then raw little-endian f32
Layer versions come from the outermost layer to the input, layer bodies from the input outwards.
read_tflite: the operators of a TensorFlow Lite file. Numbers of fields are those of its schema (schema.fbs).
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


# TensorFlow Lite's numbers of the operators that are known here, and where their options stand.
TFLITE_OPERATORS = {0: "add", 3: "conv", 4: "depthwise", 18: "mul", 19: "relu", 22: "reshape", 41: "sub", 101: "abs"}
TFLITE_OPTIONS = {
    "add": {"activation": 0},
    "mul": {"activation": 0},
    "sub": {"activation": 0},
    "conv": {"valid": 0, "stride_w": 1, "stride_h": 2, "activation": 3, "dilation_w": 4, "dilation_h": 5},
    "depthwise": {"valid": 0, "stride_w": 1, "stride_h": 2, "multiplier": 3, "activation": 4, "dilation_w": 5, "dilation_h": 6},
}
TFLITE_DEFAULTS = {"dilation_w": 1, "dilation_h": 1}
FLOAT32, INT32 = 0, 2


def read_tflite(path):
    """-> (operators, arrays, shapes, inputs, outputs). An operator is (kind, options, inputs, outputs), tensors are numbers;
    arrays holds the constants of float32."""
    with open(path, "rb") as file:
        data = file.read()
    try:
        return _read_tflite(path, _FlatBuffer(data))
    except (struct.error, LookupError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a TensorFlow Lite file, or one that was cut off ({error!r})") from error


def _read_tflite(path, buffer):
    if buffer.data[4:8] != b"TFL3":
        raise ValueError(f"{path}: not a TensorFlow Lite file of version 3")
    model = buffer.reference(0)
    # Numbers below 127 stand in the older field, too.
    kinds = [max(buffer.number(code, 0, "<b"), buffer.number(code, 3)) for code in buffer.tables(model, 1)]
    graphs, buffers = buffer.tables(model, 2), buffer.tables(model, 4)
    if len(graphs) != 1:
        raise ValueError(f"{path}: {len(graphs)} graphs, known is one")
    shapes, arrays = [], {}
    for index, tensor in enumerate(buffer.tables(graphs[0], 0)):
        shapes.append(buffer.vector(tensor, 0, "<i4").tolist())
        values = buffer.vector(buffers[buffer.number(tensor, 2, "<I")], 0, "u1")
        kind = buffer.number(tensor, 1, "<b")
        if kind not in (FLOAT32, INT32):
            raise ValueError(f"{path}: tensor {index} is of type {kind}, known are float32 and int32")
        if len(values) and kind == FLOAT32:
            if values.nbytes != 4 * np.prod(shapes[-1], dtype=np.int64):
                raise ValueError(f"{path}: tensor {index} holds {values.nbytes} bytes for the shape {shapes[-1]}")
            arrays[index] = values.view("<f4").reshape(shapes[-1]).astype(np.float64)
    operators = []
    for operator in buffer.tables(graphs[0], 3):
        number = kinds[buffer.number(operator, 0, "<I")]
        if number not in TFLITE_OPERATORS:
            known = ", ".join(f"{kind} ({number})" for number, kind in TFLITE_OPERATORS.items())
            raise ValueError(f"{path}: operator {number} is not known; known are {known}")
        kind, table = TFLITE_OPERATORS[number], buffer.table(operator, 4)
        fields = TFLITE_OPTIONS.get(kind, {}).items() if table else ()
        # Every byte-sized option is small, so its first byte is its value.
        options = {name: buffer.number(table, field, "<b", TFLITE_DEFAULTS.get(name, 0)) for name, field in fields}
        operators.append((kind, options, *(buffer.vector(operator, field, "<i4").tolist() for field in (1, 2))))
    inputs, outputs = (buffer.vector(graphs[0], field, "<i4").tolist() for field in (1, 2))
    return operators, arrays, shapes, inputs, outputs


class _FlatBuffer:
    """Tables of a FlatBuffer (flatbuffers.dev, internals): a table begins with the distance back to the offsets of its fields."""

    def __init__(self, data):
        self.data = data

    def unpack(self, form, place):
        if not 0 <= place <= len(self.data):
            raise IndexError(place)
        return struct.unpack_from(form, self.data, place)[0]

    def reference(self, place):
        return place + self.unpack("<I", place)

    def field(self, table, index):
        offsets = table - self.unpack("<i", table)
        offset = self.unpack("<H", offsets + 4 + 2 * index) if 4 + 2 * index < self.unpack("<H", offsets) else 0
        return table + offset if offset else None

    def number(self, table, index, form="<i", default=0):
        place = self.field(table, index)
        return default if place is None else self.unpack(form, place)

    def table(self, table, index):
        place = self.field(table, index)
        return None if place is None else self.reference(place)

    def vector(self, table, index, kind):
        place = self.table(table, index)
        if place is None:
            return np.zeros(0, kind)
        count, size = self.unpack("<I", place), np.dtype(kind).itemsize
        if place + 4 + count * size > len(self.data):
            raise IndexError(place)
        return np.frombuffer(self.data, kind, count, place + 4)

    def tables(self, table, index):
        place, offsets = self.table(table, index), self.vector(table, index, "<u4")
        return [place + 4 + 4 * k + int(offset) for k, offset in enumerate(offsets)]
