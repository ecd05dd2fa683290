//! Whether enrolment works: the folder is there, and the thread that reads it gets on.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use jiff::Zoned;

/// One picture, or one access to the folder, takes seconds at most, also on the slowest
/// board.
const SLOW: Duration = Duration::from_secs(60);
/// From then on the service manager is to restart the service: nobody can be removed.
const HUNG: Duration = Duration::from_secs(5 * 60);

/// Shared by who enrols and those who tell how it goes.
#[derive(Debug, Default)]
pub struct Health(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    lost: Option<String>,
    step: Option<Step>,
}

/// What is being done; each one is a sign of life.
#[derive(Debug)]
struct Step {
    what: String,
    since: Instant,
    told: bool,
}

impl Health {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A step begins, and the one before has ended.
    pub(super) fn begin(&self, what: String, now: Instant) {
        self.state().step = Some(Step { what, since: now, told: false });
    }

    /// There is nothing to do.
    pub(super) fn rest(&self) {
        self.state().step = None;
    }

    /// The folder is lost for this reason; None: it is there.
    pub(super) fn set_lost(&self, problem: Option<String>) {
        self.state().lost = problem;
    }

    pub(super) fn lost(&self) -> Option<String> {
        self.state().lost.clone()
    }

    /// What is wrong, in words that stay the same while it lasts; None: nothing.
    pub fn problem(&self, now: Instant) -> Option<String> {
        let state = self.state();
        let hangs = state.step.as_ref().filter(|step| step.lasts(now) >= SLOW).map(|step| step.in_words(now));
        hangs.or_else(|| state.lost.as_ref().map(|problem| format!("enroll folder lost: {problem}")))
    }

    /// Whether the service may be called alive. The log hears once of a step that hangs.
    pub fn is_alive(&self, now: Instant) -> bool {
        let mut state = self.state();
        let Some(step) = state.step.as_mut() else { return true };
        if step.lasts(now) >= SLOW && !step.told {
            step.told = true;
            let limit = HUNG.as_secs() / 60;
            log::error!("enroll folder: {}; nobody can be removed; restart after {limit} min", step.in_words(now));
        }
        step.lasts(now) < HUNG
    }
}

impl Step {
    fn lasts(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.since)
    }

    fn in_words(&self, now: Instant) -> String {
        let began = SystemTime::now().checked_sub(self.lasts(now)).and_then(|began| began.try_into().ok());
        let began = began.map_or_else(String::new, |began: jiff::Timestamp| {
            let local = Zoned::new(began, jiff::tz::TimeZone::system());
            format!(" since {}", local.strftime("%H:%M"))
        });
        format!("{} hangs{began}", self.what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_that_hangs_is_named_and_ends_the_watchdog() {
        let (health, begun) = (Health::default(), Instant::now());
        assert!(health.is_alive(begun) && health.problem(begun).is_none());
        health.begin("reading Ada/1.jpg".into(), begun);
        assert!(health.problem(begun + SLOW / 2).is_none(), "a large picture on a slow board");
        let problem = health.problem(begun + SLOW).unwrap();
        assert!(problem.starts_with("reading Ada/1.jpg hangs since "), "{problem}");
        assert!(health.is_alive(begun + SLOW) && health.is_alive(begun + HUNG / 2));
        assert!(!health.is_alive(begun + HUNG));
        health.begin("reading Ada/2.jpg".into(), begun + HUNG);
        assert!(health.is_alive(begun + HUNG + SLOW / 2), "it went on");
        health.rest();
        assert!(health.is_alive(begun + HUNG * 9), "rest is no fault");
    }

    #[test]
    fn a_lost_folder_is_a_problem_and_no_end() {
        let health = Health::default();
        health.set_lost(Some("not there".into()));
        assert_eq!(health.problem(Instant::now()).unwrap(), "enroll folder lost: not there");
        assert!(health.is_alive(Instant::now()));
    }
}
