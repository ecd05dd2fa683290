use std::{
    fs,
    path::PathBuf,
    sync::mpsc::{self, Receiver},
};

use super::{
    super::{
        FolderNews,
        tests::{BLUE, GREEN, RED, Room, png},
    },
    *,
};

/// Far less than the half minute without notifications, far more than a busy machine needs.
const PATIENCE: Duration = Duration::from_secs(12);

struct Watched {
    folder: PathBuf,
    reports: Receiver<Changes>,
    _watcher: EnrollWatcher,
    _dir: tempfile::TempDir,
}

impl Watched {
    fn start(room: Room) -> Watched {
        let (sender, reports) = mpsc::channel();
        let Room { dir, enroller, .. } = room;
        let folder = enroller.folder().to_owned();
        let report = move |report: Result<Changes, EnrollError>| drop(sender.send(report.unwrap()));
        let watcher = EnrollWatcher::start(Arc::new(Mutex::new(enroller)), report).unwrap();
        // So that the thread is at rest, and only a notification wakes it.
        thread::sleep(Duration::from_secs(1));
        Watched { folder, reports, _watcher: watcher, _dir: dir }
    }

    fn wait(&self, wanted: impl Fn(&Changes) -> bool) {
        let until = Instant::now() + PATIENCE;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if wanted(&self.reports.recv_timeout(left).expect("no notification came")) {
                return;
            }
        }
    }
}

#[test]
fn new_subfolders_are_watched_and_renamed_ones_stay_so() {
    let watched = Watched::start(Room::new());
    let ada = watched.folder.join("Ada");
    fs::create_dir(&ada).unwrap();
    thread::sleep(Duration::from_secs(1));
    fs::write(ada.join("1.png"), png(RED, 60)).unwrap();
    watched.wait(|changes| changes.accepted.len() == 1);
    fs::rename(&ada, watched.folder.join("Countess")).unwrap();
    watched.wait(|changes| changes.renamed.len() == 1);
    fs::create_dir(&ada).unwrap();
    thread::sleep(Duration::from_secs(1));
    for (file, colour) in [("Ada/2.png", GREEN), ("Countess/3.png", [190, 20, 20])] {
        fs::write(watched.folder.join(file), png(colour, 60)).unwrap();
        watched.wait(|changes| changes.accepted.len() == 1);
    }
    fs::remove_file(watched.folder.join("Countess/3.png")).unwrap();
    watched.wait(|changes| changes.forgotten.len() == 1);
}

#[test]
fn a_folder_that_comes_back_is_seen_within_seconds() {
    let mut room = Room::new();
    room.drop_in("Ada/1.png", &png(RED, 60));
    room.sync();
    let watched = Watched::start(room);
    let away = watched.folder.with_file_name("away");
    fs::rename(&watched.folder, &away).unwrap();
    watched.wait(|changes| matches!(changes.folder, Some(FolderNews::Lost(_))));
    fs::rename(&away, &watched.folder).unwrap();
    watched.wait(|changes| changes.folder == Some(FolderNews::Back));
    thread::sleep(Duration::from_secs(1));
    fs::write(watched.folder.join("Joe.png"), png(BLUE, 60)).unwrap();
    watched.wait(|changes| changes.accepted.len() == 1);
}
