use std::{
    fs,
    io::Cursor,
    os::unix::fs::PermissionsExt,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
};

use image::Rgb;

use super::{folder::SIDECAR, *};
use crate::{gallery::TemplateFusion, policy::Limits};

/// Sees a face in the colour of the middle: its direction is the embedding, 100 px its size. Black is no face, white are
/// two; pictures less than 50 px wide are faces of 43 px; one colour ends the program.
pub(super) struct ColourReader {
    model: ModelId,
    reads: AtomicUsize,
}

impl ColourReader {
    fn of(model: u8) -> Arc<ColourReader> {
        Arc::new(ColourReader { model: ModelId([model; 16]), reads: AtomicUsize::new(0) })
    }
}

impl FaceReader for ColourReader {
    fn model(&self) -> ModelId {
        self.model
    }

    fn read(&self, picture: &RgbImage, min_face_px: u32) -> Result<(Embedding, u32), Refusal> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        let colour = picture.get_pixel(picture.width() / 2, picture.height() / 2).0.map(f32::from);
        if picture.width() < 50 {
            let flaw = crate::vision::quality::Flaw::TooSmall { px: 43.0, needs: min_face_px as f32 };
            return Err(Refusal::Flawed { flaw });
        }
        match colour.iter().sum::<f32>() {
            _ if colour == FATAL.map(f32::from) => panic!("this picture ends the program"),
            sum if sum < 30.0 => Err(Refusal::NoFace),
            sum if sum > 740.0 => Err(Refusal::SeveralFaces(2)),
            _ => Ok((Embedding::new(colour.to_vec(), self.model).expect("not black"), 100)),
        }
    }
}

pub(super) const RED: [u8; 3] = [200, 20, 20];
pub(super) const DARK_RED: [u8; 3] = [100, 12, 10];
pub(super) const GREEN: [u8; 3] = [20, 200, 20];
pub(super) const BLUE: [u8; 3] = [20, 20, 200];
const FATAL: [u8; 3] = [1, 99, 77];

pub(super) fn png(colour: [u8; 3], width: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    RgbImage::from_pixel(width, 60, Rgb(colour))
        .write_to(&mut Cursor::new(&mut bytes), image::ImageFormat::Png)
        .unwrap();
    bytes
}

#[test]
fn progress_is_said_every_few_pictures_and_at_the_last() {
    let said = |rebuilding, total| {
        let mut progress = Progress { rebuilding, total, done: 0 };
        (0..total).filter_map(|_| progress.another()).collect::<Vec<_>>()
    };
    assert_eq!(said(true, 2), ["enroll folder: 2 of 2 pictures embedded by the new model"]);
    assert_eq!(said(false, 27), ["enroll folder: 25 of 27 pictures read", "enroll folder: 27 of 27 pictures read"]);
    assert!(said(false, 5).is_empty(), "a few new pictures need no progress");
}

pub(super) struct Room {
    pub(super) dir: tempfile::TempDir,
    pub(super) store: Store,
    reader: Arc<ColourReader>,
    pub(super) enroller: Enroller,
}

impl Room {
    pub(super) fn new() -> Room {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store"), 0).unwrap().0;
        let reader = ColourReader::of(1);
        let enroller = Room::enroller(dir.path(), &store, &reader);
        Room { dir, store, reader, enroller }
    }

    fn enroller(dir: &Path, store: &Store, reader: &Arc<ColourReader>) -> Enroller {
        let config = EnrollConfig { folder: dir.join("enroll"), ..EnrollConfig::default() };
        let reader = Arc::clone(reader) as Arc<dyn FaceReader>;
        Enroller::new(config, store.clone(), reader, Room::standard(0.5)).unwrap()
    }

    /// With another reader.
    pub(super) fn read_by(&self, reader: Arc<dyn FaceReader>) -> Enroller {
        let config = EnrollConfig { folder: self.path(""), ..EnrollConfig::default() };
        Enroller::new(config, self.store.clone(), reader, Room::standard(1.3)).unwrap()
    }

    fn standard(max_spread: f32) -> Standard {
        let limits = Box::new(|_| Ok(Limits { single: 0.3, shrink: 0.0 }));
        Standard { max_spread, fusion: TemplateFusion::Mean.into(), limits }
    }

    /// As after a restart of the program.
    pub(super) fn restart(&mut self) {
        self.reader.reads.store(0, Ordering::Relaxed);
        self.enroller = Room::enroller(self.dir.path(), &self.store, &self.reader);
    }

    /// From now on people must be farther apart than this many enrolled demand.
    fn demand(&mut self, limit: fn(usize) -> Result<f32, String>) {
        self.enroller.standard.limits = Box::new(move |n| limit(n).map(|single| Limits { single, shrink: 0.0 }));
    }

    fn reads(&self) -> usize {
        self.reader.reads.load(Ordering::Relaxed)
    }

    fn remove(&self, name: &str) {
        fs::remove_file(self.path(name)).unwrap();
    }

    fn rename(&self, from: &str, to: &str) {
        fs::rename(self.path(from), self.path(to)).unwrap();
    }

    fn refused_pictures(&self) -> Vec<String> {
        let mut folder = Folder::new(self.path(""), Arc::default());
        folder.enter().unwrap();
        let mut sidecars = scan::scan(&folder).unwrap().sidecars;
        sidecars.sort();
        sidecars.iter().map(|path| path.to_str().unwrap().trim_end_matches(SIDECAR).to_owned()).collect()
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join("enroll").join(name)
    }

    pub(super) fn drop_in(&self, name: &str, bytes: &[u8]) {
        fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
        fs::write(self.path(name), bytes).unwrap();
    }

    /// Looks a minute later, when everything has settled.
    pub(super) fn sync(&mut self) -> Changes {
        self.enroller.sync(SystemTime::now() + Duration::from_secs(60), || true).unwrap()
    }

    pub(super) fn people(&self) -> Vec<(String, usize)> {
        let mut people: Vec<_> = self.store.people().unwrap().into_iter().map(|p| (p.name, p.pictures.len())).collect();
        people.sort();
        people
    }

    /// The sidecar's text.
    pub(super) fn verdict(&self, name: &str) -> Option<String> {
        fs::read_to_string(self.path(&format!("{name}{SIDECAR}"))).ok()
    }

    /// Drops in one picture and expects it to be refused for a reason with this word.
    pub(super) fn refused(&mut self, name: &str, bytes: &[u8], word: &str) {
        self.drop_in(name, bytes);
        self.sync();
        let verdict = self.verdict(name).unwrap_or_else(|| panic!("{name} should be refused"));
        assert!(verdict.contains(word), "{name}: {verdict}");
    }
}

pub(super) fn person(name: &str, pictures: usize) -> (String, usize) {
    (name.to_owned(), pictures)
}

#[test]
fn a_file_or_a_folder_is_a_person() {
    let mut room = Room::new();
    room.drop_in("Ada Lovelace.png", &png(RED, 60));
    room.drop_in("Grace/1.PNG", &png(GREEN, 60));
    room.drop_in("Grace/2.png", &png([20, 180, 20], 60));
    room.drop_in("李.png", &png(BLUE, 60));
    let changes = room.sync();
    assert_eq!(changes.accepted.len(), 4);
    assert_eq!(room.people(), [person("Ada Lovelace", 1), person("Grace", 2), person("李", 1)]);
    assert!(room.sync().is_empty(), "nothing changed, nothing done");
    assert_eq!(room.reader.reads.load(Ordering::Relaxed), 4);
}

#[test]
fn a_picture_being_written_is_left_alone() {
    let mut room = Room::new();
    room.drop_in("Ada.png", &png(RED, 60)[..40]);
    let now = SystemTime::now();
    let changes = room.enroller.sync(now, || true).unwrap();
    assert!(changes.is_empty() && changes.unsettled);
    room.drop_in("Ada.png", &png(RED, 60));
    assert!(room.enroller.sync(now + Duration::from_millis(400), || true).unwrap().unsettled, "it changed in between");
    assert_eq!(room.enroller.sync(now + Duration::from_secs(2), || true).unwrap().accepted.len(), 1);
    assert_eq!(room.verdict("Ada.png"), None);
}

#[test]
fn each_bad_picture_is_refused_with_reason_and_remedy() {
    let mut room = Room::new();
    let good = png(RED, 60);
    room.refused("Text.jpg", b"hello", "Save it as a plain RGB JPEG or PNG");
    room.refused("Empty.jpg", b"", "not a picture");
    room.refused("Truncated.png", &good[..good.len() / 2], "not a picture");
    room.refused("Black.png", &png([0; 3], 60), "no face");
    room.refused("Two.png", &png([255; 3], 60), "2 faces");
    room.refused("Small.png", &png(RED, 40), "face too small: 43 px, needs 80. Take the picture from nearer");
    assert_eq!(room.people(), []);
}

#[test]
fn a_decompression_bomb_is_refused_by_its_header() {
    let mut room = Room::new();
    // A PNG that says 60,000 × 60,000 and carries next to nothing.
    let mut bomb = png(RED, 60);
    bomb[16..20].copy_from_slice(&60_000u32.to_be_bytes());
    bomb[20..24].copy_from_slice(&60_000u32.to_be_bytes());
    let checksum = crc32fast::hash(&bomb[12..29]);
    bomb[29..33].copy_from_slice(&checksum.to_be_bytes());
    // 32-bit boards cannot say the size.
    room.refused("Bomb.png", &bomb, "more than 200 megapixels");
}

/// A JPEG's frame header with another precision or number of components.
fn odd_jpeg(precision: u8, components: u8) -> Vec<u8> {
    let mut bytes = vec![0xff, 0xd8, 0xff, 0xc1];
    bytes.extend_from_slice(&(8 + 3 * u16::from(components)).to_be_bytes());
    bytes.extend_from_slice(&[precision, 0, 64, 0, 64, components]);
    (1..=components).for_each(|id| bytes.extend_from_slice(&[id, 0x11, 0]));
    bytes.extend_from_slice(&[0xff, 0xd9]);
    bytes
}

#[test]
fn jpegs_of_ten_bits_or_four_colours_are_refused_not_misread() {
    let mut room = Room::new();
    room.refused("Ten bits.jpg", &odd_jpeg(10, 3), "Save it as a plain RGB JPEG");
    room.refused("CMYK.jpg", &odd_jpeg(8, 4), "Save it as a plain RGB JPEG");
}

#[test]
fn names_that_cannot_be_are_refused() {
    let mut room = Room::new();
    let picture = png(RED, 60);
    room.refused("Ada\nGrace.png", &picture, "line break");
    room.refused(&format!("{}.png", "x".repeat(220)), &picture, "longer than 200 bytes");
    for name in ["", " ", "../Eve", "a/b", ".hidden", "a\nb", "\u{202e}nwod", &"x".repeat(300)] {
        let refusal = room.enroller.add_picture(name, "a.png", &picture, SystemTime::now()).unwrap().unwrap_err();
        assert!(matches!(refusal, Refusal::BadName(_)), "{name:?}: {refusal}");
    }
    assert_eq!(room.people(), []);
}

#[test]
fn a_name_that_is_not_utf8_is_refused() {
    use std::{ffi::OsStr, os::unix::ffi::OsStrExt};
    let mut room = Room::new();
    let path = room.dir.path().join("enroll").join(OsStr::from_bytes(b"\xff\xfe.png"));
    fs::write(path, png(RED, 60)).unwrap();
    let changes = room.sync();
    assert!(changes.refused[0].2.contains("UTF-8"), "{changes:?}");
}

#[test]
fn a_removed_picture_is_forgotten() {
    let mut room = Room::new();
    room.drop_in("Ada/1.png", &png(RED, 60));
    room.drop_in("Ada/2.png", &png(DARK_RED, 60));
    room.sync();
    fs::remove_file(room.path("Ada/1.png")).unwrap();
    assert_eq!(room.sync().forgotten.len(), 1);
    assert_eq!(room.people(), [person("Ada", 1)]);
    fs::remove_dir_all(room.path("Ada")).unwrap();
    room.sync();
    assert_eq!(room.people(), []);
}

#[test]
fn a_sidecar_goes_with_its_picture() {
    let mut room = Room::new();
    room.refused("Ada.png", &png([0; 3], 60), "no face");
    assert!(room.sync().refused.is_empty(), "said once");
    room.drop_in("Ada.png", &png(RED, 60));
    room.sync();
    assert_eq!(room.verdict("Ada.png"), None, "the picture was replaced by a good one");
    room.refused("Eve.png", &png([0; 3], 60), "no face");
    fs::remove_file(room.path("Eve.png")).unwrap();
    room.sync();
    assert_eq!(room.verdict("Eve.png"), None, "the picture is gone");
}

#[test]
fn a_moved_folder_renames_the_person() {
    let mut room = Room::new();
    room.drop_in("Ada/1.png", &png(RED, 60));
    room.drop_in("Ada/2.png", &png(DARK_RED, 60));
    room.sync();
    let id = room.store.people().unwrap()[0].id;
    fs::rename(room.path("Ada"), room.path("Ada Lovelace")).unwrap();
    let changes = room.sync();
    assert_eq!(changes.renamed, [(id, "Ada".into(), "Ada Lovelace".into())]);
    assert!(changes.accepted.is_empty() && changes.forgotten.is_empty(), "{changes:?}");
    assert_eq!(room.people(), [person("Ada Lovelace", 2)]);
    assert_eq!(room.reader.reads.load(Ordering::Relaxed), 2, "nothing was read anew");
}

#[test]
fn somebody_elses_face_under_a_new_name_is_refused() {
    let mut room = Room::new();
    room.drop_in("Ada.png", &png(RED, 60));
    room.sync();
    room.refused("Eve.png", &png(DARK_RED, 60), "looks like Ada");
    room.refused("Eve.png", &png(RED, 60), "the same picture as Ada.png");
}

#[test]
fn a_picture_of_somebody_else_does_not_poison_a_person() {
    let mut room = Room::new();
    room.drop_in("Ada/1.png", &png(RED, 60));
    room.sync();
    room.refused("Ada/2.png", &png(GREEN, 60), "does not look like the other pictures of Ada");
    assert_eq!(room.people(), [person("Ada", 1)]);
}

#[test]
fn what_is_left_for_later_is_told_and_what_is_gone_is_forgotten_at_once() {
    let mut room = Room::new();
    room.drop_in("Ada.png", &png(RED, 60));
    room.sync();
    fs::remove_file(room.path("Ada.png")).unwrap();
    room.drop_in("Grace.png", &png(GREEN, 60));
    let later = SystemTime::now() + Duration::from_secs(60);
    let changes = room.enroller.sync(later, || false).unwrap();
    assert!(changes.unsettled && changes.forgotten.len() == 1 && changes.accepted.is_empty(), "{changes:?}");
    assert_eq!(room.sync().accepted.len(), 1);
}

#[test]
fn templates_of_another_model_are_rebuilt_from_the_folder() {
    let mut room = Room::new();
    room.drop_in("Ada.png", &png(RED, 60));
    room.drop_in("Grace.png", &png(GREEN, 60));
    room.sync();
    room.reader = ColourReader::of(2);
    room.enroller = Room::enroller(room.dir.path(), &room.store, &room.reader);
    room.sync();
    let models: Vec<_> = room.store.people().unwrap().iter().map(|p| p.pictures[0].model).collect();
    assert_eq!(models, [ModelId([2; 16]); 2]);
    assert_eq!(room.reader.reads.load(Ordering::Relaxed), 2);
}

#[test]
fn the_store_is_rebuilt_from_the_folder() {
    let mut room = Room::new();
    room.drop_in("Ada.png", &png(RED, 60));
    room.sync();
    room.store = Store::open(&room.dir.path().join("another"), 0).unwrap().0;
    room.enroller = Room::enroller(room.dir.path(), &room.store, &room.reader);
    room.sync();
    assert_eq!(room.people(), [person("Ada", 1)]);
}

#[test]
fn a_person_is_never_half_enrolled() {
    // Whoever looks at the store at any moment sees none or all of a folder that was dropped in as a whole.
    let mut room = Room::new();
    for i in 0..8 {
        room.drop_in(&format!("Ada/{i}.png"), &png([200, 20 + i, 20], 60));
    }
    let (store, (stop, stopped)) = (room.store.clone(), mpsc::channel::<()>());
    let watcher = std::thread::spawn(move || {
        let mut seen = HashSet::new();
        while stopped.try_recv().is_err() {
            seen.insert(store.people().unwrap().first().map_or(0, |person| person.pictures.len()));
        }
        seen
    });
    room.sync();
    assert_eq!(room.people(), [person("Ada", 8)]);
    stop.send(()).unwrap();
    let seen = watcher.join().unwrap();
    assert!(seen.is_subset(&HashSet::from([0, 8])), "{seen:?}");
}

#[test]
fn a_picture_brought_by_command_is_judged_before_it_is_kept() {
    let mut room = Room::new();
    let refusal = room.enroller.add_picture("Ada", "me.png", &png([0; 3], 60), SystemTime::now()).unwrap().unwrap_err();
    assert_eq!(refusal, Refusal::NoFace);
    assert!(!room.path("Ada").exists(), "nothing was kept");
    let (picture, _) =
        room.enroller.add_picture("Ada", "../../me.png", &png(RED, 60), SystemTime::now()).unwrap().unwrap();
    assert_eq!(picture.path, "Ada/me.png");
    assert_eq!(fs::metadata(room.path("Ada/me.png")).unwrap().permissions().mode() & 0o777, 0o640);
    assert_eq!(room.people(), [person("Ada", 1)]);
    // Another picture of the same name gets a place of its own; the same one never comes twice.
    room.enroller.add_picture("Ada", "me.png", &png(DARK_RED, 60), SystemTime::now()).unwrap().unwrap();
    for again in [RED, DARK_RED] {
        let again = room.enroller.add_picture("Ada", "me.png", &png(again, 60), SystemTime::now()).unwrap();
        assert!(matches!(again, Err(Refusal::Duplicate(_))), "{again:?}");
    }
    assert_eq!(room.people(), [person("Ada", 2)]);
    assert!(room.sync().is_empty(), "the folder and the store agree");
}

#[test]
fn a_dropped_picture_is_taken_up_within_two_seconds() {
    let room = Room::new();
    let (sender, reports) = mpsc::channel();
    let folder = room.enroller.folder().to_owned();
    let enroller = Arc::new(Mutex::new(room.enroller));
    let _watcher = watch::EnrollWatcher::start(enroller, move |report| drop(sender.send(report.unwrap()))).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    let dropped = std::time::Instant::now();
    fs::write(folder.join("Ada.png"), png(RED, 60)).unwrap();
    let changes = reports.recv_timeout(Duration::from_secs(10)).unwrap();
    assert_eq!(changes.accepted.len(), 1);
    let taken = dropped.elapsed();
    fs::remove_file(folder.join("Ada.png")).unwrap();
    assert_eq!(reports.recv_timeout(Duration::from_secs(10)).unwrap().forgotten.len(), 1);
    assert!(taken < Duration::from_secs(2), "{taken:?}");
}

/// A colour whose embedding lies at this angle from red; the distance of two is nearly the difference of their angles.
fn at(angle: f32) -> [u8; 3] {
    [angle.cos() * 230.0, angle.sin() * 230.0, 4.0].map(|value| value.round() as u8)
}

#[test]
fn a_removal_does_not_wait_for_new_pictures() {
    let mut room = Room::new();
    room.drop_in("Ada.png", &png(RED, 60));
    room.drop_in("Joe.png", &png(BLUE, 60));
    room.sync();
    room.remove("Ada.png");
    (0..50).for_each(|i| room.drop_in(&format!("New {i}.png"), &png([20, 150 + i, 20], 60)));
    let before = room.reads();
    let changes = room.enroller.round(SystemTime::now() + Duration::from_secs(60), || true).unwrap();
    assert!(changes.forgotten.len() == 1 && changes.more && changes.people, "{changes:?}");
    assert_eq!((room.reads(), room.people()), (before, vec![person("Joe", 1)]), "nothing was read first");
    // What was read counts at once, round by round.
    let changes = room
        .enroller
        .round(SystemTime::now() + Duration::from_secs(60), || room.reader.reads.load(Ordering::Relaxed) < before + 3)
        .unwrap();
    assert!(changes.more && changes.accepted.len() == 1 && changes.refused.len() == 2, "{changes:?}");
}

#[test]
fn a_face_that_was_replaced_is_looked_at_first() {
    let mut room = Room::new();
    room.drop_in("Zoe.png", &png(RED, 60));
    room.sync();
    (0..50).for_each(|i| room.drop_in(&format!("New {i}.png"), &png([20, 150 + i, 20], 60)));
    room.drop_in("Zoe.png", &png(BLUE, 70));
    let before = room.reads();
    let one = || room.reader.reads.load(Ordering::Relaxed) == before;
    room.enroller.round(SystemTime::now() + Duration::from_secs(60), one).unwrap();
    let zoe = room.store.people().unwrap().remove(0);
    assert!(zoe.pictures[0].embedding[2] > 0.9, "blue: {zoe:?}");
}

#[test]
fn the_limit_in_force_decides_who_looks_alike() {
    let mut room = Room::new();
    let limit = |enrolled: usize| Ok(0.5 / enrolled as f32);
    room.demand(limit);
    room.drop_in("Ada.png", &png(at(0.0), 60));
    room.drop_in("Bea.png", &png(at(0.2), 60));
    room.sync();
    assert!(room.verdict("Bea.png").unwrap().contains("looks like Ada"), "two people: nearer than 0.25");
    room.drop_in("Cyd.png", &png(at(0.8), 60));
    room.drop_in("Dan.png", &png(at(1.4), 60));
    room.sync();
    assert_eq!(room.people(), ["Ada", "Bea", "Cyd", "Dan"].map(|name| person(name, 1)), "four: 0.125");
    assert_eq!(room.refused_pictures(), [""; 0]);
    // What was allowed stays allowed, whatever leaves, and at the next start.
    room.remove("Cyd.png");
    room.remove("Dan.png");
    room.sync();
    room.restart();
    room.demand(limit);
    room.sync();
    assert_eq!(room.people(), ["Ada", "Bea"].map(|name| person(name, 1)));
}

#[test]
fn a_restart_changes_no_verdict() {
    let mut room = Room::new();
    let limit = |enrolled: usize| Ok(1.0 / enrolled as f32);
    room.demand(limit);
    for (i, name) in ["Ada", "Bea", "Cyd", "Dan", "Eve", "Fay", "Gus", "Hal", "Ian", "Jan"].iter().enumerate() {
        room.drop_in(&format!("{name}.png"), &png(at(i as f32 * 0.15), 60));
    }
    room.sync();
    let (people, refused) = (room.people(), room.refused_pictures());
    assert!(people.len() > 3 && !refused.is_empty(), "{people:?}");
    room.restart();
    room.demand(limit);
    assert!(room.sync().is_empty());
    assert_eq!((room.people(), room.refused_pictures()), (people, refused));
}

#[test]
fn nobody_is_enrolled_for_whom_there_is_no_threshold() {
    let mut room = Room::new();
    room.demand(|enrolled| if enrolled > 2 { Err("the rate is out of reach".into()) } else { Ok(0.1) });
    for (name, colour) in [("Ada", RED), ("Bea", GREEN), ("Cyd", BLUE)] {
        room.drop_in(&format!("{name}.png"), &png(colour, 60));
    }
    room.sync();
    assert_eq!(room.people(), [person("Ada", 1), person("Bea", 1)]);
    assert!(room.verdict("Cyd.png").unwrap().contains("nobody more can be enrolled: the rate"));
    room.remove("Ada.png");
    room.sync();
    assert_eq!(room.people(), [person("Bea", 1), person("Cyd", 1)], "there is room again");
}

#[test]
fn a_picture_renamed_by_adding_and_deleting_is_kept() {
    let mut room = Room::new();
    for (i, angle) in [0.0, 0.1, 0.2].into_iter().enumerate() {
        room.drop_in(&format!("Ada/{i}.png"), &png(at(angle), 60));
    }
    room.sync();
    fs::copy(room.path("Ada/0.png"), room.path("Ada/front.png")).unwrap();
    room.sync();
    assert!(room.verdict("Ada/front.png").unwrap().contains("the same picture as Ada/0.png"));
    room.remove("Ada/0.png");
    let changes = room.sync();
    assert!(changes.accepted.is_empty() && changes.forgotten.is_empty(), "it is the same: {changes:?}");
    assert_eq!((room.people(), room.verdict("Ada/front.png")), (vec![person("Ada", 3)], None));
    assert_eq!(room.reads(), 3);
}

#[test]
fn a_folder_renamed_by_adding_and_deleting_is_kept() {
    let mut room = Room::new();
    for (i, angle) in [0.0, 0.1, 0.2].into_iter().enumerate() {
        room.drop_in(&format!("Ada/{i}.png"), &png(at(angle), 60));
        room.drop_in(&format!("Zoe/{i}.png"), &png(at(1.2 + angle), 60));
    }
    room.sync();
    let ids: Vec<PersonId> = room.store.people().unwrap().iter().map(|person| person.id).collect();
    // To a name that comes later, and to one that comes before.
    for (from, to) in [("Ada", "Zara"), ("Zoe", "Bea")] {
        for i in 0..3 {
            let copy = fs::read(room.path(&format!("{from}/{i}.png"))).unwrap();
            room.drop_in(&format!("{to}/{i}.png"), &copy);
        }
        room.sync();
        for i in 0..3 {
            room.remove(&format!("{from}/{i}.png"));
            room.sync();
        }
    }
    assert_eq!(room.people(), [person("Bea", 3), person("Zara", 3)]);
    assert_eq!(
        room.store.people().unwrap().iter().map(|person| person.id).collect::<Vec<_>>(),
        ids,
        "they are who they were"
    );
    assert_eq!((room.refused_pictures(), room.reads()), (Vec::new(), 6));
}

#[test]
fn mixed_up_names_are_put_right_running_or_not() {
    for (down, one, other) in
        [(false, "Ada.png", "Joe.png"), (true, "Ada.png", "Joe.png"), (false, "Ada", "Joe"), (true, "Ada", "Joe")]
    {
        let mut room = Room::new();
        let file = |name: &str| if name.ends_with(".png") { name.to_owned() } else { format!("{name}/1.png") };
        room.drop_in(&file(one), &png(RED, 60));
        room.drop_in(&file(other), &png(GREEN, 60));
        room.sync();
        let ids: Vec<PersonId> = room.store.people().unwrap().iter().map(|person| person.id).collect();
        room.rename(one, "../aside");
        room.rename(other, one);
        room.rename("../aside", other);
        if down {
            room.restart();
        }
        room.sync();
        let people = room.store.people().unwrap();
        let found: Vec<_> =
            people.iter().map(|person| (person.id, person.name.as_str(), person.pictures.len())).collect();
        assert_eq!(found, [(ids[0], "Joe", 1), (ids[1], "Ada", 1)], "{one}, down: {down}");
        assert_eq!(room.refused_pictures(), [""; 0]);
        assert_eq!(room.reads(), if down { 0 } else { 2 }, "the faces are known");
    }
}

#[test]
fn a_picture_moved_to_another_person_is_judged_there() {
    let mut room = Room::new();
    room.drop_in("Ada/1.png", &png(at(0.0), 60));
    room.drop_in("Ada/2.png", &png(at(0.1), 60));
    room.drop_in("Zoe.png", &png(at(0.7), 60));
    room.sync();
    fs::create_dir(room.path("Eve")).unwrap();
    room.rename("Ada/2.png", "Eve/2.png");
    room.sync();
    assert_eq!(room.people(), [person("Ada", 1), person("Zoe", 1)]);
    assert!(room.verdict("Eve/2.png").unwrap().contains("looks like Ada"));
    room.rename("Ada/1.png", "Eve/1.png");
    room.sync();
    assert_eq!((room.people(), room.refused_pictures()), (vec![person("Eve", 2), person("Zoe", 1)], Vec::new()));
}

#[test]
fn a_verdict_about_another_picture_goes_with_that_picture() {
    let mut room = Room::new();
    room.drop_in("Ada.png", &png(RED, 60));
    room.sync();
    room.refused("Eve.png", &png(DARK_RED, 60), "looks like Ada");
    room.drop_in("Ada.png", &png(BLUE, 70));
    room.sync();
    assert_eq!(room.people(), [person("Ada", 1), person("Eve", 1)], "Ada is another now");
    room.refused("Joe.png", &png(BLUE, 70), "the same picture as Ada.png");
    room.remove("Ada.png");
    room.sync();
    assert_eq!((room.people(), room.refused_pictures()), (vec![person("Eve", 1), person("Joe", 1)], Vec::new()));
}

#[test]
fn the_wrong_picture_is_odd_wherever_it_stands() {
    for (wrong, rest) in [("a", ["b", "c", "d"]), ("b", ["a", "c", "d"]), ("d", ["a", "b", "c"])] {
        for at_once in [true, false] {
            let mut room = Room::new();
            room.drop_in(&format!("Ada/{wrong}.png"), &png(GREEN, 60));
            if !at_once {
                room.sync();
            }
            for (i, file) in rest.iter().enumerate() {
                room.drop_in(&format!("Ada/{file}.png"), &png(at(i as f32 * 0.1), 60));
            }
            room.sync();
            assert_eq!(room.people(), [person("Ada", 3)], "{wrong}, {at_once}");
            assert_eq!(room.refused_pictures(), [format!("Ada/{wrong}.png")]);
            let verdict = room.verdict(&format!("Ada/{wrong}.png")).unwrap();
            assert!(verdict.contains("does not look like the other pictures of Ada"), "{verdict}");
        }
    }
}

#[test]
fn of_two_that_disagree_neither_is_believed() {
    let mut room = Room::new();
    room.drop_in("Ada/1.png", &png(RED, 60));
    room.drop_in("Ada/2.png", &png(GREEN, 60));
    room.sync();
    assert_eq!(room.people(), []);
    for (one, other) in [("Ada/1.png", "Ada/2.png"), ("Ada/2.png", "Ada/1.png")] {
        let verdict = room.verdict(one).unwrap();
        assert!(verdict.contains(other) && verdict.contains("Remove the wrong one"), "{verdict}");
    }
    room.drop_in("Ada/3.png", &png(DARK_RED, 60));
    room.sync();
    assert_eq!((room.people(), room.refused_pictures()), (vec![person("Ada", 2)], vec!["Ada/2.png".into()]));
    // Two against two: not even then.
    room.drop_in("Bob/1.png", &png(BLUE, 60));
    room.drop_in("Bob/2.png", &png([22, 20, 210], 60));
    room.drop_in("Bob/3.png", &png([150, 150, 20], 60));
    room.drop_in("Bob/4.png", &png([150, 160, 20], 60));
    room.sync();
    assert_eq!((room.people(), room.refused_pictures().len()), (vec![person("Ada", 2)], 5));
    // The one that was enrolled before is believed.
    room.drop_in("Cyd/2.png", &png([140, 20, 140], 60));
    room.sync();
    room.drop_in("Cyd/1.png", &png(GREEN, 70));
    room.sync();
    assert!(room.people().contains(&person("Cyd", 1)) && room.verdict("Cyd/1.png").is_some());
}

#[test]
fn a_confirmed_picture_joins_those_it_is_unlike() {
    let mut room = Room::new();
    room.drop_in("Ada/1.png", &png(RED, 60));
    room.sync();
    room.refused("Ada/2.png", &png(GREEN, 60), "name the file 2.confirmed.png");
    room.rename("Ada/2.png", "Ada/2.confirmed.png");
    room.sync();
    assert_eq!((room.people(), room.refused_pictures()), (vec![person("Ada", 2)], vec![]));
    // What resembles it is the person's, too; a third face is not.
    room.drop_in("Ada/3.png", &png([30, 210, 25], 60));
    room.sync();
    assert_eq!(room.people(), [person("Ada", 3)]);
    room.refused("Ada/4.png", &png(BLUE, 60), "does not look like the other pictures of Ada");
    room.restart();
    room.sync();
    assert_eq!(room.people(), [person("Ada", 3)]);
}

#[test]
fn a_picture_no_longer_confirmed_is_forgotten_again() {
    let mut room = Room::new();
    for file in ["1", "3"] {
        room.drop_in(&format!("Ada/{file}.png"), &png(if file == "1" { RED } else { DARK_RED }, 60));
    }
    room.drop_in("Ada/2.Confirmed.png", &png(GREEN, 60));
    room.sync();
    assert_eq!(room.people(), [person("Ada", 3)]);
    room.rename("Ada/2.Confirmed.png", "Ada/2.png");
    room.sync();
    assert_eq!((room.people(), room.refused_pictures()), (vec![person("Ada", 2)], vec!["Ada/2.png".into()]));
    room.rename("Ada/2.png", "Ada/2.confirmed.png");
    room.sync();
    room.remove("Ada/2.confirmed.png");
    room.sync();
    assert_eq!(room.people(), [person("Ada", 2)]);
}

#[test]
fn two_that_disagree_are_both_taken_once_both_are_confirmed() {
    let mut room = Room::new();
    room.drop_in("Ada/1.png", &png(RED, 60));
    room.drop_in("Ada/2.png", &png(GREEN, 60));
    room.sync();
    assert!(room.verdict("Ada/2.png").unwrap().contains("name this file 2.confirmed.png"));
    for file in ["1", "2"] {
        room.rename(&format!("Ada/{file}.png"), &format!("Ada/{file}.confirmed.png"));
    }
    room.sync();
    assert_eq!(room.people(), [person("Ada", 2)]);
    // They speak for each other, not for a third.
    room.refused("Ada/3.png", &png(BLUE, 60), "does not look like the other pictures of Ada");
    room.remove("Ada/3.png");
    // Also without what the store knows of before.
    let fresh = Room::new();
    for file in ["1.confirmed.png", "2.confirmed.png"] {
        fresh.drop_in(&format!("Ada/{file}"), &fs::read(room.path("Ada").join(file)).unwrap());
    }
    let mut fresh = fresh;
    fresh.sync();
    assert_eq!(fresh.people(), [person("Ada", 2)]);
}

#[test]
fn nobody_is_confirmed_into_another_person() {
    let mut room = Room::new();
    room.drop_in("Ada/1.png", &png(RED, 60));
    room.drop_in("Eve/1.png", &png(GREEN, 60));
    room.sync();
    room.refused("Ada/2.confirmed.png", &png([22, 190, 20], 60), "looks like Eve");
    assert_eq!(room.people(), [person("Ada", 1), person("Eve", 1)]);
}

#[test]
fn a_confirmed_file_beside_the_folders_keeps_the_name() {
    let mut room = Room::new();
    room.drop_in("Ada/1.png", &png(RED, 60));
    room.drop_in("Ada.confirmed.png", &png(GREEN, 60));
    room.sync();
    assert_eq!(room.people(), [person("Ada", 2)]);
}

#[test]
fn one_bad_picture_does_not_keep_a_good_one_out() {
    // The farthest two lie .6 apart, more than the .5 allowed; on average nobody does.
    let mut room = Room::new();
    for (file, angle) in [("1", 0.0), ("2", 0.2), ("3", 0.4), ("4", 0.6)] {
        room.drop_in(&format!("Ada/{file}.png"), &png(at(angle), 60));
    }
    room.sync();
    assert_eq!(room.people(), [person("Ada", 4)]);
}

#[test]
fn a_start_reads_no_picture_that_stayed_the_same() {
    let mut room = Room::new();
    room.drop_in("Ada.png", &png(RED, 60));
    room.drop_in("Eve.png", &png(DARK_RED, 60));
    room.drop_in("Black.png", &png([0; 3], 60));
    room.sync();
    let verdicts = ["Eve.png", "Black.png"].map(|name| room.verdict(name).unwrap());
    room.restart();
    assert!(room.sync().is_empty());
    assert_eq!(room.reads(), 0);
    assert_eq!(["Eve.png", "Black.png"].map(|name| room.verdict(name).unwrap()), verdicts);
    // Touched: its content is known.
    fs::File::options().append(true).open(room.path("Ada.png")).unwrap().set_modified(UNIX_EPOCH).unwrap();
    room.restart();
    room.sync();
    assert_eq!((room.reads(), room.people()), (0, vec![person("Ada", 1)]));
    // Replaced while nothing ran.
    room.drop_in("Ada.png", &png(BLUE, 60));
    room.restart();
    room.sync();
    assert_eq!((room.reads(), room.people()), (1, vec![person("Ada", 1), person("Eve", 1)]));
}

#[test]
fn other_rules_read_every_picture_again() {
    let mut room = Room::new();
    room.drop_in("Ada.png", &png(RED, 60));
    room.drop_in("Black.png", &png([0; 3], 60));
    room.sync();
    room.restart();
    room.enroller.rules = [9; 16];
    room.sync();
    assert_eq!((room.reads(), room.people()), (2, vec![person("Ada", 1)]));
    // Of two pictures that were near enough, the limit now says that they are not.
    room.drop_in("Bob/1.png", &png(at(0.9), 60));
    room.drop_in("Bob/2.png", &png(at(1.3), 60));
    room.sync();
    room.restart();
    room.enroller.standard.max_spread = 0.3;
    room.sync();
    assert_eq!(room.people(), [person("Ada", 1)]);
}

#[test]
fn who_goes_while_the_program_is_down_is_gone_first() {
    let mut room = Room::new();
    room.drop_in("Ada.png", &png(RED, 60));
    room.drop_in("Joe.png", &png(BLUE, 60));
    room.sync();
    room.remove("Ada.png");
    room.restart();
    room.enroller.sync(SystemTime::now(), || false).unwrap();
    assert_eq!(room.enroller.people().iter().map(|p| p.name.as_str()).collect::<Vec<_>>(), ["Joe"]);
}

#[test]
fn every_verdict_ends_in_one_full_stop() {
    let (name, picture) = ("Ada".to_owned(), "Ada/1.jpg".to_owned());
    for refusal in [
        Refusal::NoFace,
        Refusal::Duplicate(picture.clone()),
        Refusal::LooksLike { name: name.clone(), distance: 0.5, limit: 0.9 },
        Refusal::UnlikeOthers {
            name: name.clone(),
            picture: picture.clone(),
            distance: 1.4,
            limit: 1.3,
            confirmed: "1.confirmed.jpg".into(),
        },
        Refusal::Undecided {
            name: name.clone(),
            picture,
            distance: 1.4,
            limit: 1.3,
            confirmed: "1.confirmed.jpg".into(),
        },
        Refusal::Busy(name),
    ] {
        let text = refusal.to_string();
        assert!(text.ends_with(char::is_alphabetic), "{text}");
    }
}

/// Looks some seconds after now.
fn sync_after(room: &mut Room, seconds: u64) -> Changes {
    room.enroller.sync(SystemTime::now() + Duration::from_secs(seconds), || true).unwrap()
}

#[test]
fn a_slow_upload_is_enrolled_once_when_it_is_whole() {
    let mut room = Room::new();
    let whole = png(RED, 60);
    for part in [0, 4, 40, whole.len() / 2, whole.len() - 8] {
        // The rest is not there yet, or is zeros.
        for filled in [part, whole.len()] {
            let mut bytes = whole[..part].to_vec();
            bytes.resize(filled, 0);
            room.drop_in("Ada.png", &bytes);
            let changes = sync_after(&mut room, 5);
            assert!(changes.is_empty() && changes.unsettled, "{part} of {filled}: {changes:?}");
            assert_eq!(room.verdict("Ada.png"), None);
        }
    }
    room.drop_in("Ada.png", &whole);
    assert_eq!(sync_after(&mut room, 5).accepted.len(), 1);
    assert!(sync_after(&mut room, 70).is_empty());
}

#[test]
fn half_a_picture_is_refused_after_a_minute_until_it_grows() {
    let mut room = Room::new();
    let whole = png(RED, 60);
    room.drop_in("Ada.png", &whole[..whole.len() / 2]);
    assert!(sync_after(&mut room, 5).is_empty());
    assert!(sync_after(&mut room, 30).is_empty());
    let changes = sync_after(&mut room, 66);
    assert_eq!(changes.refused.len(), 1, "{changes:?}");
    assert!(!changes.unsettled);
    assert!(room.verdict("Ada.png").unwrap().contains("the file is not complete"));
    room.drop_in("Ada.png", &whole);
    assert_eq!(sync_after(&mut room, 70).accepted.len(), 1);
    assert_eq!(room.verdict("Ada.png"), None);
}

#[test]
fn an_overwritten_picture_holds_until_the_new_one_is_whole() {
    let mut room = Room::new();
    room.drop_in("Ada.png", &png(RED, 60));
    room.sync();
    let next = png(DARK_RED, 80);
    room.drop_in("Ada.png", &next[..next.len() - 20]);
    assert!(sync_after(&mut room, 5).is_empty());
    assert_eq!(room.people(), [person("Ada", 1)]);
    room.drop_in("Ada.png", &next);
    assert_eq!(sync_after(&mut room, 5).accepted.len(), 1);
    room.drop_in("Ada.png", &next[..next.len() - 20]);
    assert_eq!(sync_after(&mut room, 70).forgotten.len(), 1, "and no longer than a minute");
    assert_eq!(room.people(), []);
}

#[test]
fn pictures_of_other_formats_are_refused_with_a_remedy() {
    let mut room = Room::new();
    let heic = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic";
    for (name, bytes, kind, remedy) in [
        ("Ann.heic", &heic[..], "HEIC", "Most Compatible"),
        ("Bob.jpg", heic, "HEIC", "Most Compatible"),
        ("Cid.webp", b"RIFF\x10\0\0\0WEBPVP8 ", "WebP", "JPEG or PNG"),
        ("Dora.JPG", b"\0\0\0\x1cftypavif\0\0\0\0", "AVIF", "JPEG or PNG"),
        ("Eve.tif", b"II*\0\x08\0\0\0", "TIFF", "JPEG or PNG"),
        ("Fay.bmp", b"BM\x36\0\0\0\0\0\0\0", "BMP", "JPEG or PNG"),
        ("Gus.gif", b"GIF89a\x01\0\x01\0", "GIF", "JPEG or PNG"),
        ("Hal.dng", b"MM\0*\0\0\0\x08", "raw file", "JPEG or PNG"),
        ("Ida.png", b"<!DOCTYPE html><html>", "web page", "JPEG or PNG"),
    ] {
        room.refused(name, bytes, kind);
        room.refused(name, bytes, remedy);
    }
    for name in ["Jim.mp4", "Kay.txt", "Lea.mov", "Max.pdf", "Ned"] {
        room.drop_in(name, heic);
        room.sync();
        assert_eq!(room.verdict(name), None, "{name} is not named like a picture");
    }
}

#[test]
fn every_ending_of_a_jpeg_is_read() {
    let mut room = Room::new();
    for (level, ending) in ["jpg", "jpeg", "JPE", "jfif", "jif"].into_iter().enumerate() {
        let mut bytes = Vec::new();
        let picture = RgbImage::from_pixel(60 + level as u32, 60, Rgb(RED));
        picture.write_to(&mut Cursor::new(&mut bytes), image::ImageFormat::Jpeg).unwrap();
        room.drop_in(&format!("Ada/1.{ending}"), &bytes);
    }
    assert_eq!(room.sync().accepted.len(), 5);
}

#[test]
fn a_picture_that_ended_the_program_is_not_read_again() {
    let mut room = Room::new();
    room.drop_in("Ada.png", &png(GREEN, 60));
    room.drop_in("Eve.png", &png(FATAL, 60));
    let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| room.sync()));
    assert!(ended.is_err(), "it ends the program");
    for _ in 0..2 {
        room.enroller = Room::enroller(room.dir.path(), &room.store, &room.reader);
        room.sync();
        assert!(room.verdict("Eve.png").unwrap().contains("facelatch ended while it read this picture"));
    }
    assert_eq!(room.people(), [person("Ada", 1)], "the others are read");
    room.drop_in("Eve.png", &png(RED, 70));
    assert_eq!(room.sync().accepted.len(), 1, "it changed");
    room.enroller = Room::enroller(room.dir.path(), &room.store, &room.reader);
    room.sync();
    assert_eq!(room.people(), [person("Ada", 1), person("Eve", 1)]);
    assert_eq!(fs::read_dir(room.dir.path().join("store/reading")).unwrap().count(), 0);
}

#[test]
fn an_orderly_end_blames_no_picture() {
    let room = Room::new();
    room.drop_in("Ada.png", &png(RED, 60));
    let mut folder = Folder::new(room.path(""), Arc::default());
    folder.enter().unwrap();
    let found = scan::scan(&folder).unwrap().pictures;
    let notes = room.dir.path().join("notes");
    let begun = Begun::open(notes.clone());
    for orderly in [false, true] {
        begun.during(&found[0], || {
            assert!(Begun::open(notes.clone()).ended_in(&found[0]), "as long as it is read");
            if orderly {
                begun.now().end();
                assert!(!Begun::open(notes.clone()).ended_in(&found[0]));
            }
        });
        assert!(!Begun::open(notes.clone()).ended_in(&found[0]));
    }
    begun.during(&found[0], || assert!(!Begun::open(notes.clone()).ended_in(&found[0]), "the end is final"));
}
