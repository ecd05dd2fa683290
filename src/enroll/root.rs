//! Whether the enroll folder is still the one by which people are known.
//!
//! An unmounted share leaves an empty folder in its place, or none. That is no removal:
//! those known stay known, and it is an error until the folder is back. Which folder it
//! was is remembered in the store. Another one is taken for it if it holds at least half
//! of the pictures that are known, or if its owner says so by a file in it, see
//! [`ACCEPT`].

use std::{io, path::PathBuf};

use super::{
    Changes, EnrollError, Enroller, FolderNews,
    scan::{Scan, scan},
};
use crate::store::StoreError;

/// Where the store remembers the folder.
const REMEMBERED: &str = "enroll_folder";
/// A file of this name (any ending) says that the folder is the right one, whatever it
/// holds.
pub(super) const ACCEPT: &str = "accept-this-folder";

impl Enroller {
    /// What lies in the folder; None: it is lost.
    pub(super) fn survey(&mut self, changes: &mut Changes) -> Result<Option<Scan>, EnrollError> {
        let found = self.folder.enter().and_then(|()| scan(&self.folder));
        let (scan, problem) = match found {
            Ok(scan) => {
                let problem = self.objection(&scan)?;
                (Some(scan), problem)
            }
            Err(error) => (None, Some(self.in_words(&error))),
        };
        let lost = self.health.lost();
        self.health.set_lost(problem.clone());
        changes.folder = match problem {
            Some(problem) if lost.as_ref() != Some(&problem) => Some(FolderNews::Lost(problem)),
            None if lost.is_some() => Some(FolderNews::Back),
            _ => None,
        };
        let scan = scan.filter(|_| self.health.lost().is_none());
        if let Some(scan) = &scan {
            self.say_problems(scan);
            self.folders.clone_from(&scan.folders);
        }
        Ok(scan)
    }

    fn in_words(&self, error: &io::Error) -> String {
        format!("{}: {error}; mount or restore it, or make it and put a file {ACCEPT} into it", self.folder.shown())
    }

    /// Why this is not the folder there was; if nothing speaks against it, it is
    /// remembered.
    fn objection(&self, scan: &Scan) -> Result<Option<String>, StoreError> {
        let identity = self.folder.identity();
        if self.store.recall(REMEMBERED)?.as_ref() != Some(&identity) {
            let (known, there) = self.known_pictures(scan)?;
            if there * 2 < known && scan.accept.is_none() {
                return Ok(Some(format!(
                    "{} is another folder than before and holds {there} of {known} known pictures; mount or restore the \
                     right one, or put a file {ACCEPT} into this one",
                    self.folder.shown()
                )));
            }
            self.store.remember(REMEMBERED, &identity)?;
        }
        if let Some(accept) = &scan.accept {
            let _ = self.folder.remove(accept);
        }
        Ok(None)
    }

    /// How many pictures people are known by, and how many of them lie in the folder.
    fn known_pictures(&self, scan: &Scan) -> Result<(usize, usize), StoreError> {
        let present = super::keys_of(&scan.pictures);
        let people = self.store.people()?;
        let known = people.iter().flat_map(|person| &person.pictures);
        let there = known.clone().filter(|picture| present.contains(picture.path.as_str())).count();
        Ok((known.count(), there))
    }

    /// Says what cannot be read when that begins, not at each look.
    fn say_problems(&mut self, scan: &Scan) {
        for problem in scan.problems.iter().filter(|problem| !self.problems.contains(problem)) {
            log::warn!("{problem}");
        }
        self.problems.clone_from(&scan.problems);
    }

    /// A refusal is none if its reason is that the folder went while it was being read.
    pub(super) fn still_there(&self) -> Result<(), EnrollError> {
        self.folder.still_there().map_err(|source| EnrollError::Folder { path: self.config.folder.clone(), source })
    }

    /// Opens the folder for a picture to be written.
    pub(super) fn enter(&mut self) -> Result<(), EnrollError> {
        let remembered = self.store.recall(REMEMBERED)?;
        let opened = self.folder.enter().and_then(|()| {
            let another = remembered.is_some_and(|known| known != self.folder.identity());
            if another || self.is_lost() { Err(io::Error::other("another folder than before")) } else { Ok(()) }
        });
        opened.map_err(|source| EnrollError::Folder { path: self.config.folder.clone(), source })
    }

    /// The enroll folder, and the folders in it that could be read.
    pub(super) fn folders(&self) -> impl Iterator<Item = PathBuf> {
        let root = &self.config.folder;
        std::iter::once(root.clone()).chain(self.folders.iter().map(|folder| root.join(folder)))
    }

    pub(super) fn is_lost(&self) -> bool {
        self.health.lost().is_some()
    }
}

#[cfg(test)]
mod tests;
