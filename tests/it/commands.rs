//! The program as people call it: exit codes, messages, what is left behind.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::TcpListener,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use facelatch::{
    gallery::PersonId,
    store::{EventKind, Moment, Store, Stranger, StrangerLook},
    vision::model::ModelId,
};
use rustix::process::{Pid, Signal, kill_process};

use crate::{
    door,
    support::{bound_by_permissions, command, root, skipped, wrapped},
};

/// A door's folder with a configuration file.
struct Site {
    dir: tempfile::TempDir,
}

impl Site {
    fn new() -> Site {
        let dir = tempfile::tempdir().unwrap();
        door::config(dir.path());
        let site = Site { dir };
        site.configure("");
        site
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// `more` comes before the sections that every site has.
    fn configure(&self, camera: &str) {
        let text = format!(
            "mode = \"unlock\"\n[models]\ndir = \"{}\"\nprecision = \"w8\"\n[enroll]\nfolder = \"enroll\"\n[store]\npath = \"store\"\n\
             [latch]\nbackend = \"simulated\"\nline = 17\n[control]\nsocket = \"control.sock\"\n[camera]\n{}\n",
            root().join("models").display(),
            if camera.is_empty() { "source = \"files\"\nfolder = \"frames\"" } else { camera },
        );
        fs::write(self.path("facelatch.toml"), text).unwrap();
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = command(env!("CARGO_BIN_EXE_facelatch"));
        command
            .arg("--config")
            .arg(self.path("facelatch.toml"))
            .args(arguments)
            .env_remove("RUST_LOG")
            .env_remove("FACELATCH_CONFIG");
        command
    }

    fn run(&self, arguments: &[&str]) -> Ran {
        Ran::from(self.command(arguments).output().unwrap())
    }
}

struct Ran {
    code: i32,
    out: String,
    error: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Ran {
        Ran {
            code: output.status.code().expect("it ended by itself"),
            out: String::from_utf8(output.stdout).unwrap(),
            error: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

fn picture(name: &str) -> String {
    root().join("tests/data").join(name).display().to_string()
}

#[test]
fn a_configuration_that_cannot_be_right_never_starts() {
    let site = Site::new();
    for (text, word) in [
        ("", "is empty"),
        ("mode = \"unlock\"\n[latch]\nlnie = 17\n", "facelatch.toml:3"),
        ("[latch]\nline = 17\nhold = \"3 hours\"\n", "latch.hold"),
        ("[latch]\nline = 17\nhold = \"90s\"\n", "latch.hold"),
        ("mode = \"unlock\"\n", "needs latch.line"),
    ] {
        fs::write(site.path("facelatch.toml"), text).unwrap();
        for command in ["run", "check", "people"] {
            let ran = site.run(&[command]);
            assert_eq!(ran.code, 78, "{text}: {}", ran.error);
            assert!(ran.error.contains(word), "{text}: {}", ran.error);
        }
    }
    assert!(!site.path("store").exists(), "nothing was begun");
}

#[test]
fn the_command_line_explains_itself() {
    let site = Site::new();
    let help = site.run(&["--help"]);
    assert_eq!(help.code, 0);
    for word in ["run", "demo", "doctor", "enroll", "identify", "events", "Exit codes", "78"] {
        assert!(help.out.contains(word), "{word}");
    }
    assert_eq!(site.run(&["fly"]).code, 64);
    let checked = site.run(&["check"]).out;
    assert!(checked.starts_with(&format!("{}: ok\n", site.path("facelatch.toml").display())), "{checked}");
    assert!(checked.contains("a match is nearer than") && checked.contains("; set by "), "{checked}");
}

#[test]
fn check_refuses_a_manifest_that_a_start_refuses() {
    let site = Site::new();
    let (models, file) = (site.path("models"), site.path("facelatch.toml"));
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace(&root().join("models").display().to_string(), "models")).unwrap();
    assert_eq!(site.run(&["check"]).code, 0, "as on a PC that has no models");
    fs::create_dir(&models).unwrap();
    let shipped = fs::read_to_string(root().join("models/models.toml")).unwrap();
    for (bad, words) in [
        (shipped.replace("fmr = 1e-3, distance = 1.047", "fmr = 1e-1, distance = 1.047"), "\"LFW\": thresholds"),
        (shipped.replace("distance = 1.047", "distance = nan"), "\"LFW\": thresholds"),
        (shipped.replace("name = \"ORL\"", "name = \"LFW\""), "\"LFW\": another has this name"),
        (String::new(), "missing field"),
    ] {
        fs::write(models.join("models.toml"), &bad).unwrap();
        for command in ["check", "run"] {
            let ran = site.run(&[command]);
            assert_eq!(ran.code, 74, "{command}: {} {}", ran.out, ran.error);
            assert!(ran.error.contains(words) && ran.error.contains("models.toml"), "{command}: {}", ran.error);
        }
    }
    assert!(!site.path("store").exists(), "nothing was begun");
}

#[test]
fn pictures_are_enrolled_and_identified() {
    let site = Site::new();
    let known =
        site.run(&["identify", &picture("barack_obama_3.png"), "--annotate", site.path("out.png").to_str().unwrap()]);
    assert_eq!(known.code, 0, "{} {}", known.out, known.error);
    assert!(known.out.starts_with("Barack Obama: face of"), "{}", known.out);
    assert!(image::open(site.path("out.png")).is_ok());
    let stranger = site.run(&["identify", &picture("joe_biden_1.png")]);
    assert_eq!(stranger.code, 1);
    assert!(stranger.out.contains("not in the database: nearest Barack Obama"), "{}", stranger.out);
    let enrolled = site.run(&["enroll", &picture("joe_biden_1.png"), "--name", "Joe Biden"]);
    assert_eq!(enrolled.code, 0, "{}", enrolled.error);
    assert!(site.path("enroll/Joe Biden/joe_biden_1.png").exists());
    let json = site.run(&["identify", &picture("joe_biden_1.png"), "--json"]);
    let faces: serde_json::Value = serde_json::from_str(&json.out).unwrap();
    assert_eq!(faces[0]["person"], "Joe Biden");
    let people = site.run(&["people"]);
    assert!(people.out.contains("Barack Obama") && people.out.contains("Joe Biden"), "{}", people.out);
    let events = site.run(&["events", "--since", "1h"]);
    assert!(events.out.contains("Joe Biden enrolled"), "{}", events.out);
}

#[test]
fn bad_pictures_and_names_are_refused_in_words() {
    let site = Site::new();
    fs::write(site.path("text.jpg"), "no picture").unwrap();
    let text = site.path("text.jpg").display().to_string();
    let good = picture("joe_biden_1.png");
    let long = "x".repeat(300);
    for (file, name, word) in [
        (text.as_str(), "Eve", "not a picture"),
        (good.as_str(), "a/b", "slash"),
        (good.as_str(), "a\nb", "line break"),
        (good.as_str(), long.as_str(), "longer than 200 bytes"),
        (picture("barack_obama_1.png").as_str(), "Eve", "the same picture as"),
        (picture("barack_obama_3.png").as_str(), "Eve", "looks like Barack Obama"),
        (good.as_str(), "Barack Obama", "does not look like the other pictures"),
    ] {
        let ran = site.run(&["enroll", file, "--name", name]);
        assert_eq!(ran.code, 1, "{name:?}: {} {}", ran.out, ran.error);
        assert!(ran.out.contains(word), "{name:?}: {}", ran.out);
    }
    assert_eq!(fs::read_dir(site.path("enroll")).unwrap().count(), 1, "nothing was kept");
    assert_eq!(site.run(&["identify", "/no/such/file"]).code, 74);
}

#[test]
fn a_picture_without_permission_is_refused_and_taken_when_it_is_given() {
    let Some(bound) = bound_by_permissions() else { return };
    let site = Site::new();
    door::enroll(site.dir.path(), "joe_biden_1.png", "Joe Biden");
    let permit = |file: &str, mode| fs::set_permissions(site.path(file), fs::Permissions::from_mode(mode)).unwrap();
    let run = |arguments: &[&str]| Ran::from(wrapped(bound, &site.command(arguments)).output().unwrap());

    permit("enroll/Joe Biden.png", 0o000);
    assert!(!run(&["people"]).out.contains("Joe Biden"));
    let verdict = fs::read_to_string(site.path("enroll/Joe Biden.png.rejected.txt")).unwrap();
    assert!(verdict.contains("permissions"), "{verdict}");
    permit("enroll/Joe Biden.png", 0o600);
    assert!(run(&["people"]).out.contains("Joe Biden"));
    assert!(!site.path("enroll/Joe Biden.png.rejected.txt").exists());
}

#[test]
fn what_is_not_permitted_ends_with_77() {
    let Some(bound) = bound_by_permissions() else { return };
    let site = Site::new();
    let permit = |file: &str, mode| fs::set_permissions(site.path(file), fs::Permissions::from_mode(mode)).unwrap();
    fs::copy(picture("joe_biden_1.png"), site.path("secret.png")).unwrap();
    permit("secret.png", 0o000);
    let (secret, good) = (site.path("secret.png").display().to_string(), picture("joe_biden_1.png"));
    let denied = |arguments: &[&str], what: &str| {
        let ran = Ran::from(wrapped(bound, &site.command(arguments)).output().unwrap());
        assert_eq!(ran.code, 77, "{arguments:?}: {} {}", ran.out, ran.error);
        assert!(ran.error.contains(what) && ran.error.contains("Permission denied"), "{}", ran.error);
    };
    denied(&["identify", &secret], "secret.png");
    denied(&["enroll", &secret, "--name", "Joe Biden"], "secret.png");
    permit("enroll", 0o500);
    denied(&["enroll", &good, "--name", "Joe Biden"], "Joe Biden/joe_biden_1.png");
    permit("enroll", 0o700);
}

#[test]
fn a_second_daemon_ends_with_69() {
    let site = Site::new();
    site.configure("device = \"/dev/null\"");
    let mut first = site.command(&["run"]).stderr(Stdio::piped()).spawn().unwrap();
    let log = BufReader::new(first.stderr.take().unwrap());
    assert!(log.lines().map_while(Result::ok).any(|line| line.contains("camera lost")), "it runs");
    let second = site.run(&["run"]);
    // Of another place to ask it, but of the same store.
    let text = fs::read_to_string(site.path("facelatch.toml")).unwrap();
    fs::write(site.path("facelatch.toml"), text.replace("control.sock", "other.sock")).unwrap();
    let same_store = site.run(&["run"]);
    kill_process(Pid::from_child(&first), Signal::TERM).unwrap();
    assert_eq!(first.wait().unwrap().code(), Some(0), "the first is not disturbed");
    for ran in [second, same_store] {
        assert_eq!(ran.code, 69, "{}", ran.error);
        assert!(ran.error.contains("another facelatch"), "{}", ran.error);
    }
}

/// Where the test below runs once more, with a small file system of its own.
const SMALL: &str = "FACELATCH_SMALL_DISK";

#[test]
fn a_full_disk_is_said_and_ends_with_74() {
    let Some(disk) = std::env::var_os(SMALL) else {
        let dir = tempfile::tempdir().unwrap();
        let mut again = command(std::env::current_exe().unwrap());
        again.args(["commands::a_full_disk_is_said_and_ends_with_74", "--exact", "--nocapture"]).env(SMALL, dir.path());
        let mounted = "mount -t tmpfs -o size=4m none \"$FACELATCH_SMALL_DISK\" || exit 99; exec \"$@\"";
        let output = wrapped(&["unshare", "--map-root-user", "--mount", "sh", "-c", mounted, "sh"], &again).output();
        return match output {
            Ok(output) if output.status.success() => {}
            Ok(output) if output.status.code() == Some(101) => {
                panic!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
            }
            _ => skipped("a full disk: no file system can be mounted here (unshare, mount)"),
        };
    };
    let site = Site { dir: tempfile::tempdir_in(disk).unwrap() };
    door::config(site.dir.path());
    site.configure("");
    assert!(site.run(&["people"]).out.contains("Barack Obama"));
    let joe = picture("joe_biden_1.png");
    // What is left, in KiB: nothing at all, too little for the picture.
    for left in [0, 100] {
        let filler = site.path("filler");
        let mut file = fs::File::create(&filler).unwrap();
        while file.write_all(&[1; 1024]).is_ok() {}
        file.set_len(file.metadata().unwrap().len().saturating_sub(left << 10)).unwrap();
        drop(file);
        let ran = site.run(&["enroll", &joe, "--name", "Joe Biden"]);
        assert_eq!(ran.code, 74, "{left} KiB left: {} {}", ran.out, ran.error);
        for part in ["no space left", "nothing was changed"] {
            assert!(ran.error.to_lowercase().contains(part), "{left} KiB left: {}", ran.error);
        }
        fs::remove_file(filler).unwrap();
        let people = site.run(&["people"]);
        assert!(people.out.contains("Barack Obama") && !people.out.contains("Joe Biden"), "{}", people.out);
        assert_eq!(fs::read_dir(site.path("enroll")).unwrap().count(), 1, "nothing half-enrolled is left");
    }
    assert_eq!(site.run(&["enroll", &joe, "--name", "Joe Biden"]).code, 0, "there is room again");
}

#[test]
fn every_command_answers_in_json_if_asked() {
    let site = Site::new();
    let (joe, strangers) = (picture("joe_biden_1.png"), root().join("tests/data").display().to_string());
    let store = Store::open(&site.path("store"), 0).unwrap().0;
    store.put_stranger(&mut Stranger { id: 0, first_ms: 1, last_ms: 2, visits: 1, looks: Vec::new() }).unwrap();
    drop(store);
    let answers = |arguments: &[&str], code: i32| {
        let ran = site.run(&[&["--json"], arguments].concat());
        assert_eq!(ran.code, code, "{arguments:?}: {}", ran.error);
        let values: Result<Vec<serde_json::Value>, _> =
            serde_json::Deserializer::from_str(&ran.out).into_iter().collect();
        let values = values.unwrap_or_else(|error| panic!("{arguments:?}: {error}: {}", ran.out));
        assert!(!values.is_empty(), "{arguments:?}");
    };
    for arguments in [
        &["check"][..],
        &["doctor"],
        &["people"],
        &["enroll", &joe, "--name", "Joe Biden"],
        &["identify", &joe],
        &["events"],
        &["attendance"],
        &["calibrate"],
        &["unknown"],
        &["unknown", "list"],
        &["unknown", "forget", "1"],
        &["models"],
        &["models", "list"],
        &["models", "verify"],
        &["password", "--token"],
        &["bench", "--frames", &strangers, "--seconds", "1"],
    ] {
        answers(arguments, 0);
    }
    answers(&["enroll", &joe, "--name", "Eve"], 1);
    site.configure("device = \"/dev/null\"");
    let mut daemon = site.command(&["run"]).stderr(Stdio::piped()).spawn().unwrap();
    let log = BufReader::new(daemon.stderr.take().unwrap());
    assert!(log.lines().map_while(Result::ok).any(|line| line.contains("camera lost")));
    for arguments in [&["status"][..], &["open"], &["people"], &["events", "--since", "1h"]] {
        answers(arguments, 0);
    }
    kill_process(Pid::from_child(&daemon), Signal::TERM).unwrap();
    daemon.wait().unwrap();
}

#[test]
fn a_model_file_with_one_byte_changed_is_not_loaded() {
    let site = Site::new();
    fs::create_dir(site.path("models")).unwrap();
    for entry in fs::read_dir(root().join("models")).unwrap() {
        let file = entry.unwrap().path();
        if file.is_file() {
            fs::copy(&file, site.path("models").join(file.file_name().unwrap())).unwrap();
        }
    }
    let onet = site.path("models/onet.onnx");
    let mut bytes = fs::read(&onet).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&onet, bytes).unwrap();
    let text = fs::read_to_string(site.path("facelatch.toml")).unwrap();
    fs::write(site.path("facelatch.toml"), text.replace(root().join("models").to_str().unwrap(), "models")).unwrap();
    let ran = site.run(&["run"]);
    assert_eq!(ran.code, 74, "{}", ran.error);
    assert!(
        ran.error.contains("onet.onnx") && ran.error.contains("checksum") && ran.error.contains("reinstall"),
        "{}",
        ran.error
    );
    let doctor = site.run(&["doctor"]);
    assert_eq!(doctor.code, 69);
    assert!(doctor.out.contains("FAIL  models"), "{}", doctor.out);
}

#[test]
fn doctor_looks_at_what_is_around_the_door() {
    let site = Site::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    site.configure(&format!(
        "source = \"files\"\nfolder = \"frames\"\n[http]\nenabled = true\nlisten = \"{}\"\n[mqtt]\nbroker = \"mqtts://127.0.0.1\"\nca = \"ca.pem\"\n\
         [[hooks]]\non = [\"granted\"]\ncommand = [\"sh\"]\n[[hooks]]\non = [\"denied\"]\ncommand = [\"no-such-program\"]",
        taken.local_addr().unwrap()
    ));
    let doctor = site.run(&["doctor"]);
    assert_eq!(doctor.code, 69);
    for line in [
        "FAIL  page ",
        "FAIL  broker         mqtt.ca: ",
        "ok    hook           1 (sh)",
        "FAIL  hook           2 (no-such-program)",
    ] {
        assert!(doctor.out.contains(line), "{line}: {}", doctor.out);
    }
    site.configure("");
    let doctor = site.run(&["doctor"]).out;
    assert!(doctor.contains("ok    page           switched off") && !doctor.contains("hook"), "{doctor}");
}

#[test]
fn without_a_daemon_it_says_so() {
    let site = Site::new();
    for command in ["status", "open"] {
        let ran = site.run(&[command]);
        assert_eq!(ran.code, 69);
        assert!(ran.error.contains("no facelatch is running"), "{}", ran.error);
    }
}

#[test]
fn status_asks_at_the_usual_place_when_the_configuration_is_broken() {
    let site = Site::new();
    fs::write(site.path("facelatch.toml"), "nonsense = 1\n").unwrap();
    let ran = site.run(&["status"]);
    assert!(ran.error.contains("nonsense") && ran.error.contains("at its usual place"), "{}", ran.error);
}

/// Starts the daemon, waits for a line of its log and stops it by SIGTERM.
fn daemon_says(site: &Site, word: &str) -> (String, i32, Duration) {
    let mut daemon = site.command(&["run"]).stderr(Stdio::piped()).spawn().unwrap();
    let mut log = String::new();
    for line in BufReader::new(daemon.stderr.take().unwrap()).lines().map_while(Result::ok) {
        log += &line;
        log.push('\n');
        if line.contains(word) {
            break;
        }
    }
    let asked = Instant::now();
    kill_process(Pid::from_child(&daemon), Signal::TERM).unwrap();
    let code = daemon.wait().unwrap().code().expect("it ends by itself");
    (log, code, asked.elapsed())
}

#[test]
fn a_camera_that_is_not_one_is_named_and_the_daemon_waits_for_it() {
    let site = Site::new();
    for device in ["/dev/null", "/dev/video-none"] {
        site.configure(&format!("device = \"{device}\""));
        let (log, code, took) = daemon_says(&site, "camera lost");
        assert!(log.contains(&format!("camera lost: {device}: ")), "{log}");
        assert_eq!(code, 0, "SIGTERM ends it in good order: {log}");
        assert!(took < Duration::from_secs(2), "{took:?}");
    }
}

#[test]
fn a_gpio_line_that_cannot_be_had_is_named() {
    let site = Site::new();
    let text = fs::read_to_string(site.path("facelatch.toml")).unwrap();
    fs::write(
        site.path("facelatch.toml"),
        text.replace("backend = \"simulated\"", "backend = \"gpiochip\"\nchip = \"/dev/gpiochip-none\""),
    )
    .unwrap();
    let ran = site.run(&["run"]);
    assert_eq!(ran.code, 69, "{}", ran.error);
    assert!(ran.error.contains("/dev/gpiochip-none line 17"), "{}", ran.error);
    assert!(!site.path("store").exists(), "the line comes first: nothing else was begun");
}

fn modes_below(folder: &Path) -> Vec<(PathBuf, u32)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let meta = fs::symlink_metadata(&path).unwrap();
        found.push((path.clone(), meta.permissions().mode() & 0o777));
        if meta.is_dir() {
            found.extend(modes_below(&path));
        }
    }
    found
}

#[test]
fn personal_data_is_private() {
    let site = Site::new();
    site.run(&["enroll", &picture("joe_biden_1.png"), "--name", "Joe Biden"]);
    site.run(&["identify", &picture("joe_biden_1.png"), "--annotate", site.path("out.jpg").to_str().unwrap()]);
    for (path, mode) in modes_below(&site.path("store")) {
        assert_eq!(mode & 0o077, 0, "{}: {mode:o}", path.display());
    }
    assert_eq!(fs::metadata(site.path("store")).unwrap().permissions().mode() & 0o777, 0o700);
    assert_eq!(fs::metadata(site.path("out.jpg")).unwrap().permissions().mode() & 0o077, 0);
    let taken = fs::metadata(site.path("enroll/Joe Biden/joe_biden_1.png")).unwrap().permissions().mode() & 0o777;
    assert_eq!(taken, 0o640, "the enroll folder is shared with its group");
}

#[test]
fn calibrate_says_who_is_weak_and_draws_the_distances() {
    let site = Site::new();
    site.run(&["enroll", &picture("barack_obama_2.png"), "--name", "Barack Obama"]);
    site.run(&["enroll", &picture("joe_biden_1.png"), "--name", "Joe Biden"]);
    fs::create_dir_all(site.path("strangers/more")).unwrap();
    for (file, folder) in [("eileen_collins_1.png", "strangers"), ("grace_hopper_1.png", "strangers/more")] {
        fs::copy(picture(file), site.path(folder).join(file)).unwrap();
    }
    image::RgbImage::new(200, 200).save(site.path("strangers/black.png")).unwrap();
    let plot = site.path("distances.svg");
    let strangers = site.path("strangers");
    let ran = site.run(&["calibrate", "--strangers", strangers.to_str().unwrap(), "--plot", plot.to_str().unwrap()]);
    assert_eq!(ran.code, 0, "{}{}", ran.out, ran.error);
    for part in [
        "2 people with 3 pictures",
        "3 looks x 2 enrolled",
        "own pictures: 100 % of 2",
        "closest pair: Barack Obama and Joe Biden at 1.",
        "strangers: 2 pictures compared, 0 within the limit, 1 without a face",
        "weak: Joe Biden: enrolled with one picture only",
        "no visit of a stranger is counted yet",
        "holds: up to",
    ] {
        assert!(ran.out.contains(part), "{part}: {}", ran.out);
    }
    assert!(fs::read_to_string(plot).unwrap().contains("different people (3)"));
    let value: serde_json::Value = serde_json::from_str(&site.run(&["calibrate", "--json"]).out).unwrap();
    assert!(value["allowed"].as_f64().unwrap() >= value["limit"].as_f64().unwrap(), "{value}");
    assert_eq!((value["people"].as_u64(), value["genuine"].as_array().unwrap().len()), (Some(2), 2));
    let ran = site.run(&["calibrate", "--strangers", site.path("enroll/Joe Biden/none").to_str().unwrap()]);
    assert!(ran.code == 74 && ran.error.contains("none"), "{}", ran.error);
}

#[test]
fn a_threshold_looser_than_the_closest_pair_does_not_unlock() {
    let site = Site::new();
    site.run(&["enroll", &picture("joe_biden_1.png"), "--name", "Joe Biden"]);
    let text = fs::read_to_string(site.path("facelatch.toml")).unwrap();
    let loose = text + "[recognition]\nmax_distance = 1.5\n";
    fs::write(site.path("facelatch.toml"), &loose).unwrap();
    // It starts, and opens for neither of them.
    let (log, code, _) = daemon_says(&site, "are not let in");
    assert_eq!(code, 0, "{log}");
    for part in ["Barack Obama, Joe Biden are not let in", "set recognition.max_distance = 1.", "facelatch calibrate"] {
        assert!(log.contains(part), "{part}: {log}");
    }
    let ran = site.run(&["calibrate"]);
    assert!(
        ran.code == 1 && ran.out.contains("NEARER THAN THE LIMIT") && ran.out.contains("is too loose"),
        "{}",
        ran.out
    );
    fs::write(site.path("facelatch.toml"), loose.replace("unlock", "attendance")).unwrap();
    let (log, code, _) = daemon_says(&site, "2 people enrolled");
    assert_eq!(code, 0);
    assert!(log.contains("only 1.") && log.contains("apart"), "attendance warns and goes on: {log}");
}

#[test]
fn bench_measures_every_stage_without_a_configuration() {
    let dir = tempfile::tempdir().unwrap();
    fs::copy(picture("joe_biden_1.png"), dir.path().join("1.png")).unwrap();
    image::open(picture("barack_obama_1.png")).unwrap().save(dir.path().join("2.jpg")).unwrap();
    fs::write(dir.path().join("3.jpg"), "no picture").unwrap();
    let bench = |arguments: &[&str]| {
        // In the checkout's root, where the models are; nothing is configured.
        let mut bench = command(env!("CARGO_BIN_EXE_facelatch"));
        bench.current_dir(root()).env_remove("FACELATCH_CONFIG").args(["bench", "--frames"]).arg(dir.path());
        Ran::from(bench.args(["--models", "models", "--seconds", "1"]).args(arguments).output().unwrap())
    };
    let ran = bench(&["--json", "--precision", "w8"]);
    assert_eq!(ran.code, 0, "{}", ran.error);
    assert!(ran.error.contains("3.jpg"), "what is left out is named: {}", ran.error);
    let value: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    for stage in ["decode", "detect", "align", "embed", "search", "frame"] {
        let figures = &value["stages"][stage];
        let (median, p95) = (figures["median_ms"].as_f64().unwrap(), figures["p95_ms"].as_f64().unwrap());
        assert!(0.0 < median && median <= p95 && p95 < 60_000.0, "{stage}: {figures}");
    }
    let median = |stage: &str| value["stages"][stage]["median_ms"].as_f64().unwrap();
    assert!(median("frame") >= median("detect").max(median("embed")), "a frame is all of its stages: {value}");
    let of = |key: &str| value[key].as_f64().unwrap();
    assert!(of("fps") > 0.0, "{value}");
    assert!((10.0..1000.0).contains(&of("rss_mib")) && of("cold_start_ms") > 0.0, "{value}");
    assert_eq!(value["precision"], "w8");
    assert!(!value["cpu"].as_str().unwrap().is_empty());
    let text = bench(&[]);
    let words: Vec<&str> = text.out.lines().last().unwrap().split('|').map(str::trim).collect();
    assert!(words.len() == 11 && ["w8", "int8"].contains(&words[3]), "a line for the table of boards: {}", text.out);
}

/// Writes into a site's store that somebody was recognised.
fn recognised(store: &Store, person: u32, name: &str, at: &str) {
    let at_ms = at.parse::<jiff::Timestamp>().unwrap().as_millisecond();
    let since_boot = Duration::from_millis((at_ms - 1_767_225_600_000) as u64);
    let kind = EventKind::Granted {
        person: PersonId(person),
        name: name.into(),
        distance: 0.2,
        frames: 3,
        latency_ms: 100,
        pulsed: true,
    };
    store.append_event(Moment { at_ms, boot_id: "boot".into(), since_boot }, kind).unwrap();
}

#[test]
fn attendance_tells_days_as_table_csv_and_json() {
    const ZONE: &str = "CET-1CEST,M3.5.0,M10.5.0/3";
    let site = Site::new();
    let store = Store::open(&site.path("store"), 0).unwrap().0;
    for at in ["2026-11-02T07:00:00Z", "2026-11-02T07:00:40Z", "2026-11-02T11:00:00Z", "2026-11-02T16:30:00Z"] {
        recognised(&store, 901, "Ada Lovelace", at);
    }
    recognised(&store, 901, "Ada Lovelace", "2026-11-03T07:05:00Z");
    recognised(&store, 902, "=1+1, Bob", "2026-11-02T08:00:00Z");
    drop(store);
    let ask = |more: &[&str]| {
        let days = ["attendance", "--from", "2026-11-01", "--to", "2026-11-30"];
        let mut command = site.command(&[&days, more].concat());
        Ran::from(command.env("TZ", ZONE).output().unwrap())
    };
    let table = ask(&["--person", "ada lovelace"]);
    assert_eq!(table.code, 0, "{}", table.error);
    for line in [
        "Ada Lovelace",
        "  2026-11-02 Mon  08:00      17:30          3     9:30",
        "  2026-11-03 Tue  08:05      -              1        -",
        "  2 days          1 unknown                 4     9:30",
    ] {
        assert!(table.out.lines().any(|found| found == line), "{line}: {}", table.out);
    }
    let csv = ask(&["--format", "csv"]);
    assert_eq!(
        csv.out,
        "date,person,first_in,last_out,visits,present\r\n\
         2026-11-02,\"'=1+1, Bob\",2026-11-02 09:00:00,,1,\r\n\
         2026-11-02,Ada Lovelace,2026-11-02 08:00:00,2026-11-02 17:30:00,3,9:30:00\r\n\
         2026-11-03,Ada Lovelace,2026-11-03 08:05:00,,1,\r\n"
    );
    for json in [ask(&["--json"]), ask(&["--format", "json"])] {
        let value: serde_json::Value = serde_json::from_str(&json.out).unwrap();
        assert_eq!(value["days"][1]["first_in"], "2026-11-02T08:00:00+01:00", "{value}");
        assert_eq!(value["days"][1]["present_s"], 34_200);
        assert_eq!((value["from"].as_str(), value["undated"].as_array().unwrap().len()), (Some("2026-11-01"), 0));
    }
    assert!(ask(&["--to", "2026-11-01"]).error.contains("cannot be used multiple times"));
    for (arguments, code, words) in [
        (&["--from", "2026-02-30"][..], 64, "--from 2026-02-30: there is no such day"),
        (&["--to", "30.11.2026"], 64, "give a date as YEAR-MONTH-DAY"),
        (&["--from", "2026-11-02", "--to", "2026-11-01"], 64, "the first day, 2026-11-02, is after the last"),
        (&["--person", "Eve"], 1, "nobody of that name"),
    ] {
        let ran = site.run(&[&["attendance"], arguments].concat());
        assert_eq!(ran.code, code, "{arguments:?}: {}", ran.error);
        assert!(ran.error.contains(words), "{arguments:?}: {}", ran.error);
    }
    site.configure("device = \"/dev/null\"");
    let mut daemon = site.command(&["run"]).env("TZ", ZONE).stderr(Stdio::piped()).spawn().unwrap();
    let log = BufReader::new(daemon.stderr.take().unwrap());
    assert!(log.lines().map_while(Result::ok).any(|line| line.contains("camera lost")));
    let running = ask(&["--format", "json"]);
    kill_process(Pid::from_child(&daemon), Signal::TERM).unwrap();
    daemon.wait().unwrap();
    assert_eq!(running.out, ask(&["--json"]).out, "{}", running.error);
    let nobody = site.run(&["attendance", "--from", "2026-05-01", "--to", "2026-05-31"]);
    assert_eq!((nobody.code, nobody.out.as_str()), (0, "2026-05-01 to 2026-05-31\nnobody was seen\n"));
}

#[test]
fn bench_without_pictures_says_what_to_give() {
    let site = Site::new();
    fs::create_dir(site.path("none")).unwrap();
    fs::create_dir(site.path("broken")).unwrap();
    fs::write(site.path("broken/1.jpg"), "no picture").unwrap();
    for (frames, code, words) in [
        (None, 64, "give --frames DIR"),
        (Some("none"), 74, "none: there is no .jpg, .jpeg or .png in it"),
        (Some("missing"), 74, "missing: No such file"),
        (Some("broken"), 74, "broken: none of its pictures can be decoded"),
    ] {
        let folder = frames.map(|folder| site.path(folder).display().to_string());
        let arguments: Vec<&str> = folder.iter().flat_map(|folder| ["--frames", folder]).collect();
        let ran = site.run(&[&["bench"], &arguments[..]].concat());
        assert_eq!(ran.code, code, "{frames:?}: {}", ran.error);
        assert!(ran.error.contains(words), "{frames:?}: {}", ran.error);
    }
}

#[test]
fn a_password_becomes_a_line_of_the_configuration() {
    let site = Site::new();
    let hashed = |typed: &str| {
        let mut child = site.command(&["password"]);
        let child = child.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut child = child.unwrap();
        child.stdin.take().unwrap().write_all(typed.as_bytes()).unwrap();
        Ran::from(child.wait_with_output().unwrap())
    };
    let ran = hashed("correct horse\n");
    assert!(ran.code == 0 && ran.out.starts_with("password = \"$argon2id$"), "{}", ran.out);
    assert_ne!(ran.out, hashed("correct horse\n").out, "each has a salt of its own");
    assert!(!ran.out.contains("correct horse"));
    let short = hashed("short\n");
    assert!(short.code == 64 && short.error.contains("at least 8 characters"), "{}", short.error);
    let token = site.run(&["--json", "password", "--token"]);
    let token: serde_json::Value = serde_json::from_str(&token.out).unwrap();
    let hash = facelatch::http::auth::hash_of_token(token["token"].as_str().unwrap());
    assert_eq!(token["hash"], hash.as_str());
}

#[test]
fn an_unknown_face_is_listed_shown_named_and_forgotten_by_command() {
    let site = Site::new();
    let store = Store::open(&site.path("store"), 0).unwrap().0;
    let stranger = |picture: Vec<u8>| {
        let looks = vec![StrangerLook { picture, sharpness: 0.5, model: ModelId([0; 16]), embedding: vec![1.0, 0.0] }];
        store.put_stranger(&mut Stranger { id: 0, first_ms: 1, last_ms: 2, visits: 3, looks }).unwrap();
    };
    let collins = fs::read(picture("eileen_collins_1.png")).unwrap();
    stranger(collins.clone());
    stranger(b"no picture".to_vec());
    drop(store);
    let listed = site.run(&["unknown"]);
    assert!(listed.code == 0 && listed.out.lines().count() == 3, "{}", listed.out);
    let file = site.path("shown.jpg");
    assert_eq!(site.run(&["unknown", "picture", "1", file.to_str().unwrap()]).code, 0);
    assert_eq!(fs::read(file).unwrap(), collins);
    let named = site.run(&["unknown", "name", "1", "Eileen Collins"]);
    assert!(named.code == 0 && named.out.contains("enrolled with Eileen Collins/"), "{}{}", named.out, named.error);
    assert!(site.run(&["people"]).out.contains("Eileen Collins"));
    let bad = site.run(&["unknown", "name", "2", "Eve"]);
    assert!(bad.code == 1 && bad.out.contains("refused"), "{}{}", bad.out, bad.error);
    assert_eq!(site.run(&["unknown", "forget", "2"]).code, 0);
    assert_eq!(site.run(&["unknown", "forget", "2"]).code, 1, "it is gone");
    assert_eq!(site.run(&["unknown"]).out.lines().count(), 1);
}

#[test]
fn a_configuration_that_others_can_write_is_refused() {
    let site = Site::new();
    let mode = |path: PathBuf, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    let refused = |what: &str| {
        for command in ["run", "check", "doctor", "people", "open"] {
            let ran = site.run(&[command]);
            let said = ran.out + &ran.error;
            assert_eq!(ran.code, 78, "{command}: {said}");
            assert!(said.contains(what) && said.contains("chmod go-w"), "{command}: {said}");
        }
    };
    for writable in [0o666, 0o660, 0o602] {
        mode(site.path("facelatch.toml"), writable);
        refused(&format!("facelatch.toml: mode 0{writable:o}"));
    }
    mode(site.path("facelatch.toml"), 0o640);
    mode(site.path(""), 0o777);
    refused("mode 0777, so others can replace");
    mode(site.path(""), 0o755);
    assert_eq!(site.run(&["check"]).code, 0);
    assert!(!site.path("store").exists(), "nothing was begun");
}

#[test]
fn an_unreadable_configuration_ends_with_77() {
    let Some(bound) = bound_by_permissions() else { return };
    let site = Site::new();
    fs::set_permissions(site.path("facelatch.toml"), fs::Permissions::from_mode(0o000)).unwrap();
    for command in ["run", "check", "doctor", "people", "models"] {
        let ran = Ran::from(wrapped(bound, &site.command(&[command])).output().unwrap());
        let said = ran.out + &ran.error;
        assert_eq!(ran.code, 77, "{command}: {said}");
        assert!(said.contains("facelatch.toml: Permission denied") && said.contains("group facelatch"), "{said}");
    }
}

/// Ends a process of this test.
struct Ended(std::process::Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_member_asks_and_keeps_nobody_waiting() {
    if !rustix::process::geteuid().is_root() || Command::new("setpriv").arg("--version").output().is_err() {
        return skipped("a member of the group: only root can be another user (setpriv)");
    }
    const DAEMON: &str = "--reuid=61234";
    const MEMBER: &str = "--reuid=61235";
    let site = Site::new();
    door::play(site.dir.path(), &[("", 3)]);
    site.configure("source = \"files\"\nfolder = \"frames\"\nrepeat = true");
    // As the package has it: the configuration is root's, the group reads it; all else is the daemon's.
    let given = Command::new("chown").args(["-R", "61234:64321"]).arg(site.path("")).status().unwrap();
    assert!(given.success());
    fs::set_permissions(site.path(""), fs::Permissions::from_mode(0o750)).unwrap();
    std::os::unix::fs::chown(site.path("facelatch.toml"), Some(0), None).unwrap();
    fs::set_permissions(site.path("facelatch.toml"), fs::Permissions::from_mode(0o640)).unwrap();
    let as_user = |user, arguments: &[&str]| {
        wrapped(&["setpriv", user, "--regid=64321", "--clear-groups"], &site.command(arguments))
    };
    let spawn = |mut command: Command| Ended(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    let _daemon = spawn(as_user(DAEMON, &["run"]));
    let status = |user| Ran::from(as_user(user, &["status"]).output().unwrap());
    let until = Instant::now() + Duration::from_secs(30);
    while status(DAEMON).code != 0 {
        assert!(Instant::now() < until, "{}", status(DAEMON).error);
    }
    for command in ["people", "events", "status"] {
        let ran = Ran::from(as_user(MEMBER, &[command]).output().unwrap());
        assert_eq!(ran.code, 0, "{command}: {}", ran.error);
    }
    let _following: Vec<_> = (0..20).map(|_| spawn(as_user(MEMBER, &["events", "--follow"]))).collect();
    let until = Instant::now() + Duration::from_secs(30);
    let refused = loop {
        let ran = status(MEMBER);
        if ran.code != 0 {
            break ran;
        }
        assert!(Instant::now() < until, "one member has all the places there are");
    };
    assert_eq!(refused.code, 69, "{}", refused.error);
    for user in [DAEMON, "--reuid=0", "--reuid=61236"] {
        let ran = status(user);
        assert_eq!(ran.code, 0, "{user}: {}", ran.error);
    }
}
