//! `facelatch eval` on several folders of people: what the manifest's limits do to each group.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, fs,
    path::{Path, PathBuf},
};

use ndarray::Array2;
use serde_json::{Value, json};

use super::{
    CommandError, exit,
    measure::{self, Chosen, narrow, rate_name},
    print,
};
use crate::{
    error::ErrorKind,
    eval::{
        collection::Collection,
        door::{Question, Simulated, simulate},
        plot::{self, Curve},
        population::{ENOUGH_PAIRS, Population, Share, Tail},
        statistics::RATES,
    },
    evidence::Width,
    service::StartError,
    threshold::LOOKS_PER_VISIT,
    vision::{
        Vision,
        manifest::{self, Manifest, NetEntry, Threshold},
    },
};

/// People enrolled, and the rate asked for, of the doors that are simulated.
const AT_DOORS: [(usize, f64); 4] = [(1, 1e-3), (1, 1e-4), (5, 1e-3), (5, 1e-4)];

/// The share by whose distances the curves of the picture are ordered.
const ORDERED_AT: f64 = 1e-2;

/// A folder of people, measured.
pub(super) struct Group {
    folder: PathBuf,
    people: usize,
    pictures: usize,
    undetected: usize,
    population: Population,
    /// A face a row, and whose each is.
    rows: Array2<f32>,
    person: Vec<usize>,
}

/// A door of one group's strangers.
struct AtDoor {
    question: Question,
    simulated: Simulated,
}

/// A distance, and the rate it is the limit for.
struct Limit {
    rate: f64,
    distance: f32,
}

/// All folders, and the limits they are measured at.
pub(super) struct Groups {
    groups: Vec<Group>,
    limits: Vec<Limit>,
    /// Whose limits these are.
    source: &'static str,
    /// For each group, the doors that it is large enough for. Empty: the embedder has no table.
    doors: Vec<Vec<AtDoor>>,
}

/// Measures and prints.
pub(super) fn run(chosen: &Chosen, folders: &[PathBuf], plots: Option<&Path>, json: bool) -> Result<u8, CommandError> {
    let collections = folders.iter().map(|folder| Collection::read_any(folder)).collect::<Result<Vec<_>, _>>()?;
    let vision = chosen.load(chosen.precision)?.mirroring(chosen.mirror);
    let measured = folders.iter().zip(&collections).map(|(folder, collection)| {
        let embedded = measure::embed(collection, &vision, &folder.display().to_string())?;
        Group::new(folder.clone(), collection, &embedded)
    });
    let groups = Groups::of(chosen, measured.collect::<Result<_, _>>()?)?;
    if let Some(folder) = plots {
        measure::write_pictures(folder, [groups.picture()])?;
    }
    if json {
        print::emit_json(&json!({
            "embedder": chosen.embedder,
            "precision": chosen.precision.to_string(),
            "mirror": chosen.mirror,
            "limits_of": groups.source,
            "folders": groups.as_json(),
        }));
    } else {
        let mirror = if chosen.mirror { ", mirror images averaged in" } else { "" };
        print::emit(&format!("embedder {} as {}{mirror}\n{groups}", chosen.embedder, chosen.precision));
    }
    Ok(exit::DONE)
}

/// Prints the manifest's populations: of the embedder's precisions the strictest.
pub(super) fn print_table(
    chosen: &Chosen,
    folders: &[PathBuf],
    no_limit: &[PathBuf],
    json: bool,
) -> Result<u8, CommandError> {
    let mut names = BTreeSet::new();
    if let Some(twice) =
        folders.iter().chain(no_limit).map(|folder| name(folder)).find(|name| !names.insert(name.clone()))
    {
        let problem =
            format!("two of the folders are called {twice}; the populations are named after them: rename one");
        return Err(CommandError::Usage(problem));
    }
    let manifest = Manifest::load(&chosen.dir).map_err(StartError::from)?;
    let precisions = manifest.embedder(&chosen.embedder).map_err(StartError::from)?.precisions.clone();
    let visions = precisions.iter().map(|precision| chosen.load(*precision)).collect::<Result<Vec<_>, _>>()?;
    let mut tables = Vec::new();
    for (folder, sets_limit) in folders.iter().map(|f| (f, true)).chain(no_limit.iter().map(|f| (f, false))) {
        let collection = Collection::read_any(folder)?;
        let measured = |vision: &Vision, mirror: bool| {
            let what = format!("{}{}", folder.display(), if mirror { ", mirrored" } else { "" });
            let embedded = measure::embed(&collection, &vision.clone().mirroring(mirror), &what)?;
            Group::new(folder.clone(), &collection, &embedded)
        };
        let of = |mirror| visions.iter().map(|vision| measured(vision, mirror)).collect::<Result<Vec<_>, _>>();
        let (plain, mirrored) = (of(false)?, of(true)?);
        let source = fs::read_to_string(folder.join("source.txt")).ok();
        tables.push(manifest::Population {
            name: plain[0].name(),
            source: source.map_or_else(|| folder.display().to_string(), |text| text.trim().to_owned()),
            people: plain[0].population.people(),
            comparisons: plain[0].population.impostor(),
            sets_limit,
            thresholds: strictest(&plain),
            mirror_thresholds: strictest(&mirrored),
        });
    }
    let text = tables.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
    match toml::from_str::<Value>(&text) {
        Ok(manifest) if json => print::emit_json(&json!({ "populations": manifest["net"]["populations"] })),
        _ => print::emit(&text),
    };
    Ok(exit::DONE)
}

/// The limits of which there is evidence, of all measurements the nearest; rounded down.
fn strictest(measured: &[Group]) -> Vec<Threshold> {
    let down = |distance: f64| ((distance * 1000.0).floor() / 1000.0) as f32;
    let at = |fmr: f64| {
        let limits: Option<Vec<Tail>> = measured.iter().map(|group| group.population.limit_for(fmr)).collect();
        let nearest = limits?.into_iter().min_by(|one, other| one.value.total_cmp(&other.value))?;
        let interval = nearest.interval.map(|(low, high)| [down(low), down(high)]);
        let point = Threshold { fmr, distance: down(nearest.value), shrink: 1.0, interval };
        (nearest.is_evidence() && point.distance > 0.0).then_some(point)
    };
    let mut table: Vec<Threshold> = RATES.into_iter().map_while(at).collect();
    // The manifest's distances fall from one rate to the next; few comparisons may show one for two.
    table.dedup_by(|next, last| next.distance >= last.distance);
    table
}

impl Group {
    /// # Errors
    /// There is no face on any picture.
    pub fn new(folder: PathBuf, collection: &Collection, embedded: &[Option<Vec<f32>>]) -> Result<Group, CommandError> {
        let (rows, person) = measure::rows(collection, embedded);
        let (people, pictures) = (collection.people.len(), collection.pictures.len());
        if person.is_empty() {
            let problem = format!("{}: no face on any of {pictures} pictures", folder.display());
            return Err(CommandError::Answer { problem, kind: ErrorKind::Io });
        }
        let population = Population::new(rows.view(), &person, &collection.groups);
        Ok(Group { folder, people, pictures, undetected: pictures - person.len(), population, rows, person })
    }

    /// What doors with one and with five of these people make of the others as strangers.
    fn doors(&self, entry: &NetEntry) -> Vec<AtDoor> {
        let Some(width) = Width::of(entry) else { return Vec::new() };
        let door = |(enrolled, per_visit): (usize, f64)| {
            let table = entry.distance_for(per_visit / (LOOKS_PER_VISIT * enrolled as f64)).ok()?;
            let question = Question { enrolled, per_visit, table };
            let simulated = simulate(self.rows.view(), &self.person, width, question)?;
            Some(AtDoor { question, simulated })
        };
        AT_DOORS.into_iter().filter_map(door).collect()
    }

    fn name(&self) -> String {
        name(&self.folder)
    }
}

/// What a folder is called, `.` and `..` too.
fn name(folder: &Path) -> String {
    let resolved = || folder.canonicalize().unwrap_or_default();
    let name =
        folder.file_name().map_or_else(|| resolved().file_name().map(ToOwned::to_owned), |name| Some(name.into()));
    name.unwrap_or_else(|| folder.into()).to_string_lossy().into_owned()
}

impl Groups {
    /// With the manifest's limits; of an embedder without, with those of the first folder.
    pub fn of(chosen: &Chosen, groups: Vec<Group>) -> Result<Groups, CommandError> {
        let manifest = Manifest::load(&chosen.dir).map_err(StartError::from)?;
        let entry = manifest.embedder(&chosen.embedder).map_err(StartError::from)?.mirroring(chosen.mirror);
        if !entry.thresholds.is_empty() {
            // Of all populations the nearest; an entry without populations has its own table.
            let distance = |rate: f64, own: f32| entry.distance_for(rate).unwrap_or(own);
            let limit = |point: &Threshold| Limit { rate: point.fmr, distance: distance(point.fmr, point.distance) };
            let limits = entry.thresholds.iter().map(limit).collect();
            let doors = groups.iter().map(|group| group.doors(&entry)).collect();
            return Ok(Groups { groups, limits, source: "manifest", doors });
        }
        let first = groups.first().map(|group| &group.population);
        let own = |rate| Some(Limit { rate, distance: first?.limit_for(rate)?.value as f32 });
        let limits = RATES.into_iter().filter_map(own).collect();
        Ok(Groups { groups, limits, source: "first folder", doors: Vec::new() })
    }

    /// A picture of all groups' false-match rates, those whose people are nearest first.
    pub fn picture(&self) -> (&'static str, Result<String, String>) {
        let curve = |group: &Group| Curve {
            name: group.name(),
            points: group.population.curve(plot::LEAST_RATE),
            evidence_from: group.population.evidence_from(),
        };
        let mut curves: Vec<Curve> = self.groups.iter().map(curve).collect();
        curves.sort_by(|one, other| one.at(ORDERED_AT).total_cmp(&other.at(ORDERED_AT)));
        let limits: Vec<(String, f64)> = self
            .limits
            .chunk_by(|one, next| one.distance == next.distance)
            .rev()
            .map(|same| (limit_name(same), same[0].distance.into()))
            .collect();
        ("populations.svg", plot::populations(&curves, &limits))
    }

    pub fn as_json(&self) -> Value {
        let folder = |(i, group): (usize, &Group)| {
            let at = |limit: &Limit| {
                let measured = json!({
                    "distance": narrow(limit.distance),
                    "fmr": group.population.false_matches(limit.distance).map(tail_json),
                    "fnmr": group.population.false_non_matches(limit.distance).map(share_json),
                });
                (rate_name(limit.rate), measured)
            };
            let own = |rate: &f64| Some((rate_name(*rate), tail_json(group.population.limit_for(*rate)?)));
            json!({
                "folder": group.folder,
                "people": group.people,
                "pictures": group.pictures,
                "undetected": group.undetected,
                "genuine": group.population.genuine(),
                "impostor": group.population.impostor(),
                "limits": self.limits.iter().map(at).collect::<BTreeMap<_, _>>(),
                "own_limits": RATES.iter().filter_map(own).collect::<BTreeMap<_, _>>(),
                "door_evidence": self.doors.get(i).map(|doors| doors.iter().map(AtDoor::as_json).collect::<Value>()),
            })
        };
        self.groups.iter().enumerate().map(folder).collect()
    }

    /// What a door's own evidence does, a line for each door.
    fn at_doors(&self) -> String {
        let head = [
            "a door's own evidence",
            "distances",
            "enrolled",
            "rate",
            "limit",
            "stricter",
            "strangers let in",
            "known let in",
        ];
        let mut rows = vec![head.map(str::to_owned).to_vec()];
        for (group, doors) in self.groups.iter().zip(&self.doors) {
            let centre = group.population.impostor_centre();
            let centre = centre.map_or("-".into(), |(centre, width)| format!("{centre:.2} ± {width:.3}"));
            rows.extend(doors.iter().map(|door| door.row(group.name(), &centre)));
        }
        print::table(&rows)
    }

    /// A line for each folder, a column for each rate.
    fn table(&self, title: &str, rates: &[f64], cell: impl Fn(&Population, usize) -> Option<String>) -> String {
        let mut rows = vec![[title, "people", "pictures", "no face"].map(str::to_owned).to_vec()];
        rows[0].extend(rates.iter().map(|rate| rate_name(*rate)));
        for group in &self.groups {
            let counts = [group.people, group.pictures, group.undetected].map(|count| count.to_string());
            let cells = (0..rates.len()).map(|i| cell(&group.population, i).unwrap_or_else(|| "-".into()));
            rows.push([group.name()].into_iter().chain(counts).chain(cells).collect());
        }
        print::table(&rows)
    }
}

impl fmt::Display for Groups {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rates: Vec<f64> = self.limits.iter().map(|limit| limit.rate).collect();
        let limits = self.limits.iter().map(|limit| format!("{} is {:.3}", rate_name(limit.rate), limit.distance));
        let false_matches = self.table("false-match rate at the limit for", &rates, |population, i| {
            Some(tail_text(population.false_matches(self.limits[i].distance)?, rate_text))
        });
        let missed = self.table("false non-match rate at the limit for", &rates, |population, i| {
            Some(share_text(population.false_non_matches(self.limits[i].distance)?))
        });
        let own = self.table("the group's own limit for", &RATES, |population, i| {
            Some(tail_text(population.limit_for(RATES[i])?, |distance| format!("{distance:.3}")))
        });
        write!(
            f,
            "one picture against one; limits of the {}: {}\n\
             [95 % interval over people]; \"no evidence\": fewer than {ENOUGH_PAIRS} pairs of people are as near\n\n\
             {false_matches}\n{missed}\n{own}",
            self.source,
            if self.limits.is_empty() {
                "none, too few comparisons".into()
            } else {
                limits.collect::<Vec<_>>().join(", ")
            },
        )?;
        match self.doors.iter().all(Vec::is_empty) {
            true => Ok(()),
            false => write!(f, "\n{}", self.at_doors()),
        }
    }
}

impl AtDoor {
    fn as_json(&self) -> Value {
        let AtDoor { question, simulated } = self;
        json!({
            "enrolled": question.enrolled,
            "rate": question.per_visit,
            "limit": simulated.limit,
            "stricter": simulated.stricter,
            "strangers": simulated.strangers,
            "known": simulated.known,
        })
    }

    fn row(&self, name: String, centre: &str) -> Vec<String> {
        let AtDoor { question, simulated } = self;
        let [table, own] = simulated.limit;
        let known = simulated.known.map(|[table, own]| format!("{table:.4} -> {own:.4}"));
        vec![
            name,
            centre.into(),
            question.enrolled.to_string(),
            rate_name(question.per_visit),
            format!("{table:.3} -> {own:.3}"),
            format!("{:.0} %", simulated.stricter * 100.0),
            format!("{} -> {}", rate_text(simulated.strangers[0]), rate_text(simulated.strangers[1])),
            known.unwrap_or_else(|| "-".into()),
        ]
    }
}

/// Limits of one distance: "limit for 1e-3 to 1e-5: 0.862".
fn limit_name(same: &[Limit]) -> String {
    let (first, last) = (&same[0], &same[same.len() - 1]);
    let to = if same.len() > 1 { format!(" to {}", rate_name(last.rate)) } else { String::new() };
    format!("limit for {}{to}: {:.3}", rate_name(first.rate), first.distance)
}

fn tail_json(tail: Tail) -> Value {
    json!({
        "value": tail.value,
        "interval": tail.interval.map(|(low, high)| [low, high]),
        "pairs_of_people": tail.pairs,
        "evidence": tail.is_evidence(),
    })
}

fn share_json(share: Share) -> Value {
    json!({ "value": share.share, "interval": share.interval.map(|(low, high)| [low, high]) })
}

fn tail_text(tail: Tail, digits: impl Fn(f64) -> String) -> String {
    match tail.interval.filter(|_| tail.is_evidence()) {
        Some((low, high)) => format!("{} [{}, {}]", digits(tail.value), digits(low), digits(high)),
        None => format!("{} (no evidence: {})", digits(tail.value), tail.pairs),
    }
}

fn share_text(share: Share) -> String {
    let Share { share, interval } = share;
    interval.map_or(format!("{share:.3}"), |(low, high)| format!("{share:.3} [{low:.3}, {high:.3}]"))
}

fn rate_text(rate: f64) -> String {
    if rate == 0.0 { "0".into() } else { format!("{rate:.1e}") }
}
