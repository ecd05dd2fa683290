use std::{fs, path::Path, sync::Arc, time::SystemTime};

use image::RgbImage;

use super::{
    super::{
        EnrollError, FaceReader, Refusal,
        tests::{BLUE, GREEN, RED, Room, person, png},
    },
    *,
};
use crate::vision::{embed::Embedding, model::ModelId};

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

/// Three people, and the folder moved away.
fn lost() -> (Room, PathBuf) {
    let mut room = Room::new();
    for (name, colour) in [("Ada", RED), ("Grace", GREEN), ("Joe", BLUE)] {
        room.drop_in(&format!("{name}.png"), &png(colour, 60));
    }
    room.sync();
    let away = room.dir.path().join("away");
    fs::rename(room.path(""), &away).unwrap();
    (room, away)
}

fn everyone() -> Vec<(String, usize)> {
    ["Ada", "Grace", "Joe"].map(|name| person(name, 1)).into()
}

/// Expects the next look to say that the folder is lost, and nothing else.
fn is_lost(room: &mut Room, word: &str) {
    let changes = room.sync();
    let Some(FolderNews::Lost(problem)) = &changes.folder else { panic!("{changes:?}") };
    assert!(problem.contains(word), "{problem}");
    assert_eq!(changes, Changes { folder: changes.folder.clone(), ..Changes::default() });
    assert_eq!(room.people(), everyone());
    assert!(room.sync().is_empty(), "said once");
    let problem = room.enroller.health().problem(std::time::Instant::now());
    assert!(problem.is_some_and(|problem| problem.contains(word)));
}

fn is_back(room: &mut Room) {
    assert_eq!(room.sync().folder, Some(FolderNews::Back));
    assert!(room.enroller.health().problem(std::time::Instant::now()).is_none());
}

#[test]
fn people_stay_known_while_the_folder_is_away() {
    let (mut room, away) = lost();
    is_lost(&mut room, "No such file");
    let added = room.enroller.add_picture("Eve", "1.png", &png([90, 90, 90], 60), SystemTime::now());
    assert!(matches!(added, Err(EnrollError::Folder { .. })), "{added:?}");
    fs::write(room.dir.path().join("enroll"), "a file").unwrap();
    is_lost(&mut room, "Not a directory");
    fs::remove_file(room.dir.path().join("enroll")).unwrap();
    fs::rename(away, room.path("")).unwrap();
    is_back(&mut room);
    // While it stays, what goes is forgotten at once, also the last one.
    for name in ["Ada", "Grace", "Joe"] {
        fs::remove_file(room.path(&format!("{name}.png"))).unwrap();
        assert_eq!(room.sync().forgotten.len(), 1);
    }
    assert_eq!(room.people(), []);
}

#[test]
fn an_empty_folder_in_its_place_forgets_nobody() {
    let (mut room, away) = lost();
    fs::create_dir(room.path("")).unwrap();
    is_lost(&mut room, "another folder than before and holds 0 of 3");
    let added = room.enroller.add_picture("Eve", "1.png", &png([90, 90, 90], 60), SystemTime::now());
    assert!(matches!(added, Err(EnrollError::Folder { .. })), "{added:?}");
    room.restart();
    is_lost(&mut room, "another folder than before");
    fs::remove_dir(room.path("")).unwrap();
    room.restart();
    is_lost(&mut room, "No such file");
    fs::rename(away, room.path("")).unwrap();
    is_back(&mut room);
    assert_eq!(room.people(), everyone());
}

#[test]
fn an_inode_number_given_again_is_no_same_folder() {
    let (mut room, away) = lost();
    fs::remove_dir_all(away).unwrap();
    for _ in 0..20 {
        fs::create_dir(room.path("")).unwrap();
        let changes = room.sync();
        assert!(changes.forgotten.is_empty(), "{changes:?}");
        fs::remove_dir(room.path("")).unwrap();
    }
    assert_eq!(room.people(), everyone());
}

#[test]
fn a_restored_folder_is_taken_for_the_old_one() {
    let (mut room, away) = lost();
    is_lost(&mut room, "No such file");
    copy(&away, &room.path(""));
    fs::remove_file(room.path("Joe.png")).unwrap();
    is_back(&mut room);
    assert_eq!(room.people(), everyone()[..2], "it is the truth again");
    room.restart();
    assert!(room.sync().folder.is_none(), "it is remembered");
}

#[test]
fn a_folder_accepted_by_its_owner_is_the_truth() {
    for file in ["accept-this-folder", "accept-this-folder.txt"] {
        let (mut room, _away) = lost();
        is_lost(&mut room, "put a file accept-this-folder into it");
        room.drop_in(file, b"");
        let changes = room.sync();
        assert_eq!((changes.folder, changes.forgotten.len()), (Some(FolderNews::Back), 3));
        assert_eq!(room.people(), []);
        assert!(!room.path(file).exists(), "it speaks for this folder only");
    }
}

#[test]
fn another_folder_is_free_to_take_while_nobody_is_known() {
    let mut room = Room::new();
    room.sync();
    fs::remove_dir(room.path("")).unwrap();
    assert!(matches!(room.sync().folder, Some(FolderNews::Lost(_))));
    room.drop_in("Ada.png", &png(RED, 60));
    is_back(&mut room);
    assert_eq!(room.people(), [person("Ada", 1)]);
}

#[test]
fn a_folder_is_made_only_where_nobody_is_known() {
    let (mut room, _away) = lost();
    room.restart();
    room.sync();
    assert!(!room.path("").exists());
    assert_eq!(room.people(), everyone());
    assert!(Room::new().path("").is_dir());
}

/// Does not come back from its first picture before it may.
struct Hanging(std::sync::Barrier);

impl FaceReader for Hanging {
    fn model(&self) -> ModelId {
        ModelId([9; 16])
    }

    fn read(&self, _: &RgbImage, _: u32) -> Result<(Embedding, u32), Refusal> {
        self.0.wait();
        self.0.wait();
        Err(Refusal::NoFace)
    }
}

#[test]
fn a_picture_that_hangs_is_named_and_stops_the_watchdog() {
    use std::time::{Duration, Instant};
    let room = Room::new();
    room.drop_in("Ada.png", &png(RED, 60));
    let hanging = Arc::new(Hanging(std::sync::Barrier::new(2)));
    let reader = Arc::clone(&hanging) as Arc<dyn FaceReader>;
    let mut enroller = room.read_by(reader);
    let health = enroller.health();
    let later = SystemTime::now() + Duration::from_secs(60);
    let looking = std::thread::spawn(move || enroller.sync(later, || true).unwrap());
    hanging.0.wait();
    let problem = |after| health.problem(Instant::now() + Duration::from_secs(after));
    assert_eq!(problem(30), None, "a large picture on a slow board");
    let words = problem(90).unwrap();
    assert!(words.starts_with("reading ") && words.contains("Ada.png hangs since "), "{words}");
    assert!(health.is_alive(Instant::now() + Duration::from_secs(90)));
    assert!(!health.is_alive(Instant::now() + Duration::from_secs(600)));
    hanging.0.wait();
    looking.join().unwrap();
    assert_eq!(problem(90), None);
    assert!(health.is_alive(Instant::now() + Duration::from_secs(600)));
}

/// Sees what the pictures show until the folder is taken away between two of them.
struct Thief {
    folder: PathBuf,
}

impl FaceReader for Thief {
    fn model(&self) -> ModelId {
        ModelId([9; 16])
    }

    fn read(&self, picture: &RgbImage, _: u32) -> Result<(Embedding, u32), Refusal> {
        let _ = fs::remove_dir_all(&self.folder);
        let colour = picture.get_pixel(30, 30).0.map(f32::from);
        Ok((Embedding::new(colour.to_vec(), self.model()).unwrap(), 100))
    }
}

#[test]
fn a_folder_that_goes_during_a_look_is_no_removal() {
    let mut room = Room::new();
    for (name, colour) in [("Ada", RED), ("Grace", GREEN), ("Joe", BLUE)] {
        room.drop_in(&format!("{name}.png"), &png(colour, 60));
    }
    room.sync();
    let thief = Arc::new(Thief { folder: room.path("") });
    // The new model has every picture read again.
    room.enroller = room.read_by(thief);
    let later = SystemTime::now() + std::time::Duration::from_secs(60);
    assert!(room.enroller.sync(later, || true).unwrap().forgotten.is_empty());
    assert_eq!(room.people(), everyone());
    assert!(matches!(room.sync().folder, Some(FolderNews::Lost(_))));
    assert_eq!(room.people(), everyone());
}
