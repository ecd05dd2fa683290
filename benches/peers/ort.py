"""The program's own ONNX files and cascade in Python: onnxruntime for the nets, Pillow for the pixels, numpy for the rest."""

import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image

import timing

MODELS = Path(__file__).resolve().parents[2] / "models"
sys.path.insert(0, str(MODELS / "export"))
import cascade  # noqa: E402


def session(file):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = timing.CORES, 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])


def resize(picture, width, height):
    scaled = Image.fromarray(picture).resize((width, height), Image.BOX)
    return np.asarray(scaled).transpose(2, 0, 1).astype(np.float32)


def align(picture, landmarks):
    a, b, tx, ty = cascade.similarity(landmarks)
    scale, picture, block = np.hypot(a, b), Image.fromarray(picture), 1
    if scale < 0.6:
        block = int(1 / scale)
        picture = picture.reduce(block)
    # From a pixel of the face to one of the picture.
    c, s = a / scale**2 / block, b / scale**2 / block
    back = (c, s, -c * tx - s * ty, -s, c, s * tx - c * ty)
    return np.asarray(picture.transform((150, 150), Image.AFFINE, back, Image.BILINEAR))


# That module is a reference to check values with, exact and slow; here its cascade gets what one would use in a program.
cascade.session, cascade.resize = session, resize
DETECTOR = cascade.Cascade(*(str(MODELS / f"{net}.onnx") for net in ("pnet", "rnet", "onet")), min_face=80)
EMBEDDER, LAST = session(str(MODELS / "dlib.onnx")), np.load(MODELS / "dlib-last.npy")


def detect(picture):
    return DETECTOR.detect(picture)[2]


def embed(picture, landmarks):
    planes = align(picture, landmarks).transpose(2, 0, 1)
    values = LAST @ cascade.run(EMBEDDER, planes).ravel()
    return values / np.linalg.norm(values)


if __name__ == "__main__":
    timing.run(detect, embed)
