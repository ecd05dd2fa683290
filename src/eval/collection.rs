//! Pictures of known people: a folder with a folder for each person, or a list of pairs in the format of Labeled Faces in the Wild.

use std::{
    collections::{BTreeMap, HashMap},
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use image::RgbImage;

use crate::{
    enroll::{Refusal, decode_picture_at_once},
    error::ErrorKind,
    vision::{Vision, geometry::Detection},
};

/// Largest picture read, in millions of pixels.
const MOST_MEGAPIXELS: u32 = 50;
/// The smallest main face looked for: this share of the picture's longer side, but not less than [`SMALLEST_FACE`] pixels.
const SMALLEST_SHARE: f32 = 1.0 / 16.0;
const SMALLEST_FACE: f32 = 40.0;

/// A picture and the number of the person on it.
#[derive(Clone, Debug, PartialEq)]
pub struct Picture {
    pub path: PathBuf,
    pub person: usize,
}

/// Pictures of people, in the order of their names and file names.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Collection {
    /// By number.
    pub people: Vec<String>,
    /// Of each person, with whom that person is compared; empty: everybody with everybody.
    pub groups: Vec<usize>,
    pub pictures: Vec<Picture>,
}

/// Two pictures of a collection, by index, and whether they show one person.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pair {
    pub first: usize,
    pub second: usize,
    pub genuine: bool,
}

/// A list of pairs and the pictures that occur in it.
#[derive(Clone, Debug, PartialEq)]
pub struct Pairs {
    pub collection: Collection,
    pub pairs: Vec<Pair>,
    /// As the list's first line says; the folds are runs of equal length.
    pub folds: usize,
}

/// Why pictures cannot be measured.
#[derive(Debug, thiserror::Error)]
pub enum CollectionError {
    #[error("{path}: {source}")]
    Read { path: PathBuf, source: io::Error },
    #[error("{path}:{line}: {problem}")]
    Pairs { path: PathBuf, line: usize, problem: String },
    #[error(
        "{missing} of the pictures that {path} names are not in {images}, the first of them {first}; give the folder that holds a folder for each person with --images"
    )]
    Missing { path: PathBuf, images: PathBuf, missing: usize, first: String },
    #[error("{path}: {problem}; each person needs a folder of pictures (.jpg, .jpeg or .png) in it")]
    TooFew { path: PathBuf, problem: String },
    #[error("{path}: {refusal}")]
    Picture { path: PathBuf, refusal: Refusal },
    #[error("{path}: {problem}")]
    Chain { path: PathBuf, problem: String },
}

impl CollectionError {
    /// What kind of trouble it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            CollectionError::Read { source, .. } => ErrorKind::of_io(source),
            CollectionError::Chain { .. } => ErrorKind::Internal,
            _ => ErrorKind::Io,
        }
    }
}

impl Collection {
    /// Reads a folder of people: `DIR/NAME/*.{jpg,jpeg,png}`.
    ///
    /// # Errors
    /// Unreadable, fewer than two people, or nobody with two pictures: there is nothing to compare then.
    pub fn read(dir: &Path) -> Result<Collection, CollectionError> {
        let collection = Collection::read_any(dir)?;
        let too_few = |problem: &str| CollectionError::TooFew { path: dir.to_owned(), problem: problem.to_owned() };
        match collection.people.len() {
            1 => Err(too_few("there are pictures of one person only, nobody to tell apart")),
            _ if collection.pictures.len() == collection.people.len() => {
                Err(too_few("everybody has one picture only, none to recognise anybody on"))
            }
            _ => Ok(collection),
        }
    }

    /// As [`Collection::read`], of at least one person with one picture; or a folder of such
    /// folders, each a group whose people are compared with each other only.
    ///
    /// # Errors
    /// Unreadable, or without a picture of a person.
    pub fn read_any(dir: &Path) -> Result<Collection, CollectionError> {
        let mut collection = Collection::default();
        collection.add_people(dir, "")?;
        if collection.people.is_empty() {
            let groups = sorted(dir)?.into_iter().filter(|path| path.is_dir());
            for (group, folder) in groups.enumerate() {
                collection.add_people(&folder, &format!("{}/", name_of(&folder)))?;
                collection.groups.resize(collection.people.len(), group);
            }
        }
        if collection.people.is_empty() {
            let problem = "there are no pictures of people in it".into();
            return Err(CollectionError::TooFew { path: dir.to_owned(), problem });
        }
        Ok(collection)
    }

    fn add_people(&mut self, dir: &Path, group: &str) -> Result<(), CollectionError> {
        for folder in sorted(dir)?.into_iter().filter(|path| path.is_dir()) {
            let pictures: Vec<PathBuf> = sorted(&folder)?.into_iter().filter(|path| is_picture(path)).collect();
            if pictures.is_empty() {
                continue;
            }
            let person = self.people.len();
            self.people.push(format!("{group}{}", name_of(&folder)));
            self.pictures.extend(pictures.into_iter().map(|path| Picture { path, person }));
        }
        Ok(())
    }

    /// Pictures of each person, by number.
    pub fn counts(&self) -> Vec<usize> {
        let mut counts = vec![0; self.people.len()];
        self.pictures.iter().for_each(|picture| counts[picture.person] += 1);
        counts
    }
}

impl Pairs {
    /// Reads a list of pairs: a line with the number of folds and of pairs of each kind in a fold (or with the latter alone), then
    /// `NAME N M` (pictures N and M of one person) and `NAME N OTHER M` (of two), separated by tabs or spaces.
    ///
    /// # Errors
    /// Unreadable, not of this format, or a picture is missing in `images`.
    pub fn read(file: &Path, images: &Path) -> Result<Pairs, CollectionError> {
        let text =
            fs::read_to_string(file).map_err(|source| CollectionError::Read { path: file.to_owned(), source })?;
        let wrong = |line: usize, problem: String| CollectionError::Pairs { path: file.to_owned(), line, problem };
        let (folds, lines) = parse(&text).map_err(|(line, problem)| wrong(line, problem))?;
        // Pictures are numbered in the order of people's names and their numbers, as those of a folder are.
        let mut named: BTreeMap<(&str, u32), usize> = BTreeMap::new();
        for [a, b] in &lines {
            named.insert(*a, 0);
            named.insert(*b, 0);
        }
        let mut collection = Collection::default();
        let (mut missing, mut first) = (0, None);
        for (&(name, number), index) in &mut named {
            if collection.people.last().is_none_or(|last| last != name) {
                collection.people.push(name.to_owned());
            }
            let path = ["jpg", "jpeg", "png"]
                .map(|extension| images.join(name).join(format!("{name}_{number:04}.{extension}")))
                .into_iter()
                .find(|path| path.is_file());
            let Some(path) = path else {
                missing += 1;
                first.get_or_insert_with(|| format!("{name}/{name}_{number:04}.jpg"));
                continue;
            };
            *index = collection.pictures.len();
            collection.pictures.push(Picture { path, person: collection.people.len() - 1 });
        }
        if let Some(first) = first {
            let (path, images) = (file.to_owned(), images.to_owned());
            return Err(CollectionError::Missing { path, images, missing, first });
        }
        let pair = |[a, b]: &[(&str, u32); 2]| Pair { first: named[a], second: named[b], genuine: a.0 == b.0 };
        let pairs = lines.iter().map(pair).collect();
        Ok(Pairs { collection, pairs, folds })
    }
}

/// A picture as a list of pairs names it.
type Named<'a> = (&'a str, u32);

/// Folds and pairs of a list.
type Listed<'a> = (usize, Vec<[Named<'a>; 2]>);

/// Reads a list; or says which line is wrong, and why.
fn parse(text: &str) -> Result<Listed<'_>, (usize, String)> {
    let mut lines = text.lines().enumerate().map(|(i, line)| (i + 1, line)).filter(|(_, line)| !line.trim().is_empty());
    let (first, head) = lines.next().ok_or((1, "the list of pairs is empty".to_owned()))?;
    let numbers: Option<Vec<usize>> =
        head.split_whitespace().map(|word| word.parse().ok().filter(|n| *n > 0)).collect();
    let (folds, size) = match numbers.as_deref() {
        // A list that is one set, such as LFW's pairsDevTest.txt: ten folds, as is usual.
        Some(&[size]) => (10, size / 10),
        Some(&[folds, size]) if folds > 1 => (folds, size),
        _ => return Err((first, "the first line has to give the number of folds (2 or more) and of pairs of each kind in a fold, as in \"10 300\"".into())),
    };
    let mut pairs = Vec::new();
    for (line, text) in lines {
        // Names hold spaces in some lists, in which columns are separated by tabs.
        let words: Vec<&str> = if text.contains('\t') {
            text.split('\t').map(str::trim).collect()
        } else {
            text.split_whitespace().collect()
        };
        let number =
            |word: &str| word.parse::<u32>().map_err(|_| (line, format!("\"{word}\" is no number of a picture")));
        pairs.push(match words[..] {
            [name, a, b] => [(name, number(a)?), (name, number(b)?)],
            [name, a, other, b] => [(name, number(a)?), (other, number(b)?)],
            _ => return Err((line, "a pair is NAME N M or NAME N OTHER M".into())),
        });
    }
    let expected = numbers.as_deref().map_or(0, |n| 2 * n.iter().product::<usize>());
    if pairs.len() != expected || size == 0 {
        return Err((
            first,
            format!(
                "the first line stands for {expected} pairs, at least one of each kind in each fold; {} follow",
                pairs.len()
            ),
        ));
    }
    if let Some(&[_]) = numbers.as_deref() {
        // Such a list gives all pairs of one kind, then all of the other; the folds need some of each.
        let (genuine, impostor): (Vec<_>, Vec<_>) = pairs.into_iter().partition(|[a, b]: &[Named<'_>; 2]| a.0 == b.0);
        pairs = genuine.into_iter().zip(impostor).flat_map(|(a, b)| [a, b]).collect();
    }
    Ok((folds, pairs))
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// What lies in a folder, in the order of names.
///
/// # Errors
/// Unreadable.
pub fn sorted(dir: &Path) -> Result<Vec<PathBuf>, CollectionError> {
    let failed = |source| CollectionError::Read { path: dir.to_owned(), source };
    let mut paths = fs::read_dir(dir)
        .and_then(|entries| entries.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<Vec<_>>>())
        .map_err(failed)?;
    paths.sort();
    Ok(paths)
}

/// Whether this is a file that ends as pictures do.
pub fn is_picture(path: &Path) -> bool {
    let extension = path.extension().and_then(|e| e.to_str()).map(str::to_ascii_lowercase);
    path.is_file() && extension.is_some_and(|e| ["jpg", "jpeg", "png"].contains(&e.as_str()))
}

/// A picture's main face: the largest and most central one. None when there is no face.
///
/// # Errors
/// A net failed.
pub fn main_face(vision: &mut Vision, picture: &RgbImage) -> Result<Option<Detection>, String> {
    let smallest = (picture.width().max(picture.height()) as f32 * SMALLEST_SHARE).max(SMALLEST_FACE);
    let mut settings = vision.settings();
    if settings.min_face != smallest {
        settings.min_face = smallest;
        *vision = vision.with_settings(settings);
    }
    let faces = vision.detect(picture).map_err(|error| error.to_string())?;
    let center = (picture.width() as f32 / 2.0, picture.height() as f32 / 2.0);
    let main = |face: &Detection| {
        let b = face.bounding_box;
        let off = (b.center().x - center.0).powi(2) + (b.center().y - center.1).powi(2);
        b.area() - 2.0 * off
    };
    Ok(faces.into_iter().max_by(|a, b| main(a).total_cmp(&main(b))))
}

/// Runs `work` on every picture, on all cores; `done` is told after each how many are.
///
/// # Errors
/// The first picture, in order, that cannot be read or on which `work` failed.
pub fn each<T: Send>(
    pictures: &[Picture],
    vision: &Vision,
    work: impl Fn(&mut Vision, &RgbImage, usize) -> Result<T, String> + Sync,
    done: impl Fn(usize) + Sync,
) -> Result<Vec<T>, CollectionError> {
    let one = |vision: &mut Vision, index: usize| {
        let path = pictures[index].path.clone();
        let bytes = fs::read(&path).map_err(|source| CollectionError::Read { path: path.clone(), source })?;
        let (picture, _) = decode_picture_at_once(&bytes, MOST_MEGAPIXELS)
            .map_err(|refusal| CollectionError::Picture { path: path.clone(), refusal })?;
        work(vision, &picture, index).map_err(|problem| CollectionError::Chain { path, problem })
    };
    in_parallel(pictures.len(), vision, one, done)
}

/// Does jobs 0 to `count` on all cores, each core with a state of its own. After each job `done`
/// gets the number of finished ones.
///
/// # Errors
/// The first job, in order, that failed.
pub fn in_parallel<S: Clone + Send + Sync, T: Send, E: Send>(
    count: usize,
    state: &S,
    work: impl Fn(&mut S, usize) -> Result<T, E> + Sync,
    done: impl Fn(usize) + Sync,
) -> Result<Vec<T>, E> {
    let (next, finished) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let results: Mutex<HashMap<usize, Result<T, E>>> = Mutex::new(HashMap::new());
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            let mut state = state.clone();
            let (next, finished, results, work, done) = (&next, &finished, &results, &work, &done);
            scope.spawn(move || {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    if index >= count {
                        return;
                    }
                    let result = work(&mut state, index);
                    if result.is_err() {
                        // Nothing more is begun; what runs ends.
                        next.store(count, Ordering::Relaxed);
                    }
                    results.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).insert(index, result);
                    done(finished.fetch_add(1, Ordering::Relaxed) + 1);
                }
            });
        }
    });
    let mut results: Vec<_> =
        results.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner()).into_iter().collect();
    results.sort_unstable_by_key(|(index, _)| *index);
    results.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(files: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for file in files {
            let path = dir.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        dir
    }

    #[test]
    fn a_folder_of_people_is_read_in_order() {
        let dir = folder(&["Eve/b.PNG", "Eve/a.jpg", "Ada/1.jpeg", "Ada/notes.txt", "Nobody/notes.txt", "stray.jpg"]);
        let read = Collection::read(dir.path()).unwrap();
        assert_eq!(read.people, ["Ada", "Eve"]);
        assert_eq!(read.counts(), [1, 2]);
        let file = |name: &str, person| Picture { path: dir.path().join(name), person };
        assert_eq!(read.pictures, [file("Ada/1.jpeg", 0), file("Eve/a.jpg", 1), file("Eve/b.PNG", 1)]);
    }

    #[test]
    fn a_folder_of_groups_keeps_them_apart() {
        let dir = folder(&["old/Ada/1.jpg", "old/Eve/1.jpg", "young/Ada/1.png", "notes/notes.txt"]);
        let read = Collection::read_any(dir.path()).unwrap();
        assert_eq!(
            (read.people, read.groups),
            (vec!["old/Ada".into(), "old/Eve".into(), "young/Ada".into()], vec![1, 1, 2])
        );
    }

    #[test]
    fn folders_with_nothing_to_compare_are_refused() {
        for (files, word) in [
            (&["stray.jpg"][..], "no pictures of people"),
            (&["Ada/1.jpg", "Ada/2.jpg"], "one person only"),
            (&["Ada/1.jpg", "Eve/1.jpg"], "one picture only"),
        ] {
            let dir = folder(files);
            let error = Collection::read(dir.path()).unwrap_err().to_string();
            assert!(error.contains(word) && error.contains(&dir.path().display().to_string()), "{error}");
        }
        assert!(Collection::read(Path::new("/nowhere")).unwrap_err().to_string().contains("/nowhere"));
    }

    #[test]
    fn pairs_are_read_as_lfw_writes_them() {
        let dir = folder(&["A_B/A_B_0001.jpg", "A_B/A_B_0002.jpg", "C/C_0010.png", "pairs.txt"]);
        let file = dir.path().join("pairs.txt");
        fs::write(&file, "2\t1\nA_B\t1\t2\nA_B\t1\tC\t10\nA_B 2 1\nC 10 A_B 2\n").unwrap();
        let read = Pairs::read(&file, dir.path()).unwrap();
        assert_eq!((read.folds, read.collection.people.len(), read.collection.pictures.len()), (2, 2, 3));
        let pair = |first, second, genuine| Pair { first, second, genuine };
        assert_eq!(read.pairs, [pair(0, 1, true), pair(0, 2, false), pair(1, 0, true), pair(2, 1, false)]);
    }

    #[test]
    fn wrong_lists_are_refused_with_their_line() {
        let dir = folder(&["A/A_0001.jpg", "A/A_0002.jpg", "pairs.txt"]);
        let file = dir.path().join("pairs.txt");
        for (text, words) in [
            ("", "pairs.txt:1: the list of pairs is empty"),
            ("ten\n", "pairs.txt:1: the first line"),
            ("1 1\nA 1 2\nA 1 A 2\n", "pairs.txt:1: the first line"),
            ("2 1\nA 1 2\n", "pairs.txt:1: the first line stands for 4 pairs"),
            ("2 1\nA 1 2\nA 1\n", "pairs.txt:3: a pair is"),
            ("2 1\nA 1 two\n", "pairs.txt:2: \"two\" is no number"),
            ("2 1\nA 1 2\nA 1 B 3\nA 1 2\nA 1 B 4\n", "2 of the pictures that"),
            ("2 1\nA 1 2\nA 1 B 3\nA 1 2\nA 1 B 3\n", "the first of them B/B_0003.jpg"),
        ] {
            fs::write(&file, text).unwrap();
            let error = Pairs::read(&file, dir.path()).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }

    proptest::proptest! {
        #[test]
        fn rubbish_never_panics(text in "[A-C0-9\t \n]{0,80}") {
            let _ = parse(&text);
        }
    }
}
