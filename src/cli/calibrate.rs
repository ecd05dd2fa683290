//! `facelatch calibrate`: what the threshold means for the people enrolled, in words, in JSON and as a picture.

use std::{
    fmt::Write,
    fs, io,
    path::{Path, PathBuf},
};

use serde_json::json;

use super::{Answerer, CommandError, exit, histogram, print};
use crate::{
    api::ask,
    calibrate::{AtDoor, BIN, Calibration, Histogram, Likeness},
    config::Config,
    evidence::ENOUGH_VISITS,
    telemetry::printable,
};

/// Strangers and pictures at risk that are named; of more, the number is said.
const NAMED: usize = 10;
/// Bins of a histogram that make one line, and the longest bar.
const STEP: usize = 3;
const BAR: u64 = 40;

pub(super) fn run(
    config: Config,
    strangers: Option<&Path>,
    plot: Option<&Path>,
    json: bool,
) -> Result<u8, CommandError> {
    let answerer = Answerer::find(config)?;
    let mut found = answerer.ask(ask::Calibrate {})?;
    let mut faceless = 0;
    if let Some(folder) = strangers {
        let files = pictures(folder)?;
        let mut likenesses = Vec::with_capacity(files.len());
        for file in files {
            match likeness(&answerer, &file)? {
                Some(likeness) => likenesses.push(likeness),
                None => faceless += 1,
            }
        }
        found.add_strangers(likenesses);
    }
    if let Some(path) = plot {
        let drawn = histogram::draw(&found).map_err(io::Error::other);
        drawn
            .and_then(|svg| fs::write(path, svg))
            .map_err(|source| CommandError::File { path: path.to_owned(), source })?;
    }
    let allowed = found.allowed();
    let too_loose = allowed.as_ref().is_some_and(|(allowed, _)| found.limit > *allowed);
    if json {
        let mut value = json!(found);
        value["allowed"] = json!(allowed.as_ref().map(|(limit, _)| limit));
        value["allowed_because"] = json!(allowed.as_ref().map(|(_, because)| because));
        print::emit_json(&value);
    } else {
        print::emit(&text(&found, faceless));
    }
    Ok(if too_loose { exit::NO } else { exit::DONE })
}

/// Every picture below a folder, in the order of their names.
fn pictures(folder: &Path) -> Result<Vec<PathBuf>, CommandError> {
    let mut folders = vec![folder.to_owned()];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        let file_error = |source| CommandError::File { path: folder.clone(), source };
        for entry in fs::read_dir(&folder).map_err(file_error)? {
            let path = entry.map_err(file_error)?.path();
            let extension = path.extension().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
            if path.is_dir() {
                folders.push(path);
            } else if ["jpg", "jpeg", "png"].contains(&extension.as_str()) {
                files.push(path);
            }
        }
    }
    if files.is_empty() {
        let problem = "there is no JPEG or PNG in it; give a folder with pictures of people who are not enrolled";
        return Err(CommandError::File { path: folder.to_owned(), source: io::Error::other(problem) });
    }
    files.sort();
    Ok(files)
}

/// Whom the largest face of a picture is nearest to; None: there is no face, or nobody is enrolled.
fn likeness(answerer: &Answerer, file: &Path) -> Result<Option<Likeness>, CommandError> {
    let of_file = |source| CommandError::File { path: file.to_owned(), source };
    let picture = fs::read(file).map_err(of_file)?;
    let faces = answerer.ask(ask::Identify { picture }).map_err(|error| of_file(io::Error::other(error)))?;
    let Some(face) = faces.into_iter().next() else { return Ok(None) };
    let picture = file.display().to_string();
    Ok(face.nearest.zip(face.distance_as_single).map(|(person, distance)| Likeness { picture, person, distance }))
}

/// The whole answer, for people.
fn text(found: &Calibration, faceless: usize) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let mut line = |text: String| writeln!(out, "{text}").expect("a string takes everything");
    line(format!("{} people with {} pictures; {}", found.people, found.pictures, found.reason));
    line("distances are as of one picture against one".into());
    match (found.genuine.first(), found.known_within(found.limit)) {
        (Some(farthest), Some(share)) => line(format!(
            "own pictures: {:.0} % of {} lie within {:.3} of the person's others; the farthest is {} ({}) at {:.3}",
            share * 100.0,
            found.genuine.len(),
            found.limit,
            printable(&farthest.picture),
            printable(&farthest.person),
            farthest.distance
        )),
        _ => line("own pictures: nobody has two, so nothing can be said about how well they are known".into()),
    }
    for (i, pair) in found.pairs.iter().enumerate() {
        let what = if i == 0 { "closest pair:" } else { "             " };
        let loose = if pair.distance <= found.limit { "  NEARER THAN THE LIMIT" } else { "" };
        line(format!("{what} {} and {} at {:.3}{loose}", printable(&pair.one), printable(&pair.other), pair.distance));
    }
    if found.pairs.first().is_some_and(|pair| pair.distance <= found.limit) {
        line("              children under 13 and siblings are not told apart reliably".into());
    }
    named(&mut line, "at risk:", &found.at_risk, |likeness| {
        format!("{} may be taken for {}", printable(&likeness.picture), printable(&likeness.person))
    });
    if let Some(ceiling) = found.stranger_ceiling {
        line(format!("strangers: the model's table allows {ceiling:.3} for the rate that is asked for"));
    }
    if !found.strangers.is_empty() || faceless > 0 {
        let within = found.strangers.iter().filter(|stranger| stranger.distance <= found.limit).count();
        line(format!(
            "strangers: {} pictures compared, {within} within the limit, {faceless} without a face",
            found.strangers.len()
        ));
        let nearest = &found.strangers[..found.strangers.len().min(within.max(1))];
        named(&mut line, "", nearest, |stranger| {
            format!("{} is nearest to {}", printable(&stranger.picture), printable(&stranger.person))
        });
    }
    at_door(&mut line, &found.at_door);
    for weakness in &found.weak {
        line(format!("weak: {}: {}; {}", printable(&weakness.person), printable(&weakness.problem), weakness.remedy));
    }
    match found.allowed() {
        Some((allowed, because)) if found.limit > allowed => line(format!(
            "the limit in force, {:.3}, is too loose: {:.3} is the most that is allowed, {}. Set recognition.max_distance = {:.2}, or a smaller \
             false_match_rate, or better the pictures of those named above",
            found.limit,
            allowed,
            printable(&because),
            ((allowed * 100.0).ceil() - 1.0) / 100.0
        )),
        Some((allowed, because)) => line(format!(
            "the limit in force, {:.3}, holds: up to {allowed:.3} is allowed, {}",
            found.limit,
            printable(&because)
        )),
        None => line("nothing speaks against the limit in force".into()),
    }
    out
}

/// How near strangers came, and what that says about the limit.
fn at_door(line: &mut impl FnMut(String), door: &AtDoor) {
    if door.visits_of_other_models > 0 {
        let visits = door.visits_of_other_models;
        line(format!("this door:   {visits} visits counted with another model or precision are not used"));
    }
    if door.damaged_days > 0 {
        let days = door.damaged_days;
        line(format!("this door:   {days} damaged records of visits are set aside; --forget-strangers removes them"));
    }
    let visits = door.visits;
    let stands = if door.given { "recognition.max_distance" } else { "the model's table" };
    if visits == 0 {
        return line(format!("this door:   no visit of a stranger is counted yet; {stands} stands"));
    }
    line(format!("this door:   {visits} visits of strangers, by the limit that would have let each in"));
    bars(line, &door.distances);
    let Some(own) = door.own else {
        return line(format!("             the model has no table to judge them by; {stands} stands"));
    };
    let [low, high] = own.interval;
    let limit = format!("{:.3} (95 % interval {low:.3} to {high:.3})", own.limit);
    let table = door.table.map_or("-".into(), |table| format!("{table:.3}"));
    let outcome = match door.table {
        _ if door.in_force => "the door's own is in force".into(),
        _ if door.given => "recognition.max_distance stands".to_owned(),
        _ if visits < ENOUGH_VISITS => format!("fewer than {ENOUGH_VISITS} visits decide nothing"),
        Some(table) if own.tightens(table) => "the door's own comes into force within a day, or at a start".into(),
        Some(_) => "the interval is not below the table's: that stands".into(),
        None => "there is no table for this rate".into(),
    };
    line(format!("             they speak for a limit of {limit}, the model's table for {table}: {outcome}"));
}

/// A histogram, a line for each step that has visits.
fn bars(line: &mut impl FnMut(String), histogram: &Histogram) {
    let steps: Vec<u64> = histogram.0.chunks(STEP).map(|bins| bins.iter().copied().map(u64::from).sum()).collect();
    let most = steps.iter().copied().max().unwrap_or(0).max(1);
    let width = STEP as f32 * BIN;
    let last = steps.len().saturating_sub(1);
    for (i, count) in steps.iter().enumerate().filter(|(_, count)| **count > 0) {
        let from = i as f32 * width;
        let to = if i == last { " up".into() } else { format!("-{:.2}", from + width) };
        let bar = "#".repeat((*count * BAR).div_ceil(most) as usize);
        line(format!("             {from:.2}{to:5} {count:5} {bar}"));
    }
}

fn named(line: &mut impl FnMut(String), title: &str, likenesses: &[Likeness], words: impl Fn(&Likeness) -> String) {
    for likeness in likenesses.iter().take(NAMED) {
        line(format!("{title:13}{}, at {:.3}", words(likeness), likeness.distance));
    }
    if likenesses.len() > NAMED {
        line(format!("{:13}and {} more", "", likenesses.len() - NAMED));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{calibrate::Pair, evidence::OwnLimit};

    fn found(limit: f32, at_door: AtDoor) -> Calibration {
        let pair = Pair { one: "Ada".into(), other: "Ben".into(), distance: 0.8 };
        Calibration {
            people: 2,
            pictures: 2,
            limit,
            reason: String::new(),
            stranger_ceiling: None,
            genuine: Vec::new(),
            genuine_distances: Histogram::default(),
            impostor_distances: Histogram::default(),
            pairs: vec![pair],
            at_risk: Vec::new(),
            weak: Vec::new(),
            strangers: Vec::new(),
            at_door,
        }
    }

    #[test]
    fn strangers_do_not_change_a_given_limit_and_it_is_said() {
        let own = OwnLimit { limit: 0.8, interval: [0.79, 0.81], visits: 60 };
        let at_door = AtDoor { visits: 60, own: Some(own), table: Some(0.9), ..AtDoor::default() };
        assert!(text(&found(0.85, at_door.clone()), 0).contains("the door's own comes into force"));
        let said = text(&found(0.85, AtDoor { given: true, ..at_door }), 0);
        assert!(said.contains("recognition.max_distance stands") && !said.contains("into force"), "{said}");
    }

    #[test]
    fn visits_are_shown_though_the_model_has_no_table() {
        let at_door = AtDoor { visits: 3, distances: Histogram(vec![0, 3]), given: true, ..AtDoor::default() };
        let said = text(&found(0.85, at_door), 0);
        assert!(said.contains("3 visits of strangers") && said.contains("no table to judge them by"), "{said}");
    }

    #[test]
    fn a_histogram_of_huge_counts_is_drawn() {
        let distances = Histogram(vec![u32::MAX, u32::MAX, 1, 0, 1]);
        let own = OwnLimit { limit: 0.8, interval: [0.79, 0.81], visits: u32::MAX };
        let at_door = AtDoor { visits: u32::MAX, distances, own: Some(own), ..AtDoor::default() };
        let said = text(&found(0.85, at_door), 0);
        assert!(said.contains(&format!("8589934591 {}\n", "#".repeat(40))) && said.contains("1 #\n"), "{said}");
    }

    #[test]
    fn people_who_lie_close_are_called_at_risk_with_the_cause() {
        let words = "children under 13 and siblings";
        assert!(text(&found(0.85, AtDoor::default()), 0).contains(words));
        assert!(!text(&found(0.75, AtDoor::default()), 0).contains(words));
    }
}
