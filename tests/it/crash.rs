//! Invariant 5: what was acknowledged is on disk, through kill -9 and a full disk.
//!
//! The test runs itself again as a child that enrols and records as fast as it can and says what was acknowledged; the
//! parent kills it in the middle. `FACELATCH_CRASH_ROUNDS` says how often (10 if it does not).

use std::{
    collections::HashSet,
    env, fs,
    io::{BufRead, BufReader, Cursor, Write},
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
    thread,
    time::{Duration, SystemTime},
};

use facelatch::{
    config::EnrollConfig,
    enroll::{Enroller, FaceReader, Refusal, Standard},
    gallery::TemplateFusion,
    policy::Limits,
    service::moment,
    store::{EventKind, Store},
    vision::{embed::Embedding, model::ModelId},
};
use image::{Rgb, RgbImage};
use rustix::process::{Resource, Rlimit, setrlimit};

use crate::support::command;

const FOLDER: &str = "FACELATCH_CRASH_FOLDER";
const UNWRITABLE: &str = "FACELATCH_UNWRITABLE_FOLDER";

/// Sees a face in every picture, each in a direction of its own.
struct AnyFace;

impl FaceReader for AnyFace {
    fn model(&self) -> ModelId {
        ModelId([1; 16])
    }

    fn read(&self, picture: &RgbImage, _: u32) -> Result<(Embedding, u32), Refusal> {
        let values = (0..8).map(|i| f32::from(picture.get_pixel(i, 0)[0]) - 127.5).collect();
        Ok((Embedding::new(values, self.model()).expect("half a level off zero"), 100))
    }
}

fn picture(number: u64) -> Vec<u8> {
    let noise = |x: u32| ((number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(x * 8) & 0xff) as u8;
    let mut bytes = Vec::new();
    let picture = RgbImage::from_fn(8, 8, |x, _| Rgb([noise(x); 3]));
    picture.write_to(&mut Cursor::new(&mut bytes), image::ImageFormat::Png).unwrap();
    bytes
}

fn open(dir: &Path) -> (Store, Enroller) {
    let (store, notes) = Store::open(&dir.join("store"), 0).expect("the store opens");
    assert!(notes.is_empty(), "a kill damages nothing: {notes:?}");
    let config = EnrollConfig { folder: dir.join("enroll"), ..EnrollConfig::default() };
    let limits = Box::new(|_| Ok(Limits { single: 0.0, shrink: 0.0 }));
    let standard = Standard { max_spread: 2.0, fusion: TemplateFusion::Mean.into(), limits };
    let enroller = Enroller::new(config, store.clone(), Arc::new(AnyFace), standard).unwrap();
    (store, enroller)
}

/// The child: does nothing unless the parent has told it where.
#[test]
fn child_that_is_killed() {
    let Some(dir) = env::var_os(FOLDER) else { return };
    let (store, mut enroller) = open(Path::new(&dir));
    let start = store.events(None, Some(1)).unwrap().first().map_or(0, |event| event.id);
    for number in start.. {
        let name = format!("person {}", number % 7);
        let accepted = enroller.add_picture(&name, "p.png", &picture(number), SystemTime::now());
        match accepted {
            Ok(Ok((taken, _))) => println!("enrolled {name}|{}", taken.path),
            Ok(Err(_)) => {}
            Err(error) => return println!("error {error}"),
        }
        match store.append_event(moment(), EventKind::Started) {
            Ok(event) => println!("event {}", event.id),
            Err(error) => return println!("error {error}"),
        }
        std::io::stdout().flush().unwrap();
    }
}

fn child(dir: &Path) -> Command {
    let mut command = command(env::current_exe().unwrap());
    command
        .args(["crash::child_that_is_killed", "--exact", "--nocapture"])
        .env(FOLDER, dir)
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    command
}

/// Everything that was acknowledged must be there.
fn check(dir: &Path, acknowledged: &[String]) {
    let (store, mut enroller) = open(dir);
    enroller.sync(SystemTime::now() + Duration::from_secs(60), || true).unwrap();
    let events: HashSet<String> = store.events(None, None).unwrap().iter().map(|e| format!("event {}", e.id)).collect();
    let people = store.people().unwrap();
    let pictures: HashSet<String> =
        people.iter().flat_map(|p| p.pictures.iter().map(|e| format!("enrolled {}|{}", p.name, e.path))).collect();
    for line in acknowledged {
        assert!(events.contains(line) || pictures.contains(line), "acknowledged and lost: {line}");
    }
}

#[test]
fn acknowledged_is_on_disk() {
    let rounds = env::var("FACELATCH_CRASH_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(10);
    let dir = tempfile::tempdir().unwrap();
    let mut acknowledged: Vec<String> = Vec::new();
    for round in 0..rounds {
        let mut running = child(dir.path()).spawn().unwrap();
        let mut lines = BufReader::new(running.stdout.take().unwrap()).lines().map_while(Result::ok);
        // Once it is at work, at a moment that differs from round to round.
        let first = lines.by_ref().find(|line| line.contains("event ") || line.contains("enrolled "));
        thread::sleep(Duration::from_micros(round * 7_919 % 60_000));
        running.kill().unwrap();
        running.wait().unwrap();
        let said = first.into_iter().chain(lines);
        // The test runner's own words stand on the first line before the child's.
        let ours = said
            .filter_map(|line| ["event ", "enrolled "].iter().find_map(|key| Some(line[line.find(key)?..].to_owned())));
        acknowledged.extend(ours);
        check(dir.path(), &acknowledged);
    }
    let pictures = acknowledged.iter().filter(|line| line.starts_with("enrolled ")).count();
    let events = acknowledged.len() - pictures;
    eprintln!("{rounds} kills, {pictures} pictures and {events} events acknowledged, none lost");
    assert!(acknowledged.len() as u64 >= rounds);
    assert!(pictures > 0 && events > 0, "both were at work");
}

#[test]
fn a_full_disk_loses_nothing_that_was_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    // Writes beyond the limit fail, as on a full disk; in units of 512 bytes or 1 KiB, as the shell has it.
    let script = "trap '' XFSZ; ulimit -f 1500; exec \"$@\"";
    let plain = child(dir.path());
    let output = Command::new("sh")
        .args(["-c", script, "sh"])
        .arg(plain.get_program())
        .args(plain.get_args())
        .env(FOLDER, dir.path())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let acknowledged: Vec<String> = text
        .lines()
        .filter(|line| line.starts_with("event ") || line.starts_with("enrolled "))
        .map(str::to_owned)
        .collect();
    assert!(!acknowledged.is_empty(), "{text}");
    assert!(text.contains("error ") || !output.status.success(), "the limit was reached: {text}");
    let (store, _) = Store::open(&dir.path().join("store"), 0).expect("the store opens when there is room again");
    drop(store);
    check(dir.path(), &acknowledged);
    assert!(fs::read_dir(dir.path().join("enroll")).unwrap().count() > 0);
}

/// The child: from now on nothing can be written; then somebody is removed.
#[test]
fn child_that_cannot_write() {
    let Some(dir) = env::var_os(UNWRITABLE) else { return };
    let (store, mut enroller) = open(Path::new(&dir));
    for (number, name) in ["Ada", "Joe"].iter().enumerate() {
        enroller.add_picture(name, "p.png", &picture(number as u64), SystemTime::now()).unwrap().unwrap();
    }
    setrlimit(Resource::Fsize, Rlimit { current: Some(0), maximum: None }).unwrap();
    fs::remove_file(Path::new(&dir).join("enroll/Ada/p.png")).unwrap();
    fs::copy(Path::new(&dir).join("enroll/Joe/p.png"), Path::new(&dir).join("enroll/Ada/empty.png")).unwrap_err();
    for _ in 0..2 {
        let changes = enroller.sync(SystemTime::now() + Duration::from_secs(60), || true).unwrap();
        let names: Vec<&str> = enroller.people().iter().map(|person| person.name.as_str()).collect();
        println!("left {names:?}, forgotten {}, said {}", changes.forgotten.len(), changes.unwritten.is_some());
    }
    std::io::stdout().flush().unwrap();
    // Nothing else may come of a store that cannot be written.
    drop((store, enroller));
}

#[test]
fn who_is_removed_is_gone_though_nothing_can_be_written() {
    let dir = tempfile::tempdir().unwrap();
    let mut plain = command(env::current_exe().unwrap());
    plain.args(["crash::child_that_cannot_write", "--exact", "--nocapture"]);
    let output = Command::new("sh")
        .args(["-c", "trap '' XFSZ; exec \"$@\"", "sh"])
        .arg(plain.get_program())
        .args(plain.get_args())
        .env(UNWRITABLE, dir.path())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("left [\"Joe\"], forgotten 1, said true"), "{text}");
    assert!(text.contains("left [\"Joe\"], forgotten 0, said false"), "said once: {text}");
    // The store has the record still, or not; the folder is the truth.
    let (store, mut enroller) = open(dir.path());
    enroller.sync(SystemTime::now() + Duration::from_secs(60), || true).unwrap();
    let names: Vec<String> = store.people().unwrap().into_iter().map(|person| person.name).collect();
    assert_eq!(names, ["Joe"]);
}
