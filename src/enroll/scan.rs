//! What lies in the enroll folder: `NAME.jpg`, or `NAME/ANYTHING.jpg`.

use std::{
    ffi::OsStr,
    io,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rustix::fs::FileType;

use super::{
    confirmed,
    folder::{ACCEPT, Entry, Folder, SIDECAR, is_draft, kind, other_than_file},
    verdict::Refusal,
};
use crate::names;

/// When any of these changes, the file may have another content, or may be readable now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    inode: u64,
    size: u64,
    modified: (i64, u32),
    changed: (i64, u32),
}

impl Stamp {
    fn of(entry: &Entry) -> Stamp {
        Stamp {
            inode: entry.stx_ino,
            size: entry.stx_size,
            modified: (entry.stx_mtime.tv_sec, entry.stx_mtime.tv_nsec),
            changed: (entry.stx_ctime.tv_sec, entry.stx_ctime.tv_nsec),
        }
    }
}

impl Stamp {
    /// As the store keeps it.
    pub fn numbers(&self) -> Vec<i64> {
        let Stamp { inode, size, modified, changed } = *self;
        vec![inode as i64, size as i64, modified.0, modified.1.into(), changed.0, changed.1.into()]
    }
}

/// A picture of the folder.
#[derive(Clone, Debug)]
pub(super) struct Found {
    /// Relative to the folder.
    pub path: PathBuf,
    /// The same, as stored and shown.
    pub key: String,
    /// Whose picture it is, or why it cannot be anybody's.
    pub name: Result<String, Refusal>,
    pub stamp: Stamp,
}

impl Found {
    /// When the file was last written, as its own time stamp says.
    pub fn modified(&self) -> SystemTime {
        let (seconds, nanoseconds) = self.stamp.modified;
        let since = u64::try_from(seconds).map_or(Duration::ZERO, |seconds| Duration::new(seconds, nanoseconds));
        UNIX_EPOCH + since
    }
}

/// Everything in the folder; paths are relative to it.
#[derive(Debug, Default)]
pub(super) struct Scan {
    /// In the order of their paths.
    pub pictures: Vec<Found>,
    pub sidecars: Vec<PathBuf>,
    /// Files that were being written when the program ended.
    pub drafts: Vec<PathBuf>,
    /// People's folders that could be read.
    pub folders: Vec<PathBuf>,
    /// Its owner's word that this is the right folder, see [`ACCEPT`].
    pub accept: Option<PathBuf>,
    /// What could not be read, with reason and remedy.
    pub problems: Vec<String>,
}

/// Lists the folder. Files in it that come and go meanwhile are left for the next time.
///
/// # Errors
/// The folder itself cannot be read.
pub(super) fn scan(folder: &Folder) -> io::Result<Scan> {
    let mut scan = Scan::default();
    for (name, entry) in folder.list(Path::new(""))? {
        let path = PathBuf::from(&name);
        if kind(&entry) == FileType::Directory {
            if !is_reserved(&name) {
                scan.add_folder(folder, path)?;
            }
        } else {
            if kind(&entry) == FileType::Symlink && path.extension().is_none() && !is_reserved(&name) {
                let link = shown(&folder.path().join(&path));
                scan.problems.push(format!("{link}: a link is not followed; put the folder itself there"));
            }
            let stem = path.file_stem().unwrap_or_default();
            let person = stem.to_str().and_then(confirmed::without_mark).map_or(stem, OsStr::new).to_owned();
            scan.add(path, &entry, &person);
        }
    }
    scan.pictures.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(scan)
}

impl Scan {
    fn add_folder(&mut self, folder: &Folder, path: PathBuf) -> io::Result<()> {
        match folder.list(&path) {
            Ok(entries) => {
                for (name, entry) in entries {
                    if kind(&entry) != FileType::Directory {
                        self.add(path.join(name), &entry, path.as_os_str());
                    }
                }
                self.folders.push(path);
            }
            Err(error) if is_of_the_process(&error) => return Err(error),
            Err(error) => {
                // A share that is cut off takes its folders along; nobody was removed
                // then.
                folder.still_there()?;
                if !is_gone(&error) {
                    let path = shown(&folder.path().join(path));
                    self.problems.push(format!(
                        "{path}: the folder cannot be read ({error}), its pictures count as gone; check its permissions"
                    ));
                }
            }
        }
        Ok(())
    }

    fn add(&mut self, path: PathBuf, entry: &Entry, name: &OsStr) {
        let file = path.file_name().unwrap_or_default();
        if path.parent() == Some(Path::new("")) && path.file_stem() == Some(OsStr::new(ACCEPT)) {
            self.accept = Some(path);
        } else if is_draft(file) {
            self.drafts.push(path);
        } else if is_reserved(file) {
        } else if file.as_bytes().ends_with(SIDECAR.as_bytes()) {
            self.sidecars.push(path);
        } else if is_picture(&path) {
            let name =
                other_than_file(entry).map_or_else(|| check_name_of(name), |other| Err(Refusal::NotAFile(other)));
            let (key, stamp) = (path.to_string_lossy().into_owned(), Stamp::of(entry));
            self.pictures.push(Found { path, key, name, stamp });
        }
    }
}

/// It was removed, or another kind of thing lies in its place, since it was listed.
fn is_gone(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let error = error.raw_os_error().map(Errno::from_raw_os_error);
    matches!(error, Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP))
}

/// Says nothing about the folder: the program is short of handles or memory.
fn is_of_the_process(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let error = error.raw_os_error().map(Errno::from_raw_os_error);
    matches!(error, Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM))
}

fn shown(path: &Path) -> String {
    crate::telemetry::printable(&path.display().to_string())
}

/// Hidden, or of a name under which programs keep other things.
fn is_reserved(name: &OsStr) -> bool {
    names::is_reserved(&name.to_string_lossy())
}

fn is_picture(path: &Path) -> bool {
    let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    super::picture::kind::is_picture_ending(extension)
}

fn check_name_of(name: &OsStr) -> Result<String, Refusal> {
    check_name(name.to_str().ok_or_else(|| Refusal::BadName("it is not UTF-8".into()))?)
}

/// The one spelling of a name that people can have.
///
/// # Errors
/// [`Refusal::BadName`]: nobody can be called so.
pub fn check_name(name: &str) -> Result<String, Refusal> {
    names::check(name).map_err(Refusal::BadName)
}
