//! `facelatch eval` on recorded visits and on groups of people, with the six portraits.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Output,
};

use image::{Rgb, RgbImage, imageops};
use serde_json::{Value, json};

use crate::support::{portrait, root};

fn eval(arguments: &[&str]) -> Output {
    let mut command = crate::support::command(env!("CARGO_BIN_EXE_facelatch"));
    command.args(["--config", "/nowhere/facelatch.toml", "eval", "--json", "--models"]).arg(root().join("models"));
    command.args(arguments).env_remove("FACELATCH_CONFIG").output().unwrap()
}

fn answer(output: &Output) -> Value {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// A folder of people to enrol and one of visits.
struct Site {
    dir: tempfile::TempDir,
}

impl Site {
    fn new() -> Site {
        Site { dir: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn enrol(&self, name: &str, portraits: &[&str]) {
        let folder = self.path("enrolled").join(name);
        fs::create_dir_all(&folder).unwrap();
        for file in portraits {
            fs::copy(root().join("tests/data").join(file), folder.join(file)).unwrap();
        }
    }

    /// Twelve frames of a portrait that comes nearer and sways; of None, an empty wall.
    fn visit(&self, name: &str, sequence: &str, file: Option<&str>) {
        let folder = self.path("visits").join(name).join(sequence);
        fs::create_dir_all(&folder).unwrap();
        let face = file.map(portrait);
        for number in 0..12u32 {
            let mut frame =
                RgbImage::from_fn(640, 480, |x, y| Rgb([(90 + (x * 7 + y * 3 + number * 5) % 23) as u8; 3]));
            if let Some(face) = &face {
                let side = 300 + 8 * number;
                let scaled =
                    imageops::resize(face, side, side * face.height() / face.width(), imageops::FilterType::Triangle);
                let sway = (f64::from(number) * 0.7).sin() * 20.0;
                imageops::overlay(&mut frame, &scaled, 120 + sway as i64, 40);
            }
            frame.save(folder.join(format!("{number:03}.jpg"))).unwrap();
        }
    }

    fn played(&self, more: &[&str]) -> Output {
        let (enrolled, visits) = (self.path("enrolled"), self.path("visits"));
        eval(&[&["--enrolled", shown(&enrolled), "--visits", shown(&visits)], more].concat())
    }
}

fn shown(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn a_visit_is_played_through_the_door_that_is_shipped() {
    let site = Site::new();
    site.enrol("Barack Obama", &["barack_obama_1.png"]);
    site.enrol("Joe Biden", &["joe_biden_1.png"]);
    site.visit("Barack Obama", "monday", Some("barack_obama_2.png"));
    site.visit("Barack Obama", "tuesday", Some("barack_obama_3.png"));
    site.visit("Barack Obama", "away", None);
    // As another: the door opens, and not for the visitor.
    site.visit("Joe Biden", "in disguise", Some("barack_obama_3.png"));
    site.visit("Eileen Collins", "monday", Some("eileen_collins_1.png"));
    site.visit("Grace Hopper", "monday", Some("grace_hopper_1.png"));
    let played = answer(&site.played(&["--rate", "1/1000"]));
    for (key, value) in [
        ("known_visits", json!(4)),
        ("known_let_in", json!(2)),
        ("mistaken", json!(1)),
        ("stranger_visits", json!(2)),
        ("stranger_let_in", json!(0)),
        ("by_reason", json!({ "no_face": 1, "unknown": 2 })),
        ("rate", json!(1e-3)),
    ] {
        assert_eq!(played[key], value, "{key}: {played}");
    }
    // The limit is the daemon's for this rate and two people.
    assert_eq!(played["doors"][0]["people"], json!(2));
    let strict = answer(&site.played(&["--rate", "1/1000000"]));
    let limit = |answer: &Value| answer["doors"][0]["limit"].as_f64().unwrap();
    assert!(limit(&strict) < limit(&played) - 0.05, "{} {}", limit(&strict), limit(&played));
}

#[test]
fn torn_frames_are_skipped_and_counted() {
    let site = Site::new();
    site.enrol("Barack Obama", &["barack_obama_1.png"]);
    site.visit("Barack Obama", "torn", Some("barack_obama_2.png"));
    let torn = site.path("visits/Barack Obama/torn");
    let whole = fs::read(torn.join("003.jpg")).unwrap();
    fs::write(torn.join("003.jpg"), &whole[..whole.len() / 2]).unwrap();
    let played = answer(&site.played(&[]));
    let counts = ["known_let_in", "known_visits", "broken_frames"].map(|key| played[key].clone());
    assert_eq!(counts, [1, 1, 1].map(Value::from), "{played}");
    assert_eq!(played["visits"][0]["broken_frames"], json!(1));
}

#[test]
fn folders_of_one_name_make_no_table() {
    let site = Site::new();
    let [one, other] = ["one/office", "other/office"].map(|name| site.path(name));
    let table = eval(&["--people", shown(&one), "--no-limit", shown(&other), "--table"]);
    let said = String::from_utf8_lossy(&table.stderr);
    assert_eq!(table.status.code(), Some(64), "{said}");
    assert!(said.contains("two of the folders are called office"), "{said}");
}

#[test]
fn a_small_face_behind_does_not_hide_why_the_visitor_stayed_out() {
    let site = Site::new();
    site.enrol("Barack Obama", &["barack_obama_1.png"]);
    site.visit("Barack Obama", "followed", Some("barack_obama_2.png"));
    let behind = portrait("joe_biden_1.png");
    let behind = imageops::resize(&behind, 150, 150, imageops::FilterType::Triangle);
    for entry in fs::read_dir(site.path("visits/Barack Obama/followed")).unwrap() {
        let path = entry.unwrap().path();
        let mut frame = image::open(&path).unwrap().to_rgb8();
        imageops::overlay(&mut frame, &behind, 490, 320);
        frame.save(&path).unwrap();
    }
    let played = answer(&site.played(&[]));
    assert_eq!(played["by_reason"], json!({ "several_faces": 1 }), "{played}");
}

#[test]
fn doors_are_added_up_and_each_has_its_own_people() {
    let site = Site::new();
    site.enrol("Barack Obama", &["barack_obama_1.png"]);
    site.visit("Barack Obama", "monday", Some("barack_obama_2.png"));
    let other = Site::new();
    other.enrol("Grace Hopper", &["grace_hopper_1.png"]);
    other.visit("Barack Obama", "monday", Some("barack_obama_2.png"));
    let (enrolled, visits) = (other.path("enrolled"), other.path("visits"));
    let played = answer(&site.played(&["--enrolled", shown(&enrolled), "--visits", shown(&visits)]));
    assert_eq!((&played["known_visits"], &played["known_let_in"]), (&json!(1), &json!(1)));
    assert_eq!((&played["stranger_visits"], &played["stranger_let_in"]), (&json!(1), &json!(0)));
}

#[test]
fn enrolment_refuses_as_the_folder_does_and_leaves_it_alone() {
    let site = Site::new();
    site.enrol("Barack Obama", &["barack_obama_1.png"]);
    site.enrol("Joe Biden", &[]);
    RgbImage::new(300, 300).save(site.path("enrolled/Joe Biden/black.png")).unwrap();
    site.visit("Joe Biden", "monday", Some("joe_biden_1.png"));
    let played = answer(&site.played(&[]));
    let door = &played["doors"][0];
    assert_eq!(door["not_enrolled"], json!(["Joe Biden"]));
    assert!(door["refused"][0]["picture"].as_str().unwrap().contains("Joe Biden"), "{door}");
    // A person whom enrolment refused is not let in, and is no stranger.
    assert_eq!((&played["known_visits"], &played["known_let_in"]), (&json!(1), &json!(0)));
    let left: Vec<_> = fs::read_dir(site.path("enrolled/Joe Biden")).unwrap().collect();
    assert_eq!(left.len(), 1, "{left:?}");
}

#[test]
fn what_cannot_be_played_is_refused_with_its_place() {
    let site = Site::new();
    let refused = |more: &[&str], code: i32, words: &[&str]| {
        let output = site.played(more);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{error}");
        words.iter().for_each(|word| assert!(error.contains(word), "{word}: {error}"));
    };
    refused(&[], 74, &["visits", "No such file"]);
    fs::create_dir_all(site.path("visits")).unwrap();
    refused(&[], 74, &["visits", "no visit in it"]);
    fs::create_dir_all(site.path("visits/Ada")).unwrap();
    refused(&[], 74, &["visits/Ada", "no sequence"]);
    fs::create_dir_all(site.path("visits/Ada/monday")).unwrap();
    refused(&[], 74, &["visits/Ada/monday", "no frame"]);
    site.visit("Ada", "monday", None);
    refused(&[], 74, &["enrolled", "No such file"]);
    fs::create_dir_all(site.path("enrolled/Ada")).unwrap();
    refused(&[], 74, &["enrolled/Ada", "no picture"]);
    RgbImage::new(300, 300).save(site.path("enrolled/Ada/black.png")).unwrap();
    refused(&[], 74, &["no picture in it can be enrolled", "black.png", "no face"]);
    site.enrol("Ada", &["joe_biden_1.png"]);
    fs::write(site.path("visits/Ada/monday/005.jpg"), "no picture").unwrap();
    refused(&[], 74, &["visits/Ada/monday/005.jpg"]);
    refused(&["--rate", "2"], 64, &["1/100"]);
    refused(&["--visits", "/nowhere"], 64, &["1 --enrolled and 2 --visits"]);
    refused(&["--people", "/nowhere"], 64, &["--enrolled"]);
}

#[test]
fn groups_of_people_are_measured_side_by_side() {
    let dir = tempfile::tempdir().unwrap();
    let group = |name: &str, people: &[(&str, &str)]| {
        for (person, file) in people {
            let folder = dir.path().join(name).join(person);
            fs::create_dir_all(&folder).unwrap();
            fs::copy(root().join("tests/data").join(file), folder.join(file)).unwrap();
        }
        dir.path().join(name)
    };
    let presidents = [
        ("Barack Obama", "barack_obama_1.png"),
        ("Barack Obama", "barack_obama_2.png"),
        ("Barack Obama", "barack_obama_3.png"),
        ("Joe Biden", "joe_biden_1.png"),
    ];
    let men = group("men", &presidents);
    let women = group("women", &[("Eileen Collins", "eileen_collins_1.png"), ("Grace Hopper", "grace_hopper_1.png")]);
    RgbImage::new(300, 300).save(women.join("Grace Hopper/black.png")).unwrap();
    let plots = dir.path().join("plots");
    let measured = answer(&eval(&["--people", shown(&men), "--people", shown(&women), "--plots", shown(&plots)]));
    let (men, women) = (&measured["folders"][0], &measured["folders"][1]);
    assert_eq!((&men["genuine"], &men["impostor"], &men["undetected"]), (&json!(3), &json!(3), &json!(0)));
    assert_eq!((&women["genuine"], &women["impostor"], &women["undetected"]), (&json!(0), &json!(1), &json!(1)));
    let at = |group: &Value| group["limits"]["1e-3"].clone();
    assert_eq!(at(men)["fnmr"]["value"], json!(0.0), "{measured}");
    assert!(at(women)["fnmr"].is_null(), "two people with a picture each: {measured}");
    for group in [men, women] {
        let fmr = &at(group)["fmr"];
        assert_eq!((&fmr["value"], &fmr["pairs_of_people"], &fmr["evidence"]), (&json!(0.0), &json!(0), &json!(false)));
    }
    let picture = fs::read_to_string(plots.join("populations.svg")).unwrap();
    let limit = format!("limit for 1e-2: {:.3}", men["limits"]["1e-2"]["distance"].as_f64().unwrap());
    for words in ["men", "women", &limit] {
        assert!(picture.lines().any(|line| line == words), "{words}: {picture}");
    }
}

#[test]
fn the_manifests_table_is_toml_or_json() {
    let site = Site::new();
    site.enrol("Barack Obama", &["barack_obama_1.png", "barack_obama_2.png"]);
    site.enrol("Joe Biden", &["joe_biden_1.png"]);
    let people = site.path("of \"our\" office\n");
    fs::rename(site.path("enrolled"), &people).unwrap();
    let as_json = answer(&eval(&["--people", shown(&people), "--table"]));
    let mut command = crate::support::command(env!("CARGO_BIN_EXE_facelatch"));
    command.arg("eval").arg("--models").arg(root().join("models"));
    let output = command.arg("--people").arg(&people).arg("--table").output().unwrap();
    let as_toml: toml::Value = toml::from_str(std::str::from_utf8(&output.stdout).unwrap()).unwrap();
    let population = &as_json["populations"][0];
    assert_eq!(population["name"], json!("of \"our\" office\n"));
    assert_eq!((&population["people"], &population["comparisons"]), (&json!(2), &json!(2)));
    assert_eq!(serde_json::to_value(&as_toml["net"]["populations"]).unwrap(), as_json["populations"]);
}
