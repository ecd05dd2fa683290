//! How many denials are listed: a screen that shows strangers to the camera makes a
//! hundred thousand a day.

use std::time::{Duration, Instant};

/// Denials listed one by one in each [`WINDOW`].
pub(super) const LISTED: u32 = 12;
pub(super) const WINDOW: Duration = Duration::from_secs(60);

/// Counts the denials of a minute, from its first one on.
#[derive(Default)]
pub(super) struct Denials {
    since: Option<Instant>,
    count: u32,
}

impl Denials {
    /// Another denial; whether it is listed. Ask [`Denials::over`] before.
    pub(super) fn listed(&mut self, now: Instant) -> bool {
        self.since.get_or_insert(now);
        self.count = self.count.saturating_add(1);
        self.count <= LISTED
    }

    /// When the minute is over, or has to be: how many more there were than are listed,
    /// and in what time.
    pub(super) fn over(&mut self, now: Instant, at_once: bool) -> Option<(u32, Duration)> {
        let passed = now.saturating_duration_since(self.since?);
        if passed < WINDOW && !at_once {
            return None;
        }
        let more = self.count.saturating_sub(LISTED);
        *self = Denials::default();
        (more > 0).then_some((more, passed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn denials_beyond_some_a_minute_are_counted_in_one() {
        let (begin, mut denials) = (Instant::now(), Denials::default());
        let (mut listed, mut more) = (0, Vec::new());
        // A sheet of twelve faces every nine seconds, for an hour.
        for sheet in 0..400 {
            let now = begin + Duration::from_secs(9 * sheet);
            more.extend(denials.over(now, false));
            listed += (0..12).filter(|_| denials.listed(now)).count();
        }
        more.extend(denials.over(begin + Duration::from_secs(3600), true));
        let counted: u32 = more.iter().map(|(more, _)| more).sum();
        assert_eq!(listed + counted as usize, 12 * 400, "none is lost");
        assert!(listed + more.len() <= 60 * (LISTED as usize + 1), "{listed} and {}", more.len());
    }

    #[test]
    fn a_quiet_door_lists_every_denial() {
        let (begin, mut denials) = (Instant::now(), Denials::default());
        for visit in 0..100 {
            let now = begin + Duration::from_secs(6 * visit);
            assert_eq!(denials.over(now, false), None);
            assert!(denials.listed(now));
        }
        assert_eq!(denials.over(begin + Duration::from_secs(601), true), None);
    }
}
