//! The enroll folder as a real daemon sees it, with permissions that bind it.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use crate::support::{bound_by_permissions, command, root, wrapped};

/// Much less than the half minute between two looks that nothing asked for.
const PATIENCE: Duration = Duration::from_secs(20);

/// A daemon, its folder, and words that start programs under bound permissions.
struct House {
    dir: tempfile::TempDir,
    words: &'static [&'static str],
    daemon: Option<Child>,
}

impl House {
    fn new() -> Option<House> {
        let words = bound_by_permissions()?;
        let dir = tempfile::tempdir().unwrap();
        let text = format!(
            "mode = \"unlock\"\n[models]\ndir = \"{}\"\nprecision = \"w8\"\n[enroll]\nfolder = \"enroll\"\n\
             [store]\npath = \"store\"\n[latch]\nbackend = \"simulated\"\nline = 17\n\
             [control]\nsocket = \"control.sock\"\n[camera]\nsource = \"files\"\nfolder = \"frames\"\nrepeat = true\n",
            root().join("models").display(),
        );
        fs::write(dir.path().join("facelatch.toml"), text).unwrap();
        for folder in ["enroll", "frames"] {
            fs::create_dir(dir.path().join(folder)).unwrap();
        }
        fs::copy(root().join("tests/data/joe_biden_1.png"), dir.path().join("frames/1.png")).unwrap();
        Some(House { dir, words, daemon: None })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn drop_in(&self, portrait: &str, place: &str) {
        let place = self.path("enroll").join(place);
        fs::create_dir_all(place.parent().unwrap()).unwrap();
        fs::copy(root().join("tests/data").join(portrait), place).unwrap();
    }

    fn mode(&self, name: &str, mode: u32) {
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(mode)).unwrap();
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = command(env!("CARGO_BIN_EXE_facelatch"));
        command.arg("--config").arg(self.path("facelatch.toml")).args(arguments).env_remove("RUST_LOG");
        wrapped(self.words, &command)
    }

    fn start(&mut self) {
        let log = fs::File::options().create(true).append(true).open(self.path("log")).unwrap();
        self.daemon = Some(self.command(&["run"]).stdout(Stdio::null()).stderr(log).spawn().unwrap());
        self.until(&["status"], "facelatch");
    }

    fn stop(&mut self) {
        let Some(mut daemon) = self.daemon.take() else { return };
        let _ = kill_process(Pid::from_child(&daemon), Signal::TERM);
        daemon.wait().unwrap();
    }

    fn ask(&self, arguments: &[&str]) -> String {
        String::from_utf8(self.command(arguments).output().unwrap().stdout).unwrap()
    }

    fn until(&self, arguments: &[&str], word: &str) {
        let until = Instant::now() + PATIENCE;
        loop {
            let answer = self.ask(arguments);
            if answer.contains(word) {
                return;
            }
            assert!(Instant::now() < until, "no {word:?} in {answer}; the log: {}", self.log());
            thread::sleep(Duration::from_millis(100));
        }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap()
    }
}

impl Drop for House {
    fn drop(&mut self) {
        self.mode("enroll", 0o770);
        self.stop();
    }
}

#[test]
fn an_unreadable_subfolder_is_said_once_and_stops_nothing() {
    let Some(mut house) = House::new() else { return };
    house.drop_in("barack_obama_1.png", "Barack/1.png");
    fs::create_dir(house.path("enroll/Private")).unwrap();
    house.mode("enroll/Private", 0o000);
    house.start();
    house.until(&["people"], "Barack");
    // Each of these is noticed, which half a minute of patience would not do.
    house.drop_in("grace_hopper_1.png", "Grace/1.png");
    house.until(&["people"], "Grace");
    fs::remove_file(house.path("enroll/Barack/1.png")).unwrap();
    house.until(&["events"], "forgotten");
    let log = house.log();
    assert_eq!(log.matches("the folder cannot be read").count(), 1, "{log}");
    assert!(!log.contains("no notifications"), "{log}");
    house.mode("enroll/Private", 0o770);
    house.drop_in("eileen_collins_1.png", "Private/1.png");
    house.until(&["people"], "Private");
}

#[test]
fn a_lost_folder_is_an_error_an_event_and_in_the_status() {
    let Some(mut house) = House::new() else { return };
    house.drop_in("barack_obama_1.png", "Barack.png");
    house.start();
    house.until(&["people"], "Barack");
    house.mode("enroll", 0o000);
    house.until(&["status"], "enroll folder lost");
    house.until(&["events"], "enroll folder lost");
    assert!(house.log().contains("ERROR: enroll folder lost"), "{}", house.log());
    assert!(house.ask(&["people"]).contains("Barack"));
    house.mode("enroll", 0o770);
    house.until(&["events"], "enroll folder back");
    // An empty folder where the share was mounted, also over a restart.
    let (folder, away) = (house.path("enroll"), house.path("away"));
    house.stop();
    fs::rename(&folder, &away).unwrap();
    fs::create_dir(&folder).unwrap();
    house.start();
    house.until(&["status"], "another folder than before");
    assert!(house.ask(&["people"]).contains("Barack"), "{}", house.log());
    fs::remove_dir(&folder).unwrap();
    fs::rename(&away, &folder).unwrap();
    let is_whole = |house: &House| !house.ask(&["status"]).contains("enroll folder lost");
    let until = Instant::now() + PATIENCE;
    while !is_whole(&house) {
        assert!(Instant::now() < until, "{}", house.log());
        thread::sleep(Duration::from_millis(100));
    }
    fs::remove_file(folder.join("Barack.png")).unwrap();
    house.until(&["people"], "nobody is enrolled");
}

#[test]
fn the_store_cannot_be_reached_through_the_folder() {
    let Some(mut house) = House::new() else { return };
    house.start();
    let store = house.path("store/db");
    std::os::unix::fs::symlink(&store, house.path("enroll/x.jpg.rejected.txt")).unwrap();
    fs::write(house.path("enroll/x.jpg"), "nonsense").unwrap();
    house.until(&["events"], "x.jpg refused");
    std::os::unix::fs::symlink(house.path("store"), house.path("enroll/Eve")).unwrap();
    let portrait = root().join("tests/data/grace_hopper_1.png");
    let enrolled = house.command(&["enroll", portrait.to_str().unwrap(), "--name", "Eve"]).output().unwrap();
    assert_eq!(enrolled.status.code(), Some(74), "{enrolled:?}");
    house.stop();
    house.start();
    assert!(house.ask(&["events"]).contains("x.jpg refused"), "the event log is whole");
    assert_eq!(fs::metadata(&store).unwrap().permissions().mode() & 0o077, 0);
    assert!(!store_holds(&house.path("store"), "grace"));
}

fn store_holds(folder: &Path, word: &str) -> bool {
    fs::read_dir(folder).unwrap().any(|entry| entry.unwrap().file_name().to_string_lossy().contains(word))
}
