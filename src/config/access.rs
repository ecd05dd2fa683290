//! Who can write the configuration: it decides whom the door lets in, so a file that others can write or replace is refused.

use std::{
    fs, io,
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use rustix::fs::OFlags;

use super::{ConfigError, way::Way};

const WRITABLE_BY_OTHERS: u32 = 0o022;
const STICKY: u32 = 0o1000;

/// Whose files are accepted.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Owner {
    /// Root, this process's user, or the packaged daemon's user: what the daemon obeys.
    Daemon,
    /// Any: a command that only asks the daemon cannot know its user.
    Any,
}

/// The text of a file that others can neither write nor replace.
///
/// # Errors
/// It cannot be read, or others can change it: the message says where, and what to do.
pub(super) fn read(path: &Path, owner: Owner) -> Result<String, ConfigError> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::PermissionDenied => ConfigError::Denied { path: path.to_owned() },
        _ => ConfigError::Read { path: path.to_owned(), source },
    };
    // The handle is checked and read, so that the file checked is the one that is read. A pipe
    // without a writer must not block.
    let file =
        fs::File::options().read(true).custom_flags(OFlags::NONBLOCK.bits() as i32).open(path).map_err(failed)?;
    let meta = file.metadata().map_err(failed)?;
    if !meta.is_file() {
        return Err(failed(io::Error::other("it is a folder, a pipe or a device, not a file")));
    }
    check_file(path, &meta, owner)?;
    for step in Way::to(path).map_err(failed)? {
        let (place, meta) = step.map_err(failed)?;
        check_place(&place, &meta, path, owner)?;
    }
    io::read_to_string(file).map_err(failed)
}

fn check_file(path: &Path, meta: &fs::Metadata, owner: Owner) -> Result<(), ConfigError> {
    let path = path.display();
    if meta.mode() & WRITABLE_BY_OTHERS != 0 {
        let mode = meta.mode() & 0o7777;
        return Err(ConfigError::Exposed(format!(
            "{path}: mode {mode:04o}, so others can write it and decide whom the door lets in; chmod go-w {path}"
        )));
    }
    if !is_trusted(meta.uid(), owner) {
        let uid = meta.uid();
        return Err(ConfigError::Exposed(format!(
            "{path}: belongs to user {uid}, neither root nor the daemon's user; chown root:facelatch {path}"
        )));
    }
    Ok(())
}

/// A folder or link that leads to the file, or the file.
fn check_place(place: &Path, meta: &fs::Metadata, file: &Path, owner: Owner) -> Result<(), ConfigError> {
    let (place, file, uid) = (place.display(), file.display(), meta.uid());
    if !is_trusted(uid, owner) {
        return Err(ConfigError::Exposed(format!(
            "{place}: belongs to user {uid}, who can replace {file}; chown root {place}, or move the file"
        )));
    }
    // In a sticky folder, such as /tmp, others cannot replace what is not theirs.
    let mode = meta.mode() & 0o7777;
    if meta.is_dir() && mode & WRITABLE_BY_OTHERS != 0 && mode & STICKY == 0 {
        return Err(ConfigError::Exposed(format!(
            "{place}: mode {mode:04o}, so others can replace {file}; chmod go-w {place}"
        )));
    }
    Ok(())
}

pub(super) fn is_trusted(uid: u32, owner: Owner) -> bool {
    owner == Owner::Any || uid == 0 || uid == rustix::process::geteuid().as_raw() || Some(uid) == packaged_user()
}

/// The user that the package makes.
fn packaged_user() -> Option<u32> {
    let users = fs::read_to_string(PathBuf::from("/etc/passwd")).ok()?;
    users.lines().find_map(|line| line.strip_prefix("facelatch:")?.split(':').nth(1)?.parse().ok())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, chown, symlink};

    use super::*;

    fn set_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    /// A folder with a configuration of mode 0640.
    fn site() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("etc/facelatch.toml");
        fs::create_dir(dir.path().join("etc")).unwrap();
        set_mode(&dir.path().join("etc"), 0o755);
        fs::write(&file, "mode = \"attendance\"\n").unwrap();
        set_mode(&file, 0o640);
        (dir, file)
    }

    #[track_caller]
    fn refused(path: &Path, words: &[&str]) {
        let ConfigError::Exposed(problem) = read(path, Owner::Daemon).unwrap_err() else { panic!("another error") };
        for word in words {
            assert!(problem.contains(word), "{problem}");
        }
    }

    #[test]
    fn a_file_that_others_can_write_is_refused() {
        let (_dir, file) = site();
        for mode in [0o600, 0o640, 0o644, 0o400, 0o700] {
            set_mode(&file, mode);
            assert!(read(&file, Owner::Daemon).is_ok(), "{mode:o}");
        }
        for mode in [0o660, 0o664, 0o620, 0o602, 0o646, 0o666, 0o777] {
            set_mode(&file, mode);
            refused(&file, &[file.to_str().unwrap(), &format!("mode 0{mode:o}"), "chmod go-w"]);
            assert!(read(&file, Owner::Any).is_err(), "by commands too");
        }
    }

    #[test]
    fn a_folder_in_which_others_can_replace_it_is_refused() {
        let (dir, file) = site();
        let etc = dir.path().join("etc");
        for mode in [0o775, 0o777, 0o757, 0o2770] {
            set_mode(&etc, mode);
            refused(&file, &[&format!("{}: mode {mode:04o}", etc.display()), "can replace", "chmod go-w"]);
        }
        set_mode(&etc, 0o1777);
        assert!(read(&file, Owner::Daemon).is_ok(), "as below /tmp");
        set_mode(&etc, 0o755);
        set_mode(dir.path(), 0o770);
        refused(&file, &[&format!("{}: mode 0770", dir.path().display())]);
    }

    #[test]
    fn a_link_is_no_way_around() {
        let (dir, file) = site();
        let (_other, link) = site();
        fs::remove_file(&link).unwrap();
        symlink(&file, &link).unwrap();
        assert!(read(&link, Owner::Daemon).is_ok());
        set_mode(&dir.path().join("etc"), 0o777);
        refused(&link, &["can replace"]);
        set_mode(&dir.path().join("etc"), 0o755);
        set_mode(link.parent().unwrap(), 0o777);
        refused(&link, &["can replace"]);
    }

    #[test]
    fn a_chain_of_links_is_walked_link_by_link() {
        let (dir, file) = site();
        let open = dir.path().join("open");
        fs::create_dir(&open).unwrap();
        // etc/way -> open/to -> etc: whoever writes "open" chooses the file.
        symlink(dir.path().join("etc"), open.join("to")).unwrap();
        symlink("../open/to", dir.path().join("etc/way")).unwrap();
        let way = dir.path().join("etc/way").join(file.file_name().unwrap());
        set_mode(&open, 0o755);
        assert!(read(&way, Owner::Daemon).is_ok());
        set_mode(&open, 0o777);
        refused(&way, &[&format!("{}: mode 0777", open.display()), "can replace"]);
    }

    #[test]
    fn a_pipe_in_its_place_is_an_error_and_blocks_nothing() {
        let (dir, _) = site();
        let pipe = dir.path().join("etc/pipe.toml");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        for path in [&pipe, &dir.path().join("etc")] {
            let error = read(path, Owner::Daemon).unwrap_err().to_string();
            assert!(error.contains("not a file"), "{error}");
        }
    }

    #[test]
    fn a_file_of_another_user_is_refused() {
        if !rustix::process::geteuid().is_root() {
            return eprintln!("SKIPPED: files of other users: only root can make them");
        }
        let (dir, file) = site();
        chown(&file, Some(5678), None).unwrap();
        refused(&file, &["belongs to user 5678", "chown root:facelatch"]);
        assert!(read(&file, Owner::Any).is_ok(), "a member's command knows no daemon's user");
        chown(&file, Some(0), None).unwrap();
        chown(dir.path().join("etc"), Some(5678), None).unwrap();
        refused(&file, &["etc: belongs to user 5678, who can replace"]);
    }

    #[test]
    fn a_file_that_cannot_be_read_is_denied_not_wrong() {
        assert!(matches!(read(Path::new("/nowhere/facelatch.toml"), Owner::Daemon), Err(ConfigError::Read { .. })));
    }
}
