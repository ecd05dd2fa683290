//! Answers as people (and, with --json, programs) read them.

use std::{
    io::{self, Write},
    path::Path,
    time::Duration,
};

use jiff::{Timestamp, Zoned, civil, tz::TimeZone};
use serde_json::{Value, json};

use super::{CommandError, exit};
use crate::{
    api::{Enrolled, Failure, IdentifiedFace, Looked, PersonSummary, Status, UnknownFace, Verdict},
    clock::span_in_words,
    config::units::parse_duration,
    control::ControlError,
    error::ErrorKind,
    store::{Event, EventKind},
    telemetry::printable,
    threshold::Threshold,
};

/// Prints; a reader who has gone away (`| head`) ends it quietly. False when nobody reads any more.
pub(super) fn emit(text: &str) -> bool {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).is_ok()
}

pub(super) fn emit_json(value: &Value) -> bool {
    emit(&format!("{value}\n"))
}

/// A moment in local time.
pub(super) fn local_time(at_ms: i64) -> String {
    let time = Timestamp::from_millisecond(at_ms).map(|t| t.to_zoned(TimeZone::system()));
    time.map_or_else(|_| "?".into(), |time| time.strftime("%Y-%m-%d %H:%M:%S").to_string())
}

/// Reads `2h`, `2026-11-01` or `2026-11-01 08:00`; milliseconds since 1970.
pub(super) fn parse_since(text: &str) -> Result<i64, String> {
    if let Ok(ago) = parse_duration(text) {
        return Ok(Zoned::now().timestamp().as_millisecond() - i64::try_from(ago.as_millis()).unwrap_or(i64::MAX));
    }
    let local = text
        .parse::<civil::DateTime>()
        .or_else(|_| text.parse::<civil::Date>().map(|date| date.at(0, 0, 0, 0)))
        .map_err(|_| {
            format!("--since {text}: give a duration (2h, 7d), a date (2026-11-01) or a time (\"2026-11-01 08:00\")")
        })?;
    let zoned = local.to_zoned(TimeZone::system()).map_err(|error| format!("--since {text}: {error}"))?;
    Ok(zoned.timestamp().as_millisecond())
}

/// Columns as wide as their widest cell.
pub(super) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        format!("{}\n", cells.collect::<Vec<_>>().join("  ").trim_end())
    };
    rows.iter().map(line).collect()
}

/// With the threshold that the models give, if they are there.
pub(super) fn checked(path: &Path, warnings: &[String], threshold: Option<&Threshold>, json: bool) {
    let threshold = threshold.map(ToString::to_string);
    match json {
        true => {
            emit_json(&json!({ "configuration": path, "ok": true, "warnings": warnings, "threshold": threshold }));
        }
        false => {
            warnings.iter().for_each(|warning| eprintln!("{}: warning: {warning}", path.display()));
            let threshold = threshold.map_or_else(String::new, |threshold| format!("{threshold}\n"));
            emit(&format!("{}: ok\n{threshold}", path.display()));
        }
    };
}

pub(super) fn people(people: &[PersonSummary], json: bool) -> Result<u8, CommandError> {
    if json {
        emit_json(&json!(people));
        return Ok(exit::DONE);
    }
    if people.is_empty() {
        emit("nobody is enrolled\n");
        return Ok(exit::DONE);
    }
    let heading = ["name", "pictures", "smallest face", "enrolled", "last seen"].map(str::to_owned).to_vec();
    let row = |person: &PersonSummary| {
        vec![
            printable(&person.name),
            person.pictures.to_string(),
            format!("{} px", person.smallest_face_px),
            local_time(person.enrolled_at_ms),
            person.last_seen_ms.map_or_else(|| "never".into(), local_time),
        ]
    };
    let rows: Vec<_> = std::iter::once(heading).chain(people.iter().map(row)).collect();
    let advice = people.iter().flat_map(|person| person.advice.iter().map(|advice| (&person.name, advice)));
    let advice: String = advice.map(|(name, advice)| format!("{}: {advice}\n", printable(name))).collect();
    emit(&(table(&rows) + &advice));
    Ok(exit::DONE)
}

pub(super) fn unknown(faces: &[UnknownFace], json: bool) -> Result<u8, CommandError> {
    if json {
        emit_json(&json!(faces));
        return Ok(exit::DONE);
    }
    let mut rows = vec![["NUMBER", "VISITS", "LAST", "PICTURES", "NEAREST"].map(str::to_owned).to_vec()];
    rows.extend(faces.iter().map(|face| {
        let nearest = face.nearest.as_deref().zip(face.distance);
        vec![
            face.id.to_string(),
            face.visits.to_string(),
            local_time(face.last_ms),
            face.pictures.to_string(),
            nearest.map_or_else(String::new, |(name, distance)| format!("{} at {distance:.2}", printable(name))),
        ]
    }));
    emit(&table(&rows));
    Ok(exit::DONE)
}

pub(super) fn looked(looked: &Looked, json: bool) -> Result<u8, CommandError> {
    let line = |verdict: &Verdict| match verdict {
        Verdict::Enrolled(picture) => format!("{} enrolled with {}\n", printable(&looked.name), printable(picture)),
        Verdict::Refused(reason) => format!("refused: {reason}\n"),
    };
    match json {
        true => emit_json(&json!(looked)),
        false => emit(&looked.verdicts.iter().map(line).collect::<String>()),
    };
    let enrolled = looked.verdicts.iter().any(|verdict| matches!(verdict, Verdict::Enrolled(_)));
    Ok(if enrolled { exit::DONE } else { exit::NO })
}

pub(super) fn forgotten(json: bool) -> Result<u8, CommandError> {
    match json {
        true => emit_json(&json!({ "forgotten": true })),
        false => emit("forgotten\n"),
    };
    Ok(exit::DONE)
}

pub(super) fn status(status: &Status, json: bool) -> Result<u8, CommandError> {
    if json {
        emit_json(&json!(status));
        return Ok(exit::DONE);
    }
    let Status { version, pid, uptime_s, mode, camera, camera_ok, relay, .. } = status;
    let relay_state = match &status.relay_problem {
        Some(problem) => format!("STUCK: {}", printable(problem)),
        None if status.relay_active => "ACTIVE".into(),
        None => "inactive".into(),
    };
    let rate = status.false_match_rate.map_or("false-match rate not measured for so loose a distance".into(), |rate| {
        format!("false-match rate {rate:.1e} a visit")
    });
    let basis = status.limit_basis.as_ref().map_or_else(String::new, |basis| format!("; {basis}"));
    let enroll_problem = status.enroll_problem.as_ref().map_or_else(String::new, |problem| format!("; {problem}"));
    let rows = [
        ("facelatch", format!("{version}, process {pid}, up for {:?}, mode {mode}", Duration::from_secs(*uptime_s))),
        ("camera", format!("{}{camera}", if *camera_ok { "" } else { "NOT READY: " })),
        ("relay", format!("{relay}, {relay_state}")),
        ("embedder", format!("{} as {}", status.model, status.precision)),
        ("match", format!("nearer than {:.3} ({rate}{basis})", status.max_distance)),
        ("people", format!("{} with {} pictures{enroll_problem}", status.people, status.templates)),
        (
            "counted",
            status.counters.iter().map(|(name, count)| format!("{name} {count}")).collect::<Vec<_>>().join(", "),
        ),
    ];
    let problems = status.problems.iter().map(|problem| ("PROBLEM", printable(problem)));
    let advice = status.advice.iter().map(|advice| ("ADVICE", printable(advice)));
    let rows = rows.into_iter().chain(problems).chain(advice);
    emit(&table(&rows.map(|(name, text)| vec![name.to_owned(), text]).collect::<Vec<_>>()));
    Ok(exit::DONE)
}

pub(super) fn opened(json: bool) -> Result<u8, CommandError> {
    match json {
        true => emit_json(&json!({ "opened": true })),
        false => emit("opened\n"),
    };
    Ok(exit::DONE)
}

pub(super) fn enrolled(enrolled: &Enrolled, json: bool) -> Result<u8, CommandError> {
    let Enrolled { name, picture, face_px, advice } = enrolled;
    if json {
        let mut value = json!(enrolled);
        value["answer"] = json!("enrolled");
        emit_json(&value);
    } else {
        let advice: String = advice.iter().map(|advice| format!("{advice}\n")).collect();
        let (name, picture) = (printable(name), printable(picture));
        emit(&format!("{name} enrolled as {picture} (face of {face_px} px)\n{advice}"));
    }
    Ok(exit::DONE)
}

/// That a picture was refused is an answer; any other trouble is none.
pub(super) fn not_enrolled(error: CommandError, json: bool) -> Result<u8, CommandError> {
    let CommandError::Control(ControlError::Failed(Failure { problem, kind: ErrorKind::Refused })) = error else {
        return Err(error);
    };
    match json {
        true => emit_json(&json!({ "answer": "refused", "reason": problem })),
        false => emit(&format!("refused: {problem}\n")),
    };
    Ok(exit::NO)
}

pub(super) fn identified(faces: &[IdentifiedFace], json: bool) -> Result<u8, CommandError> {
    match json {
        true => emit_json(&json!(faces)),
        false if faces.is_empty() => emit("no face found (a face on its side or head is not searched for)\n"),
        false => emit(&faces.iter().map(|face| face_line(face) + "\n").collect::<String>()),
    };
    // The faces come largest first.
    Ok(if faces.first().is_some_and(|face| face.person.is_some()) { exit::DONE } else { exit::NO })
}

fn face_line(face: &IdentifiedFace) -> String {
    let [x1, y1, x2, y2] = face.bounding_box;
    let place = format!("face of {:.0} px at {:.0},{:.0}", (x2 - x1).max(y2 - y1), x1, y1);
    let runner_up = match (&face.runner_up, face.runner_up_distance) {
        (Some(name), Some(distance)) => format!("; next {name} at {distance:.2}"),
        _ => String::new(),
    };
    match (&face.person, &face.why_not, face.distance) {
        (Some(name), _, Some(distance)) => format!("{name}: {place}, distance {distance:.2}{runner_up}"),
        (_, Some(why_not), _) => format!("unknown: {place}; {why_not}{runner_up}"),
        _ => format!("unknown: {place}"),
    }
}

/// Not [`exit::DONE`] when nobody reads any more.
pub(super) fn events(events: &[Event], json: bool) -> u8 {
    let line = |event: &Event| if json { format!("{}\n", json!(event)) } else { event_line(event) + "\n" };
    if emit(&events.iter().map(line).collect::<String>()) { exit::DONE } else { exit::NO }
}

/// An event as a sentence.
pub(super) fn event_line(event: &Event) -> String {
    let what = match &event.kind {
        EventKind::Started => "facelatch started".into(),
        EventKind::Stopped => "facelatch stopped".into(),
        EventKind::Granted { name, distance, frames, latency_ms, pulsed, .. } => {
            let how = if *pulsed { "let in" } else { "counted in" };
            format!("{} {how} (distance {distance:.2}, {frames} frames, {latency_ms} ms)", printable(name))
        }
        EventKind::Denied { reason, frames, .. } => format!("nobody let in: {} ({frames} frames)", printable(reason)),
        EventKind::Opened { by } => format!("opened by hand: {}", printable(by)),
        EventKind::Enrolled { name, picture, .. } => {
            format!("{} enrolled with {}", printable(name), printable(picture))
        }
        EventKind::Refused { picture, reason, .. } => {
            format!("picture {} refused: {}", printable(picture), printable(reason))
        }
        EventKind::Forgotten { name, picture, .. } => {
            format!("{}: picture {} forgotten", printable(name), printable(picture))
        }
        EventKind::Renamed { from, to, .. } => format!("{} is called {} now", printable(from), printable(to)),
        EventKind::CameraLost { problem } => format!("camera lost: {}", printable(problem)),
        EventKind::FolderLost { problem } => format!("enroll folder lost: {}", printable(problem)),
        EventKind::FolderBack => "enroll folder back".into(),
        EventKind::CameraBack { after } => format!("camera back after {after:.1?}"),
        EventKind::ClockSet { by_ms } => {
            format!("the clock was set {} by {}", if *by_ms > 0 { "forward" } else { "back" }, span_in_words(*by_ms))
        }
        EventKind::ShutOut { reason, .. } => printable(reason),
        EventKind::RelayStuck { problem } => format!("relay stuck: {}", printable(problem)),
        EventKind::RelayFreed { after } => format!("relay released after {after:.1?}"),
        EventKind::DeniedMore { count, over } => {
            format!("nobody let in: {count} more times within {over:.0?}, not listed one by one")
        }
        EventKind::StoreDamaged { problem, .. } => printable(problem),
    };
    format!("{}  {what}", local_time(event.at_ms))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gallery::PersonId;

    #[test]
    fn an_event_reads_as_a_sentence() {
        let event = |kind| Event { id: 1, at_ms: 0, boot_id: String::new(), since_boot: Duration::ZERO, kind };
        let granted = event_line(&event(EventKind::Granted {
            person: PersonId(1),
            name: "Ada\nEve".into(),
            distance: 0.214,
            frames: 3,
            latency_ms: 180,
            pulsed: true,
        }));
        assert!(granted.ends_with("  Ada\\nEve let in (distance 0.21, 3 frames, 180 ms)"), "{granted}");
        let denied = EventKind::Denied { reason: "2 faces in view".into(), nearest: None, distance: None, frames: 9 };
        assert!(event_line(&event(denied)).ends_with("nobody let in: 2 faces in view (9 frames)"));
        assert_eq!(
            event_line(&event(EventKind::CameraBack { after: Duration::from_millis(1500) }))
                .split_once("  ")
                .unwrap()
                .1,
            "camera back after 1.5s"
        );
    }

    #[test]
    fn moments_are_durations_or_local_times() {
        let now = Zoned::now().timestamp().as_millisecond();
        assert!((parse_since("2h").unwrap() - (now - 7_200_000)).abs() < 5_000);
        let day = parse_since("2026-11-01").unwrap();
        assert_eq!(parse_since("2026-11-01 08:00").unwrap() - day, 8 * 3_600_000);
        assert_eq!(local_time(day), "2026-11-01 00:00:00");
        assert!(parse_since("yesterday").unwrap_err().contains("give a duration"));
    }

    #[test]
    fn columns_line_up() {
        let row = |a: &str, b: &str| vec![a.to_owned(), b.to_owned()];
        assert_eq!(table(&[row("name", "x"), row("Zoë Ada", "y")]), "name     x\nZoë Ada  y\n");
    }
}
