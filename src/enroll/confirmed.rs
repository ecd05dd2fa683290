//! A picture's owner confirms by the file's name that it shows the same person as the others:
//! `beard.confirmed.jpg`. The folder stays the truth, also about this.

use std::path::Path;

const MARK: &str = ".confirmed";

/// Whether the file of this name is confirmed.
pub(super) fn is(key: &str) -> bool {
    without_mark(stem(key)).is_some()
}

/// A file's name without its ending, the mark taken off; None: it is not marked.
pub(super) fn without_mark(stem: &str) -> Option<&str> {
    let (name, mark) = stem.split_at_checked(stem.len().checked_sub(MARK.len())?)?;
    (!name.is_empty() && mark.eq_ignore_ascii_case(MARK)).then_some(name)
}

/// What the file is called once it is confirmed.
pub(super) fn name_of(key: &str) -> String {
    let ending = Path::new(key).extension().unwrap_or_default();
    format!("{}{MARK}.{}", stem(key), ending.to_string_lossy())
}

fn stem(key: &str) -> &str {
    Path::new(key).file_stem().and_then(|stem| stem.to_str()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mark_stands_before_the_ending() {
        for key in ["Ada/beard.confirmed.jpg", "Ada.confirmed.png", "Ada/a.Confirmed.JPG", "Ada/é.confirmed.jpg"] {
            assert!(is(key), "{key}");
        }
        for key in
            ["Ada/confirmed.jpg", "Ada/.confirmed.jpg", "Ada/a.confirmed", "Ada.confirmed/a.jpg", "é-nfirmed.jpg"]
        {
            assert!(!is(key), "{key}");
        }
        assert_eq!(name_of("Ada/beard.jpg"), "beard.confirmed.jpg");
        assert!(is(&name_of("Ada/a.b.JPG")));
    }
}
