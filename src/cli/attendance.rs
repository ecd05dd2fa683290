//! `facelatch attendance`: who was there, as a table, CSV or JSON.

use std::fmt::Write;

use jiff::civil::Date;
use serde_json::json;

use super::{
    CommandError, answer,
    arguments::{AttendanceArguments, Format},
    exit, print,
};
use crate::{
    api::ask,
    attendance::{Attendance, Day, LocalTime},
    config::Config,
    telemetry::printable,
};

/// Longest name printed, in characters: a line of it fits into 80 columns.
const LONGEST_NAME: usize = 78;

pub(super) fn run(config: Config, question: &AttendanceArguments, json: bool) -> Result<u8, CommandError> {
    let date = |option: &str, text: &Option<String>| text.as_ref().map(|text| parse_date(option, text)).transpose();
    let (from, to) = (date("--from", &question.from)?, date("--to", &question.to)?);
    let attendance = answer(config, ask::Attendance { from, to, person: question.person.clone() })?;
    match question.format {
        _ if json => print::emit_json(&json!(attendance)),
        Format::Json => print::emit_json(&json!(attendance)),
        Format::Csv => print::emit(&attendance.csv()),
        Format::Table => print::emit(&table(&attendance)),
    };
    if question.format == Format::Csv && !json {
        // Not among the rows, which a program reads.
        undated(&attendance).iter().for_each(|line| eprintln!("facelatch: {line}"));
    }
    Ok(exit::DONE)
}

fn parse_date(option: &str, text: &str) -> Result<Date, CommandError> {
    let numbers: Vec<&str> = text.trim().split('-').collect();
    let written_so = numbers.len() == 3 && text.trim().len() == 10 && numbers[0].len() == 4;
    match text.trim().parse::<Date>() {
        Ok(date) if written_so => Ok(date),
        Err(_) if written_so && numbers.iter().all(|number| number.bytes().all(|byte| byte.is_ascii_digit())) => {
            Err(CommandError::Usage(format!("{option} {text}: there is no such day in the calendar")))
        }
        _ => Err(CommandError::Usage(format!("{option} {text}: give a date as YEAR-MONTH-DAY, such as 2026-11-01"))),
    }
}

/// A block for each person, their total below it.
fn table(attendance: &Attendance) -> String {
    let mut out = format!("{} to {}\n", attendance.from, attendance.to);
    if attendance.days.is_empty() {
        out.push_str("nobody was seen\n");
    }
    for days in attendance.days.chunk_by(|a, b| a.person == b.person) {
        let name = printable(&days[0].person);
        let short: String = name.chars().take(LONGEST_NAME).collect();
        let cells = |cells: [String; 5]| cells.to_vec();
        let mut rows = vec![cells(["day", "first in", "last out", "visits", "present"].map(str::to_owned))];
        rows.extend(days.iter().map(|day| {
            let (first_in, last_out) = (clock(&day.first_in, day), clock(&day.last_out, day));
            cells([
                day.date.strftime("%Y-%m-%d %a").to_string(),
                first_in,
                last_out,
                format!("{:>6}", day.visits),
                day.present_s.map_or_else(|| format!("{:>7}", "-"), hours),
            ])
        }));
        rows.push(total(days));
        // Writing to a string cannot fail.
        write!(out, "\n{short}\n").expect("a string takes everything");
        for line in print::table(&rows).lines() {
            writeln!(out, "  {line}").expect("a string takes everything");
        }
    }
    for line in undated(attendance) {
        writeln!(out, "\n{line}").expect("a string takes everything");
    }
    out
}

/// Hours and minutes of a time; `+1` when that is on the calendar's next day.
fn clock(time: &Option<LocalTime>, day: &Day) -> String {
    let Some(time) = time else { return "-".into() };
    let minutes = time.clock().get(..5).unwrap_or_default();
    let next_day = time.date() != day.date.to_string();
    format!("{minutes}{}", if next_day { "+1" } else { "" })
}

fn hours(seconds: i64) -> String {
    format!("{:>4}:{:02}", seconds / 3600, seconds / 60 % 60)
}

fn total(days: &[Day]) -> Vec<String> {
    let known: Vec<i64> = days.iter().filter_map(|day| day.present_s).collect();
    let (visits, present): (u32, i64) = (days.iter().map(|day| day.visits).sum(), known.iter().sum());
    let unknown =
        if known.len() == days.len() { String::new() } else { format!("{} unknown", days.len() - known.len()) };
    let present = if known.is_empty() { format!("{:>7}", "-") } else { hours(present) };
    vec![
        if days.len() == 1 { "1 day".into() } else { format!("{} days", days.len()) },
        unknown,
        String::new(),
        format!("{visits:>6}"),
        present,
    ]
}

/// What cannot be shown on any day.
fn undated(attendance: &Attendance) -> Vec<String> {
    let line = |undated: &crate::attendance::Undated| {
        format!(
            "{}: {} more visits, when is not known: the clock was not set (see docs/attendance.md)",
            printable(&undated.person),
            undated.visits
        )
    };
    attendance.undated.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_that_cannot_be_are_refused_in_words() {
        assert_eq!(parse_date("--from", "2026-11-01").unwrap().to_string(), "2026-11-01");
        for (text, words) in [
            ("2026-02-30", "no such day"),
            ("2026-13-01", "no such day"),
            ("1.11.2026", "such as 2026-11-01"),
            ("2026-1-1", "such as 2026-11-01"),
            ("2026-11-01T08:00", "such as 2026-11-01"),
            ("yesterday", "such as 2026-11-01"),
            ("", "such as 2026-11-01"),
        ] {
            let error = parse_date("--from", text).unwrap_err();
            assert!(error.to_string().contains(words) && error.exit_code() == exit::USAGE, "{text}: {error}");
        }
    }

    #[test]
    fn the_table_fits_into_80_columns_and_adds_up() {
        let time = |text: &str| Some(serde_json::from_value::<LocalTime>(json!(text)).unwrap());
        let day = |date: &str, first_in, last_out, visits, present_s| Day {
            date: date.parse().unwrap(),
            person: "Zoë \u{1b} Lovelace".into(),
            first_in,
            last_out,
            visits,
            present_s,
        };
        let monday =
            day("2026-11-02", time("2026-11-02T08:02:11+01:00"), time("2026-11-03T00:30:59+01:00"), 4, Some(59_328));
        let tuesday = day("2026-11-03", time("2026-11-03T09:00:00+01:00"), None, 1, None);
        let mut long = day("2026-11-03", None, None, 1, None);
        long.person = "x".repeat(200);
        let attendance = Attendance {
            from: "2026-11-01".parse().unwrap(),
            to: "2026-11-30".parse().unwrap(),
            days: vec![monday, tuesday, long],
            undated: Vec::new(),
        };
        let text = table(&attendance);
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        let lines: Vec<&str> = text.lines().take(7).collect();
        assert_eq!(
            lines,
            [
                "2026-11-01 to 2026-11-30",
                "",
                "Zoë \\u{1b} Lovelace",
                "  day             first in   last out  visits  present",
                "  2026-11-02 Mon  08:02      00:30+1        4    16:28",
                "  2026-11-03 Tue  09:00      -              1        -",
                "  2 days          1 unknown                 5    16:28",
            ]
        );
    }
}
