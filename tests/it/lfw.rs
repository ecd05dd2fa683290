//! The shipped chain on a part of Labeled Faces in the Wild, where that lies beside the checkout, through `facelatch eval`. `make lfw` measures all of it.

use std::{fs, path::Path};

use serde_json::Value;

use crate::support::{beside_checkout, root, too_slow_here};

/// The first fold of the list as two folds of half its size.
fn one_fold(pairs: &Path) -> String {
    let text = fs::read_to_string(pairs).unwrap();
    let lines: Vec<&str> = text.lines().skip(1).take(600).collect();
    let half = |from: usize| [&lines[from..from + 150], &lines[from + 300..from + 450]].concat();
    format!("2\t150\n{}\n", [half(0), half(150)].concat().join("\n"))
}

#[test]
fn pairs_of_pictures_are_told_apart() {
    if too_slow_here("LFW") {
        return;
    }
    let Some(images) = beside_checkout("data/lfw-dev") else { return };
    let dir = tempfile::tempdir().unwrap();
    let pairs = dir.path().join("pairs.txt");
    fs::write(&pairs, one_fold(&images.join("pairs.txt"))).unwrap();
    let output = crate::support::command(env!("CARGO_BIN_EXE_facelatch"))
        .args(["eval", "--json", "--models"])
        .arg(root().join("models"))
        .arg("--pairs")
        .arg(&pairs)
        .arg("--images")
        .arg(&images)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let measured: Value = serde_json::from_slice(&output.stdout).unwrap();
    eprintln!("{measured}");
    let number = |key: &str| measured[key].as_f64().unwrap();
    assert!(number("accuracy") >= 0.97, "accuracy {}", number("accuracy"));
    assert!(number("auc") > 0.99 && number("eer") < 0.03);
    assert!(measured["tar"]["1e-3"].as_f64().unwrap() > 0.88);
    assert_eq!((measured["pairs"].as_u64(), measured["undetected"].as_u64()), (Some(600), Some(0)));
}
