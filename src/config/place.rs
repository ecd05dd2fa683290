//! Where the store may lie: in no tree that a group or others can write. Whoever can
//! write a folder above the store can put another store in its place.

use std::{
    fs::{self, Metadata},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use super::{
    access::{Owner, is_trusted},
    way::Way,
};

const OTHERS_WRITE: u32 = 0o022;
const STICKY: u32 = 0o1000;

/// Why a store must not lie here, with the remedy; None: it may. What is not there yet
/// will be made private.
pub(super) fn exposed(store: &Path, owner: Owner) -> Option<String> {
    let trusted = |meta: &Metadata| is_trusted(meta.uid(), owner);
    let mut folder = PathBuf::from("/");
    for step in Way::to(store).ok()? {
        // Not there yet, or not for this user to see.
        let (place, meta) = step.ok()?;
        if in_sticky(&place) && !trusted(&meta) {
            return Some(refusal(&place, &format!("user {} can replace it", meta.uid())));
        }
        if meta.is_symlink() {
            continue;
        }
        if open_to_others(&meta) && !(meta.mode() & STICKY != 0 && trusted(&meta)) {
            return Some(refusal(&place, &format!("its mode {:04o} lets others write", meta.mode() & 0o7777)));
        }
        folder = place;
    }
    // In a sticky folder nobody replaces what is ours; the store itself is no such
    // folder.
    fs::metadata(&folder).is_ok_and(|meta| open_to_others(&meta)).then(|| refusal(&folder, "it is open to everybody"))
}

/// Whether others can write where this lies; every folder on the way was found to be
/// sticky, then.
fn in_sticky(place: &Path) -> bool {
    place.parent().is_some_and(|folder| fs::metadata(folder).is_ok_and(|meta| open_to_others(&meta)))
}

fn open_to_others(meta: &Metadata) -> bool {
    meta.mode() & OTHERS_WRITE != 0
}

fn refusal(place: &Path, why: &str) -> String {
    let place = place.display();
    format!(
        "the store would lie at or below {place}, and {why}: that replaces templates and events. \
         Take that right away (chmod go-w {place}), or give a folder that only its owner can write, \
         such as /var/lib/facelatch/store"
    )
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn exposed(store: &Path) -> Option<String> {
        super::exposed(store, Owner::Daemon)
    }

    fn folder(path: PathBuf, mode: u32) -> PathBuf {
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    #[test]
    fn a_store_lies_where_only_its_owner_writes() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(exposed(&dir.path().join("store")), None, "not there yet");
        let store = folder(dir.path().join("store"), 0o700);
        assert_eq!(exposed(&store), None);
        assert_eq!(exposed(&folder(dir.path().join("readable"), 0o755).join("store")), None);
        for mode in [0o770, 0o2770, 0o775, 0o757, 0o777] {
            let open = folder(dir.path().join(format!("{mode:o}")), mode);
            for below in [open.clone(), open.join("store"), folder(open.join("deep"), 0o700).join("store")] {
                let problem = exposed(&below).expect("others write there");
                assert!(problem.contains(&format!("chmod go-w {}", open.display())), "{problem}");
            }
        }
    }

    #[test]
    fn in_a_sticky_folder_the_store_is_ours() {
        let dir = tempfile::tempdir().unwrap();
        let sticky = folder(dir.path().join("tmp"), 0o1777);
        assert_eq!(exposed(&folder(sticky.join("store"), 0o700)), None);
        assert!(exposed(&sticky).is_some(), "the store itself");
        if rustix::process::geteuid().is_root() {
            let foreign = folder(sticky.join("foreign"), 0o755);
            std::os::unix::fs::chown(&foreign, Some(4321), None).unwrap();
            assert!(exposed(&foreign.join("store")).unwrap().contains("user 4321"));
            assert_eq!(super::exposed(&foreign.join("store"), Owner::Any), None, "a member cannot know");
        }
    }

    #[test]
    fn a_link_that_others_can_replace_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let store = folder(dir.path().join("store"), 0o700);
        symlink(&store, dir.path().join("link")).unwrap();
        assert_eq!(exposed(&dir.path().join("link")), None, "a link of ours in a folder of ours");
        let open = folder(dir.path().join("open"), 0o770);
        symlink(&store, open.join("link")).unwrap();
        assert!(exposed(&open.join("link")).is_some());
        symlink(&open, dir.path().join("into")).unwrap();
        assert!(exposed(&dir.path().join("into/store")).is_some());
        symlink("open/../open/deep", dir.path().join("relative")).unwrap();
        assert!(exposed(&dir.path().join("relative")).is_some());
        symlink("loop", dir.path().join("loop")).unwrap();
        assert_eq!(exposed(&dir.path().join("loop")), None, "opening it fails by itself");
    }
}
