//! The vision chain against values computed by another implementation (numpy and onnxruntime, models/export/golden.py).
//!
//! Tolerances are absolute. The pictures are PNGs: two JPEG decoders differ by a grey level here and there, and the cascade's
//! whole-pixel crops turn that into a pixel.

use std::{fs, path::Path};

use facelatch::vision::{
    Vision,
    geometry::{BoundingBox, Detection, Landmarks, Point},
    manifest::{Checksum, Manifest},
    model::Precision,
    mtcnn::MtcnnSettings,
    net::NetFile,
};
use serde_json::Value;

use crate::support::{beside_checkout, portrait, root, vision};

const PRECISIONS: [Precision; 2] = [Precision::W8, Precision::Int8];

fn golden(file: &str) -> Value {
    let text = fs::read_to_string(root().join("tests/golden").join(file)).expect("golden values are in the tree");
    serde_json::from_str(&text).expect("golden values are JSON")
}

fn numbers(value: &Value) -> Vec<f32> {
    value.as_array().expect("an array").iter().map(|n| n.as_f64().expect("a number") as f32).collect()
}

/// How far the chain is from the reference over all portraits.
#[derive(Debug)]
struct Deviation {
    /// Least intersection over union of boxes.
    iou: f32,
    /// Largest error of a landmark in pixels.
    landmark: f32,
    /// Largest distance of an embedding made from the reference's landmarks.
    embedding: f32,
    /// The same from the chain's own landmarks.
    end_to_end: f32,
}

impl Deviation {
    fn assert_small(&self, precision: Precision) {
        eprintln!("{precision}: {self:?}");
        assert!(self.iou > 0.95 && self.landmark < 1.0, "{precision}: {self:?}");
        assert!(self.embedding < 0.02 && self.end_to_end < 0.02, "{precision}: {self:?}");
    }
}

fn compare(golden: &Value, precision: Precision, vision: &mut Vision) -> Deviation {
    let mut worst = Deviation { iou: 1.0, landmark: 0.0, embedding: 0.0, end_to_end: 0.0 };
    for entry in golden["pictures"].as_array().expect("pictures") {
        let name = entry["picture"].as_str().expect("a name");
        let expected = &entry[precision.to_string()];
        let picture = portrait(name);
        assert_eq!(u64::from(picture.width()), entry["width"].as_u64().unwrap());
        let detections = vision.detect(&picture).expect("the nets run");
        let wanted: Vec<Detection> = expected["detections"].as_array().unwrap().iter().map(detection).collect();
        assert_eq!(detections.len(), wanted.len(), "{name} {precision}: number of faces");
        for (detection, wanted) in detections.iter().zip(&wanted) {
            worst.iou = worst.iou.min(detection.bounding_box.iou(&wanted.bounding_box));
            for (point, wanted) in detection.landmarks.0.iter().zip(&wanted.landmarks.0) {
                worst.landmark = worst.landmark.max((point.x - wanted.x).hypot(point.y - wanted.y));
            }
        }
        let biggest = expected["biggest"].as_u64().unwrap() as usize;
        let reference = numbers(&expected["embedding"]);
        let off = |detection: &Detection| {
            let (_, aligned) = vision.look(&picture, detection).expect("the landmarks are sound");
            let embedding = vision.embedder().embed(&aligned).expect("the embedder runs");
            embedding.values().iter().zip(&reference).map(|(a, b)| (a - b) * (a - b)).sum::<f32>().sqrt()
        };
        worst.embedding = worst.embedding.max(off(&wanted[biggest]));
        worst.end_to_end = worst.end_to_end.max(off(&detections[biggest]));
    }
    worst
}

fn detection(value: &Value) -> Detection {
    let [x1, y1, x2, y2] = numbers(&value["box"])[..] else { panic!("a box has four numbers") };
    let points: Vec<Vec<f32>> = value["landmarks"].as_array().unwrap().iter().map(numbers).collect();
    Detection {
        bounding_box: BoundingBox { x1, y1, x2, y2 },
        score: value["score"].as_f64().unwrap() as f32,
        landmarks: Landmarks(std::array::from_fn(|i| Point { x: points[i][0], y: points[i][1] })),
    }
}

#[test]
fn the_chain_gives_the_reference_values_on_portraits() {
    for precision in PRECISIONS {
        compare(&golden("portraits.json"), precision, &mut vision(precision, 40.0)).assert_small(precision);
    }
}

#[test]
fn each_net_alone_gives_the_reference_values() {
    let golden = golden("portraits.json");
    let manifest = Manifest::load(&root().join("models")).unwrap();
    for (key, expected) in golden["nets"].as_object().unwrap() {
        let (name, precision) = key.split_once(' ').unwrap();
        let precision = if precision == "w8" { Precision::W8 } else { Precision::Int8 };
        let (height, width) =
            (expected["height"].as_u64().unwrap() as usize, expected["width"].as_u64().unwrap() as usize);
        let entry = manifest.nets().iter().find(|net| net.name == name).unwrap();
        let net = NetFile::read(name, &manifest.read_net(entry).unwrap(), precision).unwrap();
        let net = net.plan(height, width).unwrap();
        let value = |i: usize| {
            let (c, y, x) = (i / (height * width), i / width % height, i % width);
            ((c * 7919 + y * 104_729 + x * 1_299_709) % 256) as f32
        };
        let input: Vec<f32> = (0..3 * height * width).map(value).collect();
        let output = net.run(&input).unwrap();
        let wanted = numbers(&expected["values"]);
        assert_eq!(output.values().len(), wanted.len(), "{key}");
        let scale = wanted.iter().fold(0f32, |most, v| most.max(v.abs()));
        let error = output.values().iter().zip(&wanted).fold(0f32, |most, (a, b)| most.max((a - b).abs()));
        // In integers both give the same steps; only the floating-point heads behind them differ by their order of summation.
        assert!(error <= 1e-4 * scale, "{key}: off by {error} where values reach {scale}");
    }
}

/// The float net is the reference; onnxruntime gives what the 8-bit forms of the file come to.
/// In integers one pixel that is one grey level off moves an embedding by .027, at most .042 of 36.
#[test]
fn mobilefacenet_gives_the_reference_values_on_portraits() {
    let golden = golden("portraits.json");
    let settings = MtcnnSettings { min_face: 40.0, thresholds: [0.6, 0.7, 0.7] };
    for (precision, from_float, elsewhere) in [(Precision::W8, 0.035, 0.001), (Precision::Int8, 0.055, 0.045)] {
        let vision = Vision::load(&root().join("models"), "mobilefacenet", precision, settings).unwrap();
        for entry in golden["pictures"].as_array().expect("pictures") {
            let name = entry["picture"].as_str().expect("a name");
            let found = &entry["w8"];
            let face = detection(&found["detections"][found["biggest"].as_u64().unwrap() as usize]);
            let (_, aligned) = vision.look(&portrait(name), &face).expect("the landmarks are sound");
            let embedding = vision.embedder().embed(&aligned).expect("the embedder runs");
            let off = |reference: &str| {
                let reference = numbers(&entry["mobilefacenet"][reference]);
                assert_eq!(reference.len(), embedding.values().len());
                embedding.values().iter().zip(&reference).map(|(a, b)| (a - b) * (a - b)).sum::<f32>().sqrt()
            };
            let (exact, same_form) = (off("f32"), off(&precision.to_string()));
            eprintln!("{name} {precision}: {exact} from the float net, {same_form} from its own form elsewhere");
            assert!(exact < from_float, "{name} {precision}: {exact} from the float net");
            assert!(same_form < elsewhere, "{name} {precision}: {same_form} from the same form elsewhere");
        }
    }
}

#[test]
fn separately_exported_nets_give_their_reference_values() {
    let Some(models) = beside_checkout("models") else { return };
    for precision in PRECISIONS {
        let dir = tempfile::tempdir().unwrap();
        reference_manifest(dir.path(), &models, precision);
        let settings = MtcnnSettings { min_face: 40.0, thresholds: [0.6, 0.7, 0.7] };
        let mut vision = Vision::load(dir.path(), "dlib", precision, settings).unwrap();
        compare(&golden("reference_models.json"), precision, &mut vision).assert_small(precision);
    }
}

/// A manifest for a folder of other nets: the embedder is whole there, without a last layer of its own.
fn reference_manifest(dir: &Path, models: &Path, precision: Precision) {
    let entries = [
        ("pnet", "w8".to_owned(), 12),
        ("rnet", precision.to_string(), 24),
        ("onet", precision.to_string(), 48),
        ("dlib", precision.to_string(), 150),
    ];
    let mut text = "version = 1\n".to_owned();
    for (net, form, side) in entries {
        let file = format!("{net}_{form}.onnx");
        let bytes = fs::read(models.join(&file)).unwrap();
        let checksum = Checksum::of(&bytes);
        fs::write(dir.join(&file), bytes).unwrap();
        let role = if net == "dlib" { "embedder" } else { net };
        text += &format!(
            "[[net]]\nname = \"{net}\"\nrole = \"{role}\"\nfile = \"{file}\"\nchecksum = \"{checksum}\"\nprecisions = [\"{form}\"]\n\
             input = [{side}, {side}]\nlicense = \"\"\norigin = \"\"\n"
        );
    }
    text += "dimension = 128\nalignment = { points = [[48.55,46.66],[102.36,46.73],[75.34,78.50],[51.81,105.40],[98.99,105.65]], weights = [1,1,0.12,0.15,0.15] }\n";
    fs::write(dir.join("models.toml"), text).unwrap();
}
