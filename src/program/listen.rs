//! What a program says: logged at debug, the last of it kept to explain the program's end.

use std::{
    collections::VecDeque,
    io::{ErrorKind, Read},
    sync::{Arc, Mutex, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use crate::telemetry::printable;

const LINES_KEPT: usize = 5;
/// A longer line is cut, in bytes: a program that never ends its line must not fill the memory in the course of a year.
const LONGEST_LINE: usize = 500;
/// The last words of a program that has ended are on their way for no longer than this, unless a child of it goes on.
const LATEST: Duration = Duration::from_millis(200);

/// The thread that listens, and what it keeps.
pub(crate) struct LastWords {
    lines: Arc<Mutex<VecDeque<String>>>,
    thread: JoinHandle<()>,
}

impl LastWords {
    /// Reads the error output until its end, so that the program never has to wait for a reader of it. `hide` takes out of a line
    /// what must not be kept.
    pub(crate) fn listen(
        errors: impl Read + Send + 'static,
        program: String,
        hide: impl Fn(&str) -> String + Send + 'static,
    ) -> LastWords {
        let lines = Arc::new(Mutex::new(VecDeque::new()));
        let kept = Arc::clone(&lines);
        let keep = move |line: String| {
            let line = hide(&line);
            log::debug!("{program}: {line}");
            let mut lines = kept.lock().unwrap_or_else(PoisonError::into_inner);
            lines.push_back(line);
            if lines.len() > LINES_KEPT {
                lines.pop_front();
            }
        };
        LastWords { lines, thread: thread::spawn(move || each_line(errors, keep)) }
    }

    /// The last lines of a program that has ended.
    pub(crate) fn all(&self) -> String {
        let until = Instant::now() + LATEST;
        while !self.thread.is_finished() && Instant::now() < until {
            thread::sleep(Duration::from_millis(5));
        }
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().map(String::as_str).collect::<Vec<_>>().join(" / ")
    }
}

fn each_line(mut from: impl Read, mut say: impl FnMut(String)) {
    let (mut chunk, mut lines) = ([0; 1024], Lines::default());
    loop {
        match from.read(&mut chunk) {
            Ok(0) => break,
            Ok(count) => lines.push(&chunk[..count], &mut say),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    lines.finish(&mut say);
}

/// Cuts bytes into lines, which end with a newline or, as ffmpeg's progress does, with a carriage return; they need not be UTF-8.
#[derive(Default)]
pub(crate) struct Lines(Vec<u8>);

impl Lines {
    pub(crate) fn push(&mut self, bytes: &[u8], mut say: impl FnMut(String)) {
        for &byte in bytes {
            match byte {
                b'\n' | b'\r' => self.finish(&mut say),
                _ if self.0.len() < LONGEST_LINE => self.0.push(byte),
                _ => {}
            }
        }
    }

    /// What is left at the end is a line too.
    pub(crate) fn finish(&mut self, mut say: impl FnMut(String)) {
        if !self.0.is_empty() {
            say(printable(&String::from_utf8_lossy(&self.0)));
        }
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(bytes: &[u8]) -> Vec<String> {
        let mut lines = Vec::new();
        each_line(bytes, |line| lines.push(line));
        lines
    }

    #[test]
    fn progress_that_only_returns_the_carriage_is_told_line_by_line() {
        assert_eq!(lines(b"frame=1\rframe=2\r\nno newline"), ["frame=1", "frame=2", "no newline"]);
    }

    #[test]
    fn a_line_without_end_takes_no_more_memory_than_the_longest() {
        assert_eq!(lines(&[b'x'; 100_000]), ["x".repeat(LONGEST_LINE)]);
    }

    #[test]
    fn bytes_that_are_no_text_do_not_end_the_listening() {
        let lines = lines(b"caf\xe9\n\x1b[31mred\nlast");
        assert_eq!((lines.len(), lines[2].as_str()), (3, "last"));
        assert!(!lines[1].contains('\x1b'), "control characters are escaped");
    }

    #[test]
    fn only_the_last_lines_are_kept() {
        let words = LastWords::listen(&b"1\n2\n3\n4\n5\n6\n7"[..], "program".into(), str::to_owned);
        assert_eq!(words.all(), "3 / 4 / 5 / 6 / 7");
    }
}
