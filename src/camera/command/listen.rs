//! What a program says on its error output: logged at debug, the last of it kept to explain the program's end.

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
pub(super) struct LastWords {
    lines: Arc<Mutex<VecDeque<String>>>,
    thread: JoinHandle<()>,
}

impl LastWords {
    /// Reads the error output until its end, so that the program never has to wait for a reader of it.
    pub(super) fn listen(errors: impl Read + Send + 'static, program: String) -> LastWords {
        let lines = Arc::new(Mutex::new(VecDeque::new()));
        let kept = Arc::clone(&lines);
        let keep = move |line: String| {
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
    pub(super) fn all(&self) -> String {
        let until = Instant::now() + LATEST;
        while !self.thread.is_finished() && Instant::now() < until {
            thread::sleep(Duration::from_millis(5));
        }
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().map(String::as_str).collect::<Vec<_>>().join(" / ")
    }
}

/// Lines end with a newline or, as ffmpeg's progress does, with a carriage return; they need not be UTF-8.
fn each_line(mut from: impl Read, mut say: impl FnMut(String)) {
    let (mut chunk, mut line) = ([0; 1024], Vec::new());
    let mut finish = |line: &mut Vec<u8>| {
        if !line.is_empty() {
            say(printable(&String::from_utf8_lossy(line)));
        }
        line.clear();
    };
    loop {
        let count = match from.read(&mut chunk) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(_) => break,
        };
        for &byte in &chunk[..count] {
            match byte {
                b'\n' | b'\r' => finish(&mut line),
                _ if line.len() < LONGEST_LINE => line.push(byte),
                _ => {}
            }
        }
    }
    finish(&mut line);
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
        let words = LastWords::listen(&b"1\n2\n3\n4\n5\n6\n7"[..], "program".into());
        assert_eq!(words.all(), "3 / 4 / 5 / 6 / 7");
    }
}
