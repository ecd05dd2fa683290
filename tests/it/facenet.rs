//! The program on what models/export/facenet_test.py made of random weights: the same faces as facenet-pytorch cuts out, the same
//! embeddings as onnxruntime's. Skipped where `make facenet-test` has not made them.

use std::{fs, path::PathBuf, time::Instant};

use facelatch::vision::{
    align::{self, AlignedFace},
    embed::Embedder,
    geometry::{BoundingBox, Detection, Landmarks},
    manifest::Manifest,
    model::Precision,
};
use serde_json::Value;

use crate::{
    door,
    support::{picture, portrait, root},
};

/// The folder and what was written about it.
fn made() -> Option<(PathBuf, Value)> {
    let dir = root().join("target/models/facenet-test");
    match fs::read_to_string(dir.join("facenet-golden.json")) {
        Ok(text) => Some((dir, serde_json::from_str(&text).unwrap())),
        Err(_) => {
            eprintln!("SKIPPED: FaceNet with random weights is not there; `make facenet-test` makes it");
            None
        }
    }
}

fn numbers(value: &Value) -> Vec<f32> {
    value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap() as f32).collect()
}

#[test]
fn faces_are_cut_out_as_facenet_pytorch_does() {
    let Some((dir, golden)) = made() else { return };
    let manifest = Manifest::load(&dir).unwrap();
    let alignment = manifest.embedder("facenet-tensor").unwrap().alignment.clone().unwrap();
    for face in golden["faces"].as_array().unwrap() {
        let edges = numbers(&face["box"]);
        let bounding_box = BoundingBox { x1: edges[0], y1: edges[1], x2: edges[2], y2: edges[3] };
        let detection = Detection { bounding_box, score: 1.0, landmarks: Landmarks::default() };
        let name = face["picture"].as_str().unwrap();
        let AlignedFace(got) = align::align(&portrait(name), &detection, &alignment, (160, 160)).unwrap();
        let expected = picture(&dir.join(face["face"].as_str().unwrap()));
        let off = got.iter().zip(expected.iter()).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
        assert!(off <= 1, "{name}: {off} of 255 off");
    }
}

#[test]
fn embeddings_are_onnxruntimes() {
    let Some((dir, golden)) = made() else { return };
    let manifest = Manifest::load(&dir).unwrap();
    let faces: Vec<AlignedFace> = golden["faces"]
        .as_array()
        .unwrap()
        .iter()
        .map(|face| AlignedFace(picture(&dir.join(face["face"].as_str().unwrap()))))
        .collect();
    for (scales, precision, tolerance) in [
        ("tensor", Precision::W8, 1e-4),
        ("tensor", Precision::Int8, 0.1),
        ("channel", Precision::W8, 1e-4),
        ("channel", Precision::Int8, 0.1),
    ] {
        let embedder =
            Embedder::load(&manifest, manifest.embedder(&format!("facenet-{scales}")).unwrap(), precision).unwrap();
        let reference = &golden["nets"][format!("{scales} {precision}")];
        let (mut farthest, mut fastest) = (0f32, f64::MAX);
        for (face, expected) in faces.iter().zip(reference["embeddings"].as_array().unwrap()) {
            let started = Instant::now();
            let got = embedder.embed(face).unwrap();
            fastest = fastest.min(started.elapsed().as_secs_f64() * 1e3);
            let square = |(a, b): (&f32, f32)| (a - b) * (a - b);
            farthest = farthest.max(got.values().iter().zip(numbers(expected)).map(square).sum::<f32>().sqrt());
        }
        let theirs = reference["onnxruntime_ms"].as_f64().unwrap();
        eprintln!(
            "{scales} {precision}: at most {farthest:.1e} from onnxruntime; {fastest:.1} ms, onnxruntime {theirs:.1} ms"
        );
        assert!(farthest < tolerance, "{scales} {precision}: {farthest}");
    }
}

#[test]
fn the_program_runs_it_once_it_is_told_a_distance() {
    let Some((models, _)) = made() else { return };
    let dir = tempfile::tempdir().unwrap();
    door::config(dir.path());
    let identify = |recognition: &str| {
        let text = format!(
            "mode = \"attendance\"\n[models]\ndir = \"{}\"\nembedder = \"facenet-tensor\"\n[recognition]\n{recognition}\n\
             [enroll]\nfolder = \"enroll\"\n[store]\npath = \"store\"\n[control]\nsocket = \"control.sock\"\n",
            models.display()
        );
        fs::write(dir.path().join("facelatch.toml"), text).unwrap();
        let mut command = crate::support::command(env!("CARGO_BIN_EXE_facelatch"));
        command.arg("--config").arg(dir.path().join("facelatch.toml")).env_remove("RUST_LOG");
        let output = command.arg("identify").arg(root().join("tests/data/barack_obama_1.png")).output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, _, error) = identify("");
    assert!(code == Some(78) && error.contains("set recognition.max_distance"), "{error}");
    let (code, out, error) = identify("max_distance = 0.1");
    assert!(code == Some(0) && out.starts_with("Barack Obama"), "{out}{error}");
}
