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
    folder::ACCEPT,
    keys_of, pictures_of,
    scan::{Scan, scan},
};

/// Where the store remembers the folder.
const REMEMBERED: &str = "enroll_folder";

impl Enroller {
    /// What lies in the folder; None: it is lost.
    pub(super) fn survey(&mut self, changes: &mut Changes) -> Option<Scan> {
        let found = self.folder.enter().and_then(|()| scan(&self.folder));
        let looked = match found {
            Ok(scan) => self.objection(&scan).map_or(Ok(scan), Err),
            Err(error) => Err(self.in_words(&error)),
        };
        let (before, lost) = (self.health.lost(), looked.as_ref().err().cloned());
        self.health.set_lost(lost.clone());
        changes.folder = match lost {
            Some(problem) if before.as_ref() != Some(&problem) => Some(FolderNews::Lost(problem)),
            None if before.is_some() => Some(FolderNews::Back),
            _ => None,
        };
        let scan = looked.ok()?;
        self.say_problems(&scan);
        self.folders.clone_from(&scan.folders);
        Some(scan)
    }

    /// What lies in the folder, for a picture that is to be written there.
    ///
    /// # Errors
    /// It is lost.
    pub(super) fn look(&mut self) -> Result<Scan, EnrollError> {
        let found = self.folder.enter().and_then(|()| scan(&self.folder));
        let found = found.and_then(|scan| match self.objection(&scan) {
            None => Ok(scan),
            Some(_) => Err(io::Error::other("another folder than before")),
        });
        found.map_err(|source| EnrollError::Folder { path: self.config.folder.clone(), source })
    }

    fn in_words(&self, error: &io::Error) -> String {
        format!("{}: {error}; mount or restore it, or make it and put a file {ACCEPT} into it", self.folder.shown())
    }

    /// Why this is not the folder there was; if nothing speaks against it, it is
    /// remembered.
    fn objection(&self, scan: &Scan) -> Option<String> {
        let identity = self.folder.identity();
        // A store that cannot be read or written is noticed elsewhere; it keeps nobody.
        if self.store.recall(REMEMBERED).ok().flatten().as_ref() != Some(&identity) {
            let (known, there) = self.known_pictures(scan);
            if there * 2 < known && scan.accept.is_none() {
                return Some(format!(
                    "{} is another folder than before and holds {there} of {known} known pictures; mount or restore the \
                     right one, or put a file {ACCEPT} into this one",
                    self.folder.shown()
                ));
            }
            let _ = self.store.remember(REMEMBERED, &identity);
        }
        if let Some(accept) = &scan.accept {
            let _ = self.folder.remove(accept);
        }
        None
    }

    /// How many pictures people are known by, and how many of them lie in the folder.
    fn known_pictures(&self, scan: &Scan) -> (usize, usize) {
        let present = keys_of(scan);
        let known = pictures_of(&self.people);
        let there = known.clone().filter(|picture| present.contains(picture.path.as_str())).count();
        (known.count(), there)
    }

    /// Says what cannot be read when that begins, not at each look.
    fn say_problems(&mut self, scan: &Scan) {
        for problem in scan.problems.iter().filter(|problem| !self.problems.contains(problem)) {
            log::warn!("{problem}");
        }
        self.problems.clone_from(&scan.problems);
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
