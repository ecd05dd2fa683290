//! Which pictures were being read when the program ended.
//!
//! A note is written before a picture is read, and removed after. It is not flushed: what
//! a killed process wrote, the kernel keeps. A note that is there at a start names a
//! picture that may have ended the program, and stays until that picture changes.

use std::{
    collections::HashMap,
    fs, io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use super::{digest, scan::Found};

/// Notes of the pictures that are read now and were read when the program ended.
pub(super) struct Begun {
    folder: PathBuf,
    /// Stamp of each picture that the last program did not finish, by its place in the
    /// enroll folder.
    ended: HashMap<String, String>,
    now: Reading,
}

/// The picture that is read now.
#[derive(Clone, Default)]
pub(super) struct Reading(Arc<Mutex<State>>);

#[derive(Default)]
enum State {
    #[default]
    Nothing,
    Note(PathBuf),
    Ending,
}

impl Reading {
    /// The program ends as it should: no picture is to blame.
    pub fn end(&self) {
        if let State::Note(note) = self.replace(State::Ending) {
            let _ = fs::remove_file(note);
        }
    }

    /// The state before. An end is final.
    fn replace(&self, next: State) -> State {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(*state, State::Ending) { State::Ending } else { std::mem::replace(&mut *state, next) }
    }
}

impl Begun {
    /// Reads the notes in this folder. One that cannot be read costs a picture's second
    /// reading only.
    pub fn open(folder: PathBuf) -> Begun {
        let notes = fs::read_dir(&folder).into_iter().flatten().flatten();
        let ended = notes.filter_map(|note| {
            let text = fs::read_to_string(note.path()).ok()?;
            let (stamp, key) = text.split_once('\n')?;
            Some((key.to_owned(), stamp.to_owned()))
        });
        Begun { ended: ended.collect(), folder, now: Reading::default() }
    }

    pub fn now(&self) -> Reading {
        self.now.clone()
    }

    /// Whether the last program ended while it read this very picture.
    pub fn ended_in(&self, picture: &Found) -> bool {
        self.ended.get(&picture.key) == Some(&stamp_of(picture))
    }

    /// Notes the picture as long as `read` reads it.
    pub fn during<T>(&self, picture: &Found, read: impl FnOnce() -> T) -> T {
        let note = self.note(&picture.key);
        if let Err(error) = self.write(&note, picture) {
            log::debug!("{}: {error}; a picture that ends the program would not be known", note.display());
        }
        let result = read();
        self.now.replace(State::Nothing);
        let _ = fs::remove_file(note);
        result
    }

    fn write(&self, note: &Path, picture: &Found) -> io::Result<()> {
        if matches!(self.now.replace(State::Note(note.to_owned())), State::Ending) {
            return Ok(());
        }
        if !self.folder.exists() {
            fs::DirBuilder::new().mode(0o700).create(&self.folder)?;
        }
        fs::write(note, format!("{}\n{}", stamp_of(picture), picture.key))
    }

    /// Drops the notes of pictures that went or changed.
    pub fn forget_others(&mut self, present: &[Found]) {
        if self.ended.is_empty() {
            return;
        }
        let stamps: HashMap<&str, String> = present.iter().map(|found| (found.key.as_str(), stamp_of(found))).collect();
        let gone: Vec<String> = self
            .ended
            .iter()
            .filter(|(key, stamp)| stamps.get(key.as_str()) != Some(*stamp))
            .map(|(key, _)| key.clone())
            .collect();
        for key in gone {
            self.ended.remove(&key);
            let _ = fs::remove_file(self.note(&key));
        }
    }

    fn note(&self, key: &str) -> PathBuf {
        let mark: String = digest(key.as_bytes())[..8].iter().map(|byte| format!("{byte:02x}")).collect();
        self.folder.join(mark)
    }
}

fn stamp_of(picture: &Found) -> String {
    format!("{:?}", picture.stamp)
}
