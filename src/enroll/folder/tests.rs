use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, SystemTime},
};

use super::{
    super::{
        EnrollError,
        tests::{BLUE, GREEN, RED, Room, person, png},
    },
    *,
};

const NO_FACE: [u8; 3] = [0; 3];

fn pipe(path: &Path) {
    rustix::fs::mkfifoat(CWD, path, Mode::from_raw_mode(0o660)).unwrap();
}

/// A file outside the folder that must stay as it is.
struct Precious(PathBuf);

impl Precious {
    fn new(room: &Room) -> Precious {
        let path = room.dir.path().join("precious");
        fs::write(&path, "the event log").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        Precious(path)
    }

    fn check(&self) {
        assert_eq!(fs::read_to_string(&self.0).unwrap(), "the event log");
        assert_eq!(fs::metadata(&self.0).unwrap().mode() & 0o777, 0o600);
    }
}

#[test]
fn a_sidecar_is_never_written_through_a_link() {
    let mut room = Room::new();
    let precious = Precious::new(&room);
    fs::create_dir(room.path("Eve")).unwrap();
    for picture in ["x.jpg", "Eve/x.jpg"] {
        symlink(&precious.0, room.path(&format!("{picture}.rejected.txt"))).unwrap();
        room.refused(picture, b"nonsense", "not a picture");
        let sidecar = fs::symlink_metadata(room.path(&format!("{picture}.rejected.txt"))).unwrap();
        assert!(sidecar.is_file() && sidecar.mode() & 0o777 == 0o660, "it took the link's place");
    }
    precious.check();
}

#[test]
fn a_picture_is_never_written_through_a_link() {
    let mut room = Room::new();
    let (precious, outside) = (Precious::new(&room), room.dir.path().join("outside"));
    fs::create_dir(&outside).unwrap();
    symlink(&outside, room.path("Ada")).unwrap();
    fs::create_dir(room.path("Grace")).unwrap();
    symlink(&precious.0, room.path("Grace/.me.png.tmp")).unwrap();
    symlink(&precious.0, room.path("Grace/me.png")).unwrap();
    let mut add = |name: &str, colour| room.enroller.add_picture(name, "me.png", &png(colour, 60), SystemTime::now());
    assert!(matches!(add("Ada", RED), Err(EnrollError::Folder { .. })), "a link is no folder");
    let (picture, _) = add("Grace", GREEN).unwrap().unwrap();
    assert!(picture.path.starts_with("Grace/me-"), "the place is taken: {}", picture.path);
    precious.check();
    assert_eq!(fs::read_dir(outside).unwrap().count(), 0);
}

#[test]
fn no_link_in_the_folder_is_followed() {
    let mut room = Room::new();
    let outside = room.dir.path().join("secret.png");
    fs::write(&outside, png(RED, 60)).unwrap();
    fs::create_dir(room.dir.path().join("people")).unwrap();
    fs::write(room.dir.path().join("people/1.png"), png(BLUE, 60)).unwrap();
    symlink(room.dir.path().join("people"), room.path("Eve")).unwrap();
    symlink(&outside, room.path("Out.png")).unwrap();
    symlink("/nowhere/at/all.png", room.path("Dangling.png")).unwrap();
    symlink("Loop.png", room.path("Loop.png")).unwrap();
    room.drop_in("Grace/1.png", &png(GREEN, 60));
    symlink(room.path("Grace/1.png"), room.path("Inside.png")).unwrap();
    room.sync();
    for link in ["Out.png", "Dangling.png", "Loop.png", "Inside.png"] {
        let verdict = room.verdict(link).unwrap();
        assert!(verdict.contains("a link") && verdict.contains("Put the picture itself here"), "{link}: {verdict}");
    }
    assert_eq!(room.people(), [person("Grace", 1)]);
}

#[test]
fn only_regular_files_are_opened() {
    let mut room = Room::new();
    pipe(&room.path("Pipe.png"));
    let _socket = std::os::unix::net::UnixListener::bind(room.path("Socket.png")).unwrap();
    fs::create_dir(room.path("Ada")).unwrap();
    pipe(&room.path("Ada/pipe.png"));
    pipe(&room.path("Bad.png.rejected.txt"));
    room.drop_in("Bad.png", &png(NO_FACE, 60));
    room.sync();
    for (picture, word) in
        [("Pipe.png", "pipe"), ("Socket.png", "socket"), ("Ada/pipe.png", "pipe"), ("Bad.png", "no face")]
    {
        let verdict = room.verdict(picture).unwrap();
        assert!(verdict.contains(word), "{picture}: {verdict}");
    }
    assert_eq!(room.people(), []);
}

#[test]
fn a_picture_replaced_by_a_pipe_or_link_is_forgotten() {
    let mut room = Room::new();
    for other in ["pipe", "link"] {
        room.drop_in("Ada.png", &png(RED, 60));
        room.sync();
        assert_eq!(room.people(), [person("Ada", 1)]);
        let elsewhere = room.dir.path().join(other);
        if other == "pipe" {
            pipe(&elsewhere);
        } else {
            symlink(room.dir.path().join("nothing"), &elsewhere).unwrap();
        }
        fs::rename(elsewhere, room.path("Ada.png")).unwrap();
        assert_eq!(room.sync().forgotten.len(), 1, "{other}");
        assert_eq!(room.people(), []);
        fs::remove_file(room.path("Ada.png")).unwrap();
    }
}

#[test]
fn a_sidecar_that_is_a_folder_stops_nothing() {
    let mut room = Room::new();
    fs::create_dir(room.path("Bad.png.rejected.txt")).unwrap();
    room.drop_in("Bad.png", &png(NO_FACE, 60));
    room.drop_in("Grace.png", &png(GREEN, 60));
    assert_eq!(room.sync().refused.len(), 1);
    assert!(room.sync().is_empty(), "it is judged and reported once");
    assert_eq!(room.people(), [person("Grace", 1)]);
}

/// Renames the two places onto each other without pause until it is dropped.
struct Racer(Arc<AtomicBool>, Option<thread::JoinHandle<()>>);

impl Racer {
    fn start(one: PathBuf, other: PathBuf) -> Racer {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let racing = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                renameat_with(CWD, &one, CWD, &other, RenameFlags::EXCHANGE).unwrap();
            }
        });
        Racer(stop, Some(racing))
    }
}

impl Drop for Racer {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
        self.1.take().map(thread::JoinHandle::join);
    }
}

#[test]
fn a_folder_swapped_for_a_link_never_leads_outside() {
    let mut room = Room::new();
    let (outside, link) = (room.dir.path().join("outside"), room.dir.path().join("link"));
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("1.png"), png(BLUE, 60)).unwrap();
    fs::write(outside.join("bad.png"), png(NO_FACE, 60)).unwrap();
    symlink(&outside, &link).unwrap();
    room.drop_in("Eve/1.png", &png(RED, 60));
    room.drop_in("Eve/bad.png", &png(NO_FACE, 60));
    let before = png(RED, 60);
    let racer = Racer::start(room.path("Eve"), link);
    for i in 0..200 {
        room.sync();
        let added = room.enroller.add_picture("Eve", &format!("{i}.png"), &png(NO_FACE, 60), SystemTime::now());
        assert!(!matches!(added, Ok(Ok(_))));
        let _ = room.enroller.folder.enter();
        if let Ok(bytes) = room.enroller.folder.read(Path::new("Eve/1.png")) {
            assert_eq!(bytes, before, "it was read through the link");
        }
        let _ = room.enroller.folder.write_sidecar(Path::new("Eve/1.png"), &format!("{i}"));
        let _ = room.enroller.folder.add(Path::new("Eve/new.png"), b"new");
        room.enroller.folder.take_back(Path::new("Eve/new.png"));
    }
    drop(racer);
    let mut there: Vec<_> = fs::read_dir(&outside).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    there.sort();
    assert_eq!(there, ["1.png", "bad.png"], "nothing was written outside");
}

#[test]
fn a_picture_swapped_for_a_pipe_never_blocks() {
    let room = Room::new();
    let pipe_beside = room.dir.path().join("pipe");
    pipe(&pipe_beside);
    room.drop_in("z.png", &png(RED, 60));
    let (mut enroller, begun) = (room.enroller, std::time::Instant::now());
    let racer = Racer::start(room.dir.path().join("enroll/z.png"), pipe_beside);
    let (sender, done) = std::sync::mpsc::channel();
    let looking = thread::spawn(move || {
        for _ in 0..200 {
            enroller.sync(SystemTime::now() + Duration::from_secs(60), || true).unwrap();
        }
        sender.send(()).unwrap();
    });
    done.recv_timeout(Duration::from_secs(60)).expect("a look hangs");
    looking.join().unwrap();
    drop(racer);
    assert!(begun.elapsed() < Duration::from_secs(60));
}

#[test]
fn what_is_written_stays_usable_by_the_group() {
    let mut room = Room::new();
    fs::set_permissions(room.path(""), fs::Permissions::from_mode(0o2770)).unwrap();
    room.enroller.add_picture("Ada", "me.png", &png(RED, 60), SystemTime::now()).unwrap().unwrap();
    room.refused("Bad.png", &png(NO_FACE, 60), "no face");
    let mode = |name: &str| fs::metadata(room.path(name)).unwrap().mode() & 0o7777;
    assert_eq!(mode("Ada"), 0o2770, "the group is handed on");
    assert_eq!(mode("Ada/me.png"), 0o640);
    assert_eq!(mode("Bad.png.rejected.txt"), 0o660);
}

#[test]
fn drafts_of_a_crash_are_removed() {
    let mut room = Room::new();
    room.drop_in(".facelatch-0123456789abcdef.tmp", b"half");
    room.drop_in("Ada/.facelatch-0123456789abcdef.tmp", b"half");
    room.drop_in("Ada/.hidden.png", &png(RED, 60));
    room.sync();
    let left: Vec<_> = fs::read_dir(room.path("Ada")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, [".hidden.png"]);
    assert_eq!(fs::read_dir(room.path("")).unwrap().count(), 1);
}

#[test]
fn a_hard_link_is_read_and_its_file_never_changed() {
    let mut room = Room::new();
    let elsewhere = room.dir.path().join("backup.png");
    fs::write(&elsewhere, png(RED, 60)).unwrap();
    fs::hard_link(&elsewhere, room.path("Ada.png")).unwrap();
    let note = room.dir.path().join("note");
    fs::write(&note, "mine").unwrap();
    fs::hard_link(&note, room.path("Bad.png.rejected.txt")).unwrap();
    room.refused("Bad.png", &png(NO_FACE, 60), "no face");
    assert_eq!(fs::read_to_string(note).unwrap(), "mine");
    assert_eq!(room.people(), [person("Ada", 1)]);
}

#[test]
fn two_spellings_of_a_name_are_one_person() {
    let mut room = Room::new();
    room.drop_in("Zo\u{eb}/1.png", &png(RED, 60));
    room.drop_in("Zoe\u{308} /2.png", &png([190, 20, 20], 60));
    room.drop_in("Zoe\u{308}.png", &png([180, 20, 20], 60));
    room.sync();
    assert_eq!(room.people(), [person("Zo\u{eb}", 3)]);
    let (picture, _) =
        room.enroller.add_picture("Zoe\u{308} ", "4.png", &png([170, 20, 20], 60), SystemTime::now()).unwrap().unwrap();
    assert_eq!(picture.path, "Zo\u{eb}/4.png");
    assert_eq!(room.people(), [person("Zo\u{eb}", 4)]);
}

#[test]
fn people_stored_under_an_older_spelling_stay_known() {
    let mut room = Room::new();
    for (name, file, colour) in [("Zo\u{eb}", "1", RED), ("Zoe\u{308}", "2", [190, 20, 20]), ("Ada ", "3", GREEN)] {
        room.drop_in(&format!("{}/{file}.png", name.trim_end()), &png(colour, 60));
        room.sync();
    }
    // As an older program would have left it.
    let people = room.store.people().unwrap();
    let mut zoe = people.iter().find(|person| person.name != "Ada").unwrap().clone();
    let mut twin = zoe.clone();
    (twin.id, twin.name) = (crate::gallery::PersonId(77), "Zoe\u{308}".into());
    twin.pictures = vec![zoe.pictures.pop().unwrap()];
    let mut ada = people.iter().find(|person| person.name == "Ada").unwrap().clone();
    ada.name = "Ada ".into();
    for person in [&zoe, &twin, &ada] {
        room.store.put_person(person).unwrap();
    }
    room.restart();
    let changes = room.sync();
    assert_eq!(room.people(), [person("Ada", 1), person("Zo\u{eb}", 2)]);
    assert!(changes.renamed.len() == 2 && changes.refused.is_empty() && changes.forgotten.is_empty(), "{changes:?}");
}

#[test]
fn what_is_deleted_into_a_recycle_bin_is_forgotten() {
    let mut room = Room::new();
    for bin in ["#recycle", "@Recycle", "$RECYCLE.BIN", "lost+found", ".stversions", "System Volume Information"] {
        room.drop_in("Joe.png", &png(RED, 60));
        room.sync();
        assert_eq!(room.people(), [person("Joe", 1)], "{bin}");
        fs::create_dir(room.path(bin)).unwrap();
        fs::rename(room.path("Joe.png"), room.path(bin).join("Joe.png")).unwrap();
        assert_eq!(room.sync().forgotten.len(), 1, "{bin}");
        assert_eq!(room.people(), [], "{bin}");
    }
    room.drop_in("Joe/~$1.png", &png(RED, 60));
    room.drop_in("Joe/1.sync-conflict-20261128-120000-ABCDEFG.png", &png(RED, 60));
    room.drop_in("@eaDir/Joe.png", &png(RED, 60));
    assert!(room.sync().is_empty());
}

#[test]
fn a_name_whose_pictures_would_be_hidden_is_refused() {
    let mut room = Room::new();
    for name in ["Ada~", "Ada.tmp", "ada.PART", "#recycle", "~$Ada"] {
        let added = room.enroller.add_picture(name, "me.png", &png(RED, 60), SystemTime::now()).unwrap();
        assert!(matches!(added, Err(Refusal::BadName(_))), "{name}: {added:?}");
    }
    room.refused("Ada~.png", &png(RED, 60), "under such a name");
    room.refused("A\u{ad}da/1.png", &png(RED, 60), "U+00AD");
    assert_eq!(room.people(), []);
}
