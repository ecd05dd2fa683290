//! `facelatch eval` and `facelatch train` as people call them, without a configuration file.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Output,
};

use serde_json::Value;

use facelatch::vision::{manifest::Manifest, model::Precision};

use crate::support::{portrait, root, vision};

fn facelatch(arguments: &[&str]) -> Output {
    let mut command = crate::support::command(env!("CARGO_BIN_EXE_facelatch"));
    command.args(["--config", "/nowhere/facelatch.toml"]).args(arguments).env_remove("FACELATCH_CONFIG");
    command.output().unwrap()
}

fn error_of(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Two people of several pictures and three of one.
fn people(dir: &Path) -> PathBuf {
    let images = dir.join("people");
    for (person, picture) in [
        ("Barack Obama", "barack_obama_1.png"),
        ("Barack Obama", "barack_obama_2.png"),
        ("Barack Obama", "barack_obama_3.png"),
        ("Eileen Collins", "eileen_collins_1.png"),
        ("Grace Hopper", "grace_hopper_1.png"),
        ("Joe Biden", "joe_biden_1.png"),
    ] {
        fs::create_dir_all(images.join(person)).unwrap();
        fs::copy(root().join("tests/data").join(picture), images.join(person).join(picture)).unwrap();
    }
    let darker = image::imageops::brighten(&image::imageops::flip_horizontal(&portrait("grace_hopper_1.png")), -30);
    darker.save(images.join("Grace Hopper/other.png")).unwrap();
    images
}

/// A copy of the shipped models, so that a test may add to it.
fn models(dir: &Path) -> PathBuf {
    let copy = dir.join("models");
    fs::create_dir(&copy).unwrap();
    for entry in fs::read_dir(root().join("models")).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            fs::copy(&path, copy.join(path.file_name().unwrap())).unwrap();
        }
    }
    copy
}

fn shown(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn with_mirror_images_averaged_in_left_and_right_are_one() {
    let picture = portrait("joe_biden_1.png");
    let mut plain = vision(Precision::W8, 40.0);
    let face = plain.detect(&picture).unwrap()[0];
    let aligned = plain.embedder().align(&picture, &face).unwrap();
    let mirroring = plain.clone().mirroring(true);
    let embed = |of: &facelatch::vision::Vision, mirrored: bool| {
        of.embedder().embed(&if mirrored { aligned.mirrored() } else { aligned.clone() }).unwrap()
    };
    assert!(embed(&mirroring, false).distance(&embed(&mirroring, true)).unwrap() < 1e-3);
    assert!(embed(&plain, false).distance(&embed(&plain, true)).unwrap() > 0.02);
    assert_eq!(embed(&plain, false).distance(&embed(&mirroring, false)), None, "they are two models");
    assert_eq!(embed(&mirroring.mirroring(false), false), embed(&plain, false));
    // Every shipped embedder has thresholds for both ways, and stricter ones have smaller distances.
    let manifest = Manifest::load(&root().join("models")).unwrap();
    for name in ["mobilefacenet", "dlib", "dlib-triplet"] {
        let mut entry = manifest.embedder(name).unwrap().clone();
        entry.populations.truncate(1);
        let at = |mirror: bool, fmr: f64| entry.mirroring(mirror).distance_for(fmr).unwrap();
        assert!(at(true, 1e-4) < at(false, 1e-4) && at(true, 1e-5) < at(true, 1e-4), "{name}");
    }
}

#[test]
fn eval_measures_a_folder_of_people() {
    let dir = tempfile::tempdir().unwrap();
    let images = people(dir.path());
    let (models, plots) = (root().join("models"), dir.path().join("plots"));
    let arguments =
        ["eval", "--json", "--models", shown(&models), "--images", shown(&images), "--plots", shown(&plots)];
    let output = facelatch(&arguments);
    assert!(output.status.success(), "{}", error_of(&output));
    let measured: Value = serde_json::from_slice(&output.stdout).unwrap();
    // Of seven pictures 21 pairs, three of them of Barack Obama, one of Grace Hopper.
    assert_eq!((&measured["genuine"], &measured["impostor"]), (&4.into(), &17.into()));
    assert_eq!((&measured["undetected"], &measured["auc"], &measured["eer"]), (&0.into(), &1.0.into(), &0.0.into()));
    assert_eq!(measured["tar"], serde_json::json!({}), "17 comparisons show no rate");
    assert!(
        measured["accuracy"].is_null() && measured["accuracy_se"].is_null(),
        "eight pairs are too few for ten folds"
    );
    for key in ["threshold", "pairs"] {
        assert!(!measured[key].is_null(), "{key}");
    }
    for plot in ["roc.svg", "distances.svg", "populations.svg"] {
        assert!(fs::read_to_string(plots.join(plot)).unwrap().starts_with("<svg"));
    }
    let mirrored = facelatch(&[&arguments[..], &["--mirror", "--precision", "int8"]].concat());
    let mirrored: Value = serde_json::from_slice(&mirrored.stdout).unwrap();
    assert_eq!(
        (&mirrored["mirror"], &mirrored["precision"], &mirrored["eer"]),
        (&true.into(), &"int8".into(), &0.0.into())
    );
}

#[test]
fn what_cannot_be_measured_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let images = people(dir.path());
    let models = root().join("models");
    let pairs = dir.path().join("pairs.txt");
    fs::write(&pairs, "2 1\nBarack_Obama 1 2\nBarack_Obama 1 Nobody 7\nBarack_Obama 2 3\nBarack_Obama 3 Nobody 8\n")
        .unwrap();
    let broken = dir.path().join("broken");
    for (file, bytes) in [("A/1.png", "no picture"), ("A/2.png", "none"), ("B/1.png", "none")] {
        fs::create_dir_all(broken.join(file).parent().unwrap()).unwrap();
        fs::write(broken.join(file), bytes).unwrap();
    }
    let eval = |more: &[&str]| facelatch(&[&["eval", "--models", shown(&models)], more].concat());
    for (output, code, words) in [
        (eval(&["--images", shown(&images), "--pairs", shown(&pairs)]), 74, "Barack_Obama/Barack_Obama_0001.jpg"),
        (eval(&["--images", shown(&images.join("Barack Obama"))]), 74, "no pictures of people"),
        (eval(&["--images", shown(&broken)]), 74, "A/1.png: not a picture"),
        (eval(&["--images", "/nowhere"]), 74, "/nowhere"),
        (eval(&["--images", shown(&images), "--embedder", "nobody"]), 78, "there is no embedder \"nobody\""),
        (facelatch(&["eval", "--images", shown(&images)]), 78, "/nowhere/facelatch.toml"),
    ] {
        let error = error_of(&output);
        assert_eq!(output.status.code(), Some(code), "{error}");
        assert!(error.contains(words), "{error}");
    }
}

#[test]
fn a_trained_layer_is_an_embedder_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let (images, models) = (people(dir.path()), models(dir.path()));
    let out = models.join("home");
    let train = |out: &Path| {
        let cache = dir.path().join("cache");
        let arguments = ["--images", shown(&images), "--out", shown(out), "--steps", "20", "--batch", "8"];
        facelatch(&[&["train", "--cache", shown(&cache)], &arguments[..]].concat())
    };
    let first = train(&out);
    assert!(first.status.success(), "{}", error_of(&first));
    for word in ["active triplets", "held-out TAR", "loss"] {
        assert!(error_of(&first).contains(word), "{}", error_of(&first));
    }
    let said = String::from_utf8_lossy(&first.stdout);
    assert!(said.contains("1 enrolled, 1 seen") && said.contains("int8, mirrored"), "{said}");
    let read = |name: &str| fs::read(models.join(name)).unwrap();
    let (layer, entry) = (read("home.npy"), read("home.toml"));
    assert_ne!(layer, read("dlib-last.npy"));
    let eval =
        facelatch(&["eval", "--json", "--models", shown(&models), "--embedder", "home", "--images", shown(&images)]);
    let measured: Value = serde_json::from_slice(&eval.stdout).unwrap();
    assert_eq!((&measured["embedder"], &measured["auc"]), (&"home".into(), &1.0.into()));
    // Nothing is overwritten, and the same seed gives the same layer.
    let again = train(&out);
    assert_eq!((again.status.code(), read("home.npy") == layer), (Some(64), true), "{}", error_of(&again));
    assert!(error_of(&again).contains("is there already"));
    let twin = train(&models.join("twin"));
    assert!(twin.status.success() && error_of(&twin).contains("features read from"), "{}", error_of(&twin));
    assert_eq!(read("twin.npy"), layer);
    assert_eq!(read("home.toml"), entry);
}

#[test]
fn a_training_that_cannot_be_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let (images, models) = (people(dir.path()), models(dir.path()));
    let before = fs::read_dir(&models).unwrap().count();
    let out = models.join("new");
    let only_one_of_several = dir.path().join("few");
    for (person, picture) in [("A", "barack_obama_1.png"), ("A", "barack_obama_2.png"), ("B", "joe_biden_1.png")] {
        fs::create_dir_all(only_one_of_several.join(person)).unwrap();
        fs::copy(root().join("tests/data").join(picture), only_one_of_several.join(person).join(picture)).unwrap();
    }
    let train = |images: &Path, out: &Path, more: &[&str]| {
        facelatch(&[&["train", "--images", shown(images), "--out", shown(out)], more].concat())
    };
    for (output, code, words) in [
        (train(&images, &out, &["--alpha", "0"]), 64, "alpha is 0"),
        (train(&images, &out, &["--alpha=-0.2"]), 64, "alpha is -0.2"),
        (train(&images, &out, &["--alpha", "NaN"]), 64, "alpha is NaN"),
        (train(&images, &out, &["--batch", "0"]), 64, "batch is 0"),
        (train(&only_one_of_several, &out, &[]), 74, "two people with two pictures each"),
        (train(&images.join("Barack Obama"), &out, &[]), 74, "no pictures of people"),
        (train(&images, &dir.path().join("elsewhere"), &[]), 64, "no models.toml"),
        (train(&images, &models.join("dlib"), &[]), 64, "a net called dlib already"),
        (train(&images, &models.join("a b"), &[]), 64, "give a name of letters"),
        (train(&images, &out, &["--embedder", "nobody"]), 78, "there is no embedder \"nobody\""),
    ] {
        let error = error_of(&output);
        assert_eq!(output.status.code(), Some(code), "{error}");
        assert!(error.contains(words), "{error}");
    }
    assert_eq!(fs::read_dir(&models).unwrap().count(), before, "nothing was written");
}
