//! What several test modules need.

use std::path::{Path, PathBuf};

use facelatch::vision::{Vision, manifest::Precision, mtcnn::MtcnnSettings};
use image::RgbImage;

/// The checkout.
pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// A folder of test data that lies beside the checkout on some machines; None, and a line that says so, elsewhere.
pub fn beside_checkout(what: &str) -> Option<PathBuf> {
    let path = root().join("../shared").join(what);
    if path.exists() {
        return Some(path);
    }
    eprintln!("SKIPPED: {what} is not beside the checkout");
    None
}

pub fn picture(path: &Path) -> RgbImage {
    image::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).to_rgb8()
}

pub fn portrait(name: &str) -> RgbImage {
    picture(&root().join("tests/data").join(name))
}

/// The shipped nets.
pub fn vision(precision: Precision, min_face: f32) -> Vision {
    let settings = MtcnnSettings { min_face, thresholds: [0.6, 0.7, 0.7] };
    Vision::load(&root().join("models"), "dlib", precision, settings).expect("the committed models load")
}
