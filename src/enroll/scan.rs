//! What lies in the enroll folder: `NAME.jpg`, or `NAME/ANYTHING.jpg`.

use std::{
    fs, io,
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::{Path, PathBuf},
};

use super::verdict::Refusal;

/// Ending of the sidecar that says why a picture was refused.
pub(super) const SIDECAR: &str = ".rejected.txt";

/// When any of these changes, the file may have another content, or may be readable now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// A picture of the folder.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub path: PathBuf,
    /// Relative to the folder, as stored and shown.
    pub key: String,
    /// Whose picture it is, or why that name cannot be.
    pub name: Result<String, Refusal>,
    pub stamp: Stamp,
}

/// Everything in the folder.
#[derive(Debug, Default)]
pub(super) struct Scan {
    /// In the order of their paths.
    pub pictures: Vec<Found>,
    pub sidecars: Vec<PathBuf>,
}

/// Lists the folder. Files in it that come and go meanwhile are left for the next time.
///
/// # Errors
/// The folder itself cannot be read.
pub(super) fn scan(folder: &Path) -> io::Result<Scan> {
    let root = fs::canonicalize(folder)?;
    let mut scan = Scan::default();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if is_hidden(&path) {
            continue;
        }
        if fs::symlink_metadata(&path).is_ok_and(|meta| meta.is_dir()) {
            let Ok(entries) = fs::read_dir(&path) else {
                log::warn!(
                    "{}: the folder cannot be read; check its permissions",
                    crate::telemetry::printable(&path.display().to_string())
                );
                continue;
            };
            let name = path.file_name().map(Path::new).unwrap_or(Path::new(""));
            for inner in entries.filter_map(|entry| Some(entry.ok()?.path())).filter(|inner| !is_hidden(inner)) {
                scan.add(folder, &root, inner, name);
            }
        } else if let Some(name) = path.file_stem().map(PathBuf::from) {
            scan.add(folder, &root, path, &name);
        }
    }
    scan.pictures.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(scan)
}

impl Scan {
    fn add(&mut self, folder: &Path, root: &Path, path: PathBuf, name: &Path) {
        if path.as_os_str().as_bytes().ends_with(SIDECAR.as_bytes()) {
            self.sidecars.push(path);
            return;
        }
        if !is_picture(&path) {
            return;
        }
        let Some((stamp, inside)) = stamp(&path, root) else { return };
        let key = path.strip_prefix(folder).unwrap_or(&path).to_string_lossy().into_owned();
        let name = if inside { check_name_of(name) } else { Err(Refusal::OutsideFolder) };
        self.pictures.push(Found { path, key, name, stamp });
    }
}

/// Stamp of the file, following a link; and whether what it leads to lies in the folder.
fn stamp(path: &Path, root: &Path) -> Option<(Stamp, bool)> {
    let own = fs::symlink_metadata(path).ok()?;
    let inside = !own.is_symlink() || fs::canonicalize(path).is_ok_and(|target| target.starts_with(root));
    let meta = if inside { fs::metadata(path).ok()? } else { own };
    if inside && !meta.is_file() {
        return None;
    }
    let stamp = Stamp {
        inode: meta.ino(),
        size: meta.size(),
        modified: (meta.mtime(), meta.mtime_nsec()),
        changed: (meta.ctime(), meta.ctime_nsec()),
    };
    Some((stamp, inside))
}

/// Hidden files, and names under which programs write what is not finished yet.
fn is_hidden(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().as_bytes();
    name.starts_with(b".") || name.ends_with(b"~") || name.ends_with(b".part") || name.ends_with(b".tmp")
}

fn is_picture(path: &Path) -> bool {
    let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    super::picture::kind::is_picture_ending(extension)
}

fn check_name_of(name: &Path) -> Result<String, Refusal> {
    let name = name.to_str().ok_or_else(|| Refusal::BadName("it is not UTF-8".into()))?;
    check_name(name)?;
    Ok(name.to_owned())
}

/// A name people can have: any script, but nothing that is no file name or forges a line of the log.
pub fn check_name(name: &str) -> Result<(), Refusal> {
    let wrong = if name.trim().is_empty() {
        "it is empty"
    } else if name.len() > 200 {
        "it is longer than 200 bytes"
    } else if name.contains('/') {
        "it contains a slash"
    } else if name.starts_with('.') {
        "it begins with a dot"
    } else if name.chars().any(crate::telemetry::is_unprintable) {
        "it contains a line break or another control character"
    } else {
        return Ok(());
    };
    Err(Refusal::BadName(wrong.into()))
}
