//! The folders and links through which the system finds a path.

use std::{
    ffi::OsString,
    fs::{self, Metadata},
    io,
    path::{Component, Path, PathBuf},
};

/// Links that are followed on the way.
const MOST_LINKS: usize = 40;

/// Gives them one after the other, from the root on, each with what is known of itself: a link
/// is given before what it leads to.
pub(super) struct Way {
    /// The folder reached; no part of it is a link.
    at: PathBuf,
    /// The parts to come, the next one last.
    todo: Vec<OsString>,
    links: usize,
}

impl Way {
    /// # Errors
    /// The working directory of a relative path is not known.
    pub fn to(path: &Path) -> io::Result<Way> {
        let mut way = Way { at: PathBuf::from("/"), todo: Vec::new(), links: 0 };
        way.push(&std::path::absolute(path)?);
        way.todo.push("/".into());
        Ok(way)
    }

    fn push(&mut self, path: &Path) {
        if path.is_absolute() {
            self.at = PathBuf::from("/");
        }
        let parts = path.components().rev().filter(|part| matches!(part, Component::Normal(_) | Component::ParentDir));
        self.todo.extend(parts.map(|part| part.as_os_str().to_owned()));
    }

    fn step(&mut self, part: &OsString) -> io::Result<(PathBuf, Metadata)> {
        let place = self.at.join(part);
        let meta = fs::symlink_metadata(&place)?;
        if !meta.is_symlink() {
            self.at.clone_from(&place);
        } else if self.links < MOST_LINKS {
            self.links += 1;
            self.push(&fs::read_link(&place)?);
        } else {
            return Err(io::Error::other("more links than can be followed"));
        }
        Ok((place, meta))
    }
}

impl Iterator for Way {
    type Item = io::Result<(PathBuf, Metadata)>;

    fn next(&mut self) -> Option<Self::Item> {
        while let Some(part) = self.todo.pop() {
            if part == ".." {
                self.at.pop();
                continue;
            }
            let step = self.step(&part);
            if step.is_err() {
                self.todo.clear();
            }
            return Some(step);
        }
        None
    }
}
