"""Frames to compare on: 640 × 480, one face of 120 pixels before a wall, from every portrait in tests/data.

    python frames.py FOLDER
"""

import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
WIDTH, HEIGHT, FACE = 640, 480, 120
# Where the face's centre lies.
PLACES = [(200, 200), (330, 220), (430, 260)]


def wall(random):
    """Light from one side, plaster, a sensor's noise."""
    light = 80 + 60 * np.linspace(0, 1, WIDTH)[None, :, None]
    plaster = np.asarray(Image.fromarray(random.integers(0, 40, (60, 80), np.uint8)).resize((WIDTH, HEIGHT), Image.BICUBIC))
    return np.broadcast_to(light + plaster[..., None], (HEIGHT, WIDTH, 3))


def frames(folder):
    random = np.random.default_rng(1)
    faces = json.loads((ROOT / "tests/golden/portraits.json").read_text())["pictures"]
    for face in faces:
        portrait = Image.open(ROOT / "tests/data" / face["picture"]).convert("RGB")
        x1, y1, x2, y2 = face["w8"]["detections"][0]["box"]
        scale = FACE / max(x2 - x1, y2 - y1)
        portrait = portrait.resize([round(side * scale) for side in portrait.size], Image.BILINEAR, reducing_gap=2)
        for number, (x, y) in enumerate(PLACES):
            frame = Image.fromarray(wall(random).astype(np.uint8))
            frame.paste(portrait, (round(x - (x1 + x2) / 2 * scale), round(y - (y1 + y2) / 2 * scale)))
            noisy = np.asarray(frame) + random.normal(0, 2, (HEIGHT, WIDTH, 3))
            name = Path(face["picture"]).stem
            Image.fromarray(np.clip(noisy + 0.5, 0, 255).astype(np.uint8)).save(folder / f"{name}_at_{number}.png")


if __name__ == "__main__":
    target = Path(sys.argv[1])
    target.mkdir(parents=True)
    frames(target)
