//! Files of the enroll folder, which others can write to and which may therefore be
//! hostile.
//!
//! A look at the folder opens it once; everything below is reached from that handle by
//! relative names. No link below it is followed, only regular files are read, and no open
//! ever blocks. What is written gets a fresh name and its mode by handle, then is renamed
//! into place: a link that lies there is replaced, not written through.
//!
//! A picture may be a hard link, as backup programs make them. Nothing is written in
//! place, so it harms no other file; which files a user may link to is the kernel's rule
//! (`fs.protected_hardlinks`).

use std::{
    ffi::{OsStr, OsString},
    fs::{DirBuilder, File},
    io::{self, Read, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::{
            ffi::{OsStrExt, OsStringExt},
            fs::DirBuilderExt,
        },
    },
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use rustix::{
    fs::{
        AtFlags, CWD, Dir, FileType, Mode, OFlags, RenameFlags, Statx, StatxFlags, fchmod, fsync, mkdirat, openat,
        renameat, renameat_with, statx, unlinkat,
    },
    io::Errno,
};

use super::{Refusal, confirmed, digest, health::Health, picture::too_large};
use crate::telemetry::printable;

/// Ending of the sidecar that says why a picture was refused.
pub(super) const SIDECAR: &str = ".rejected.txt";
/// A file of this name (any ending) says that the folder is the right one, whatever it
/// holds.
pub(super) const ACCEPT: &str = "accept-this-folder";
/// Largest picture file that is read.
const MOST_BYTES: u64 = 64 << 20;
/// Beginning and end of the name under which a file is written at first.
const DRAFT: (&str, &str) = (".facelatch-", ".tmp");

const PICTURE_MODE: u32 = 0o640;
const SIDECAR_MODE: u32 = 0o660;
const FOLDER_MODE: u32 = 0o770;

/// The enroll folder; open while a look at it lasts, so that it can be unmounted
/// otherwise.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    root: Option<OwnedFd>,
    identity: String,
    health: Arc<Health>,
}

/// What lies under a name, itself and not what it may lead to.
pub(super) type Entry = Statx;

impl Folder {
    pub fn new(path: PathBuf, health: Arc<Health>) -> Folder {
        Folder { path, root: None, identity: String::new(), health }
    }

    /// Where it is, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Opens the folder; its own path may lead through links.
    ///
    /// # Errors
    /// It is not there, no folder, or may not be read.
    pub fn enter(&mut self) -> io::Result<()> {
        self.step("opening", Path::new(""));
        let root = self.open_root()?;
        self.identity = identity(&root)?;
        self.root = Some(root);
        Ok(())
    }

    fn open_root(&self) -> io::Result<OwnedFd> {
        Ok(openat(CWD, &self.path, directory(), Mode::empty())?)
    }

    pub fn leave(&mut self) {
        self.root = None;
        self.health.rest();
    }

    /// Which folder was entered: the same text means the same folder.
    pub fn identity(&self) -> String {
        self.identity.clone()
    }

    /// # Errors
    /// The folder that was entered is not to be found under its path any more.
    pub fn still_there(&self) -> io::Result<()> {
        match identity(&self.open_root()?)? == self.identity {
            true => Ok(()),
            false => Err(io::Error::other("another folder than before")),
        }
    }

    /// Where it is, as it may be printed.
    pub fn shown(&self) -> String {
        printable(&self.path.display().to_string())
    }

    /// A sign of life: what is done from now on.
    fn step(&self, what: &str, path: &Path) {
        let path = printable(&self.path.join(path).display().to_string());
        self.health.begin(format!("{what} {path}"), Instant::now());
    }

    /// Makes the folder, writable by owner and group, if nothing is there.
    ///
    /// # Errors
    /// It cannot be made or opened.
    pub fn create(&mut self) -> io::Result<()> {
        if let Some(parent) = self.path.parent().filter(|_| !self.path.exists()) {
            DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(parent)?;
            drop(make_folder(CWD, self.path.as_os_str())?);
        }
        self.enter()
    }

    /// Names and kinds of what is in the folder, or in a folder of it.
    ///
    /// # Errors
    /// It cannot be listed: not there (any more), a link, no permission.
    pub fn list(&self, folder: &Path) -> io::Result<Vec<(OsString, Entry)>> {
        self.step("listing", folder);
        let handle = self.directory(folder)?;
        let mut entries = Vec::new();
        for entry in Dir::read_from(&handle)? {
            let name = OsStr::from_bytes(entry?.file_name().to_bytes()).to_owned();
            if name == "." || name == ".." {
                continue;
            }
            match stat(&handle, &name) {
                Ok(entry) => entries.push((name, entry)),
                // It went meanwhile.
                Err(Errno::NOENT) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(entries)
    }

    /// The bytes of a picture.
    ///
    /// # Errors
    /// It cannot be read, is too large, or is no file.
    pub fn read(&self, picture: &Path) -> Result<Vec<u8>, Refusal> {
        let unreadable = |error: io::Error| match error.raw_os_error().map(Errno::from_raw_os_error) {
            Some(Errno::LOOP) => Refusal::NotAFile("a link"),
            Some(Errno::NOENT) => Refusal::Failed("it was gone before it could be read".into()),
            _ => Refusal::Unreadable(error.to_string()),
        };
        self.step("reading", picture);
        let file = self.open(picture).map_err(unreadable)?;
        if let Some(other) = other_than_file(&stat(&file, OsStr::new("")).map_err(|error| unreadable(error.into()))?) {
            return Err(Refusal::NotAFile(other));
        }
        let mut bytes = Vec::new();
        file.take(MOST_BYTES + 1).read_to_end(&mut bytes).map_err(unreadable)?;
        if bytes.len() as u64 > MOST_BYTES { Err(too_large(&bytes)) } else { Ok(bytes) }
    }

    fn open(&self, path: &Path) -> io::Result<File> {
        let (folder, name) = parts(path)?;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        Ok(openat(self.directory(folder)?, name, flags, Mode::empty())?.into())
    }

    /// Writes why a picture was refused into its sidecar; false when that stands there
    /// already.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write_sidecar(&self, picture: &Path, text: &str) -> io::Result<bool> {
        let sidecar = sidecar_of(picture);
        self.step("writing", &sidecar);
        if self.says(&sidecar, text) {
            return Ok(false);
        }
        let (folder, name) = parts(&sidecar)?;
        let draft = Draft::write(self.directory(folder)?, text.as_bytes(), SIDECAR_MODE)?;
        draft.replace(name).map(|()| true)
    }

    fn says(&self, sidecar: &Path, text: &str) -> bool {
        let Ok(file) = self.open(sidecar) else { return false };
        let is_file = stat(&file, OsStr::new("")).is_ok_and(|entry| other_than_file(&entry).is_none());
        let mut old = Vec::new();
        is_file && file.take(text.len() as u64 + 1).read_to_end(&mut old).is_ok() && old == text.as_bytes()
    }

    /// There was none, or it is gone now; a sidecar that cannot be removed harms nobody.
    pub fn remove_sidecar(&self, picture: &Path) {
        let _ = self.remove(&sidecar_of(picture));
    }

    /// Removes a file; of a link, the link itself.
    ///
    /// # Errors
    /// It is not there, or cannot be removed.
    pub fn remove(&self, path: &Path) -> io::Result<()> {
        let (folder, name) = parts(path)?;
        Ok(unlinkat(self.directory(folder)?, name, AtFlags::empty())?)
    }

    /// A place for a picture of `person`: its own file name as far as that is one, made
    /// unique by its content.
    ///
    /// # Errors
    /// This very picture has the place already.
    pub fn free_place(&self, person: &str, file_name: &str, bytes: &[u8]) -> Result<PathBuf, PathBuf> {
        let stem = stem_of(file_name);
        let extension = if bytes.starts_with(b"\x89PNG") { "png" } else { "jpg" };
        let plain = Path::new(person).join(format!("{stem}.{extension}"));
        if !self.is_taken(&plain) {
            return Ok(plain);
        }
        let mark: String = digest(bytes)[..4].iter().map(|byte| format!("{byte:02x}")).collect();
        // A picture that is confirmed stays so.
        let marked = match confirmed::without_mark(&stem) {
            Some(name) => confirmed::name_of(&format!("{name}-{mark}.{extension}")),
            None => format!("{stem}-{mark}.{extension}"),
        };
        let marked = Path::new(person).join(marked);
        if self.is_taken(&marked) { Err(marked) } else { Ok(marked) }
    }

    fn is_taken(&self, path: &Path) -> bool {
        let found = parts(path).and_then(|(folder, name)| Ok(stat(&self.directory(folder)?, name)?));
        found.is_ok()
    }

    /// Writes a picture, and its folder if need be: it is there as a whole and on disk,
    /// or not at all.
    ///
    /// # Errors
    /// It cannot be written, or the name was taken meanwhile.
    pub fn add(&self, picture: &Path, bytes: &[u8]) -> io::Result<()> {
        self.step("writing", picture);
        let (folder, name) = parts(picture)?;
        let directory = match self.directory(folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => make_folder(self.root()?, folder.as_os_str())?,
            opened => opened?,
        };
        let written = Draft::write(directory, bytes, PICTURE_MODE).and_then(|draft| draft.add(name));
        if written.is_err() {
            self.remove_if_empty(folder);
        }
        written
    }

    /// As if the picture had never been added.
    pub fn take_back(&self, picture: &Path) {
        let _ = self.remove(picture);
        self.remove_if_empty(picture.parent().unwrap_or(Path::new("")));
    }

    fn remove_if_empty(&self, folder: &Path) {
        if let Ok(root) = self.root() {
            let _ = unlinkat(root, folder, AtFlags::REMOVEDIR);
        }
    }

    fn root(&self) -> io::Result<&OwnedFd> {
        self.root.as_ref().ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    /// The folder itself (an empty path), or a folder of it; a link leads nowhere.
    fn directory(&self, folder: &Path) -> io::Result<OwnedFd> {
        let name = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
        Ok(openat(self.root()?, name, directory() | OFlags::NOFOLLOW, Mode::empty())?)
    }
}

/// A file under a name of its own that is removed again unless it is put in its place.
struct Draft {
    directory: OwnedFd,
    file: File,
    name: String,
}

impl Draft {
    fn write(directory: OwnedFd, bytes: &[u8], mode: u32) -> io::Result<Draft> {
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(|error| io::Error::other(error.to_string()))?;
        let name = format!("{}{:016x}{}", DRAFT.0, u64::from_ne_bytes(random), DRAFT.1);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = File::from(openat(&directory, name.as_str(), flags, Mode::from_raw_mode(mode))?);
        let mut draft = Draft { directory, file, name };
        // Whatever the umask is: the folder is shared with its group. Where a file system
        // has no modes (vfat, cifs), those of the mount hold.
        let _ = fchmod(&draft.file, Mode::from_raw_mode(mode));
        draft.file.write_all(bytes)?;
        Ok(draft)
    }

    /// In the place of what may lie there.
    fn replace(&self, name: &OsStr) -> io::Result<()> {
        Ok(renameat(&self.directory, self.name.as_str(), &self.directory, name)?)
    }

    /// Only if nothing lies there; then it is on disk.
    fn add(&self, name: &OsStr) -> io::Result<()> {
        self.file.sync_all()?;
        let (directory, draft) = (&self.directory, self.name.as_str());
        match renameat_with(directory, draft, directory, name, RenameFlags::NOREPLACE) {
            // The file system cannot promise it (nfs, cifs).
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => self.replace(name)?,
            renamed => renamed?,
        }
        Ok(fsync(directory)?)
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        let _ = unlinkat(&self.directory, self.name.as_str(), AtFlags::empty());
    }
}

/// Whether this is a file that was being written when the program ended.
pub(super) fn is_draft(name: &OsStr) -> bool {
    let name = name.as_bytes();
    name.starts_with(DRAFT.0.as_bytes()) && name.ends_with(DRAFT.1.as_bytes())
}

/// What it is if it is not a regular file.
pub(super) fn other_than_file(entry: &Entry) -> Option<&'static str> {
    match kind(entry) {
        FileType::RegularFile => None,
        FileType::Symlink => Some("a link"),
        FileType::Directory => Some("a folder"),
        FileType::Fifo => Some("a named pipe"),
        FileType::Socket => Some("a socket"),
        _ => Some("a device"),
    }
}

pub(super) fn kind(entry: &Entry) -> FileType {
    FileType::from_raw_mode(entry.stx_mode.into())
}

pub(super) fn sidecar_of(picture: &Path) -> PathBuf {
    let mut name = picture.as_os_str().as_bytes().to_owned();
    name.extend_from_slice(SIDECAR.as_bytes());
    PathBuf::from(OsString::from_vec(name))
}

fn directory() -> OFlags {
    OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NONBLOCK | OFlags::CLOEXEC
}

/// What lies under the name; of an open file with an empty name, that file.
fn stat(handle: impl AsFd, name: &OsStr) -> rustix::io::Result<Entry> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::EMPTY_PATH;
    statx(handle, name, flags, StatxFlags::BASIC_STATS)
}

/// Device, inode, and the time it was made where the file system knows that: an inode's
/// number is given again.
fn identity(root: &OwnedFd) -> io::Result<String> {
    let it = statx(root, "", AtFlags::EMPTY_PATH, StatxFlags::INO | StatxFlags::BTIME)?;
    let made = if it.stx_mask & StatxFlags::BTIME.bits() == 0 { None } else { Some(it.stx_btime) };
    let made = made.map_or_else(|| "-".into(), |made| format!("{}.{:09}", made.tv_sec, made.tv_nsec));
    Ok(format!("{}:{} {} {made}", it.stx_dev_major, it.stx_dev_minor, it.stx_ino))
}

/// A folder for owner and group, which keeps the group that its parent hands on.
fn make_folder(parent: impl AsFd, name: &OsStr) -> io::Result<OwnedFd> {
    mkdirat(&parent, name, Mode::from_raw_mode(FOLDER_MODE))?;
    let folder = openat(&parent, name, directory() | OFlags::NOFOLLOW, Mode::empty())?;
    let mode = u32::from(stat(&folder, OsStr::new(""))?.stx_mode) & 0o7777;
    // The service's sandbox allows nobody to set this bit, not even again.
    if mode & FOLDER_MODE != FOLDER_MODE && fchmod(&folder, Mode::from_raw_mode(mode | FOLDER_MODE)).is_err() {
        fchmod(&folder, Mode::from_raw_mode(FOLDER_MODE))?;
    }
    Ok(folder)
}

/// The folder of a file (empty: the enroll folder itself), and its name there.
fn parts(path: &Path) -> io::Result<(&Path, &OsStr)> {
    let folder = path.parent().unwrap_or(Path::new(""));
    let name = path.file_name().filter(|_| folder.components().count() <= 1);
    Ok((folder, name.ok_or(io::ErrorKind::InvalidInput)?))
}

/// The file's name without its ending, as far as it can be one here.
fn stem_of(file_name: &str) -> String {
    let stem = Path::new(file_name).file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    let stem: String = stem.chars().filter(|c| !crate::names::is_unprintable(*c)).take(40).collect();
    let stem = stem.trim_start_matches('.');
    if stem.is_empty() { "picture".into() } else { stem.to_owned() }
}

#[cfg(test)]
mod tests;
