"""The detector's cascade, the alignment and the embedder in plain numpy and onnxruntime: the reference that the program is compared with.

Sizes, thresholds and the arithmetic of boxes are facenet-pytorch's, but for SAME_FACE; resizing is averaging over the covered area.
"""

import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper

TEMPLATE = np.array([[48.55, 46.66], [102.36, 46.73], [75.34, 78.50], [51.81, 105.40], [98.99, 105.65]])
WEIGHTS = np.array([1, 1, 0.12, 0.15, 0.15])
# ArcFace's, of 112 x 112, as insightface publishes it.
ARCFACE = np.array([[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]])
ALIKE = np.ones(5)
# Of boxes that overlap by more, the most certain one goes on to R- and O-Net; facenet-pytorch's is 0.7.
SAME_FACE = 0.4


def exact(model):
    """The same integer net with unsigned weights: on a PC without VNNI onnxruntime cuts sums of products with signed ones off at 16 bits."""
    model, given = onnx.ModelProto(), model
    model.CopyFrom(given)
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type in ("QLinearConv", "ConvInteger"):
            for index in (3, 5) if node.op_type == "QLinearConv" else (1, 3):  # weights and their zero points
                tensor = constants[node.input[index]]
                if tensor.data_type != onnx.TensorProto.INT8:
                    continue
                name = f"{node.name}.{tensor.name}.unsigned"
                numbers = (numpy_helper.to_array(tensor).astype(np.int16) + 128).astype(np.uint8)
                model.graph.initializer.append(numpy_helper.from_array(numbers, name))
                node.input[index] = name
    return model


def session(model):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    data = exact(onnx.load(model) if isinstance(model, str) else model).SerializeToString()
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def run(net, planes):
    return net.run(None, {net.get_inputs()[0].name: planes[None].astype(np.float32)})[0][0]


def _coverage(source, target):
    """[target, source]: share of each target pixel's area that each source pixel gives."""
    edges = np.arange(target + 1) * (source / target)
    pixels = np.arange(source)
    covered = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    covered = np.maximum(covered, 0)
    return covered / covered.sum(1, keepdims=True)


def resize(picture, width, height):
    """u8 [h, w, 3] -> f32 [3, height, width], whole numbers."""
    rows, columns = _coverage(picture.shape[0], height), _coverage(picture.shape[1], width)
    scaled = np.einsum("yh,hwc,xw->cyx", rows, picture.astype(np.float64), columns, optimize=True)
    return np.clip(np.floor(scaled + 0.5), 0, 255).astype(np.float32)


def suppress(boxes, scores, limit, smaller=False):
    x1, y1, x2, y2 = boxes.T
    area = (x2 - x1 + 1) * (y2 - y1 + 1)
    order, kept = np.argsort(-scores, kind="stable"), []
    while len(order):
        best, rest = order[0], order[1:]
        kept.append(best)
        width = np.maximum(0, np.minimum(x2[best], x2[rest]) - np.maximum(x1[best], x1[rest]) + 1)
        height = np.maximum(0, np.minimum(y2[best], y2[rest]) - np.maximum(y1[best], y1[rest]) + 1)
        both = width * height
        overlap = both / (np.minimum(area[best], area[rest]) if smaller else area[best] + area[rest] - both)
        order = rest[overlap <= limit]
    return np.array(kept, int)


def _square(boxes):
    side = np.maximum(boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1])
    corner = (boxes[:, :2] + boxes[:, 2:]) / 2 - side[:, None] / 2
    return np.hstack([corner, corner + side[:, None]])


def _shift(boxes, offsets, inclusive):
    size = np.tile(boxes[:, 2:] - boxes[:, :2] + inclusive, 2)
    return boxes + offsets * size


def _probability(logits):
    return 1 / (1 + np.exp(-logits.astype(np.float64)))


class Cascade:
    def __init__(self, pnet, rnet, onet, min_face=40, thresholds=(0.6, 0.7, 0.7), same_face=SAME_FACE):
        self.pnet, self.rnet, self.onet = session(pnet), session(rnet), session(onet)
        self.min_face, self.thresholds, self.same_face = min_face, thresholds, same_face
        self.tap = None  # a function (net's name, input) for those who want to see what the nets see

    def _run(self, name, planes):
        if self.tap:
            self.tap(name, planes)
        return run(getattr(self, name), planes)

    def _propose(self, picture):
        height, width = picture.shape[:2]
        scale, found = 12 / self.min_face, []
        while min(height, width) * scale >= 12:
            planes = resize(picture, int(width * scale + 1), int(height * scale + 1))
            out = self._run("pnet", planes)
            scores = _probability(out[0])
            rows, columns = np.where(scores >= self.thresholds[0])
            corner = np.stack([columns, rows], 1) * 2
            boxes = np.hstack([np.floor((corner + 1) / scale), np.floor((corner + 12) / scale)])
            level = np.hstack([boxes, scores[rows, columns, None], out[1:5, rows, columns].T])
            found.append(level[suppress(level[:, :4], level[:, 4], 0.5)])
            scale *= 0.709
        found = np.concatenate(found) if found else np.zeros((0, 9))
        found = found[suppress(found[:, :4], found[:, 4], self.same_face)]
        return _square(_shift(found[:, :4], found[:, 5:9], 0))

    def _on_crops(self, name, picture, boxes, side, threshold):
        height, width = picture.shape[:2]
        outputs = np.full((len(boxes), 15 if name == "onet" else 5), -1e9)
        for k, (x1, y1, x2, y2) in enumerate(np.trunc(boxes).astype(int)):
            x1, y1, x2, y2 = max(x1, 1), max(y1, 1), min(x2, width), min(y2, height)
            if x2 >= x1 and y2 >= y1:
                outputs[k] = self._run(name, resize(picture[y1 - 1 : y2, x1 - 1 : x2], side, side))
        scores = _probability(outputs[:, 0])
        keep = scores > threshold
        return boxes[keep], scores[keep], outputs[keep]

    def detect(self, picture):
        """u8 [h, w, 3] -> boxes [n, 4], scores [n], landmarks [n, 5, 2]; the most certain first."""
        boxes = self._propose(picture)
        boxes, scores, out = self._on_crops("rnet", picture, boxes, 24, self.thresholds[1])
        keep = suppress(boxes, scores, self.same_face)
        boxes = _square(_shift(boxes[keep], out[keep, 1:5], 1))
        boxes, scores, out = self._on_crops("onet", picture, boxes, 48, self.thresholds[2])
        size = boxes[:, 2:] - boxes[:, :2] + 1
        x = size[:, :1] * out[:, 5:10] + boxes[:, :1] - 1
        y = size[:, 1:] * out[:, 10:15] + boxes[:, 1:2] - 1
        boxes = _shift(boxes, out[:, 1:5], 1)
        keep = suppress(boxes, scores, 0.7, smaller=True)
        return boxes[keep], scores[keep], np.stack([x, y], 2)[keep]


def similarity(source, target=TEMPLATE, weights=WEIGHTS):
    """Least weighted squares: -> (a, b, tx, ty) of x' = a·x − b·y + tx, y' = b·x + a·y + ty."""
    w = weights / weights.sum()
    source_mean, target_mean = w @ source, w @ target
    s, t = source - source_mean, target - target_mean
    spread = w @ (s**2).sum(1)
    a = w @ (s * t).sum(1) / spread
    b = w @ (s[:, 0] * t[:, 1] - s[:, 1] * t[:, 0]) / spread
    tx, ty = target_mean - np.array([[a, -b], [b, a]]) @ source_mean
    return a, b, tx, ty


def align(picture, landmarks, side=150, target=TEMPLATE, weights=WEIGHTS):
    # To an eighth of a pixel, as the program does.
    a, b, tx, ty = similarity(np.floor(landmarks * 8 + 0.5) / 8, target, weights)
    scale, block = np.hypot(a, b), 1
    if scale < 0.6:
        block = int(np.floor(1 / scale))
        height, width = (n // block for n in picture.shape[:2])
        blocks = picture[: height * block, : width * block].reshape(height, block, width, block, 3)
        picture = np.floor(blocks.astype(np.float64).mean((1, 3)) + 0.5).astype(np.uint8)
    y, x = np.mgrid[:side, :side].astype(np.float64)
    u = (a * (x - tx) + b * (y - ty)) / scale**2
    v = (-b * (x - tx) + a * (y - ty)) / scale**2
    u, v = (u - (block - 1) / 2) / block, (v - (block - 1) / 2) / block
    padded = np.zeros((picture.shape[0] + 2, picture.shape[1] + 2, 3))
    padded[1:-1, 1:-1] = picture
    left, top = np.floor(u), np.floor(v)
    right_share, bottom_share = (u - left)[..., None], (v - top)[..., None]
    column = np.clip(left + 1, -1, padded.shape[1] - 1).astype(int)
    row = np.clip(top + 1, -1, padded.shape[0] - 1).astype(int)

    def tap(dy, dx):
        r, c = row + dy, column + dx
        inside = (r >= 0) & (r < padded.shape[0]) & (c >= 0) & (c < padded.shape[1])
        return padded[np.clip(r, 0, padded.shape[0] - 1), np.clip(c, 0, padded.shape[1] - 1)] * inside[..., None]

    upper = tap(0, 0) * (1 - right_share) + tap(0, 1) * right_share
    lower = tap(1, 0) * (1 - right_share) + tap(1, 1) * right_share
    return np.floor(upper * (1 - bottom_share) + lower * bottom_share + 0.5).astype(np.uint8)


def align_arcface(picture, landmarks):
    return align(picture, landmarks, 112, ARCFACE, ALIKE)


def embed(net, face, last=None):
    """u8 [side, side, 3] -> unit-length embedding."""
    values = run(net, face.transpose(2, 0, 1)).ravel().astype(np.float64)
    values = values if last is None else last.astype(np.float64) @ values
    return values / np.linalg.norm(values)
