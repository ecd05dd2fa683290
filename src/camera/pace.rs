//! How old the frames of a pipe are, from when they come.
//!
//! A pipe carries no times. A stream that stalled delivers its backlog afterwards, and each
//! frame of it would pass for a new one. The camera's own rate tells: frame n was taken n
//! periods after the first, and what comes later than that has waited on the way. A backlog is
//! worked off faster than the camera's rate; what goes on at that rate after a pause is no
//! backlog, and counts as new again.
//!
//! A program may keep frames back before it writes its first, as ffmpeg does while it probes.
//! So the first frames count only when they come at the configured rate, or steadily.

use std::time::{Duration, Instant};

/// Older frames are of a backlog.
const LATEST: f64 = 0.5;
/// A longer pause is a stall; sources that deliver in groups make shorter ones.
const STALL: f64 = 1.25;
/// The rate is measured over so long, in seconds.
const WINDOW: f64 = 1.0;
/// A shorter share of the period than this is faster than the camera.
const FASTER: f64 = 0.9;
/// Rates that differ by less are the same.
const SAME_RATE: f64 = 0.15;
/// The period is a mean over about as many seconds.
const MEMORY: f64 = 20.0;

/// See the module. Times are in seconds.
#[derive(Debug)]
pub(super) struct Pace {
    /// Time from one frame to the next: configured, then learnt.
    period: f64,
    learnt: bool,
    /// What the period is the mean of.
    seconds: f64,
    frames: f64,
    /// How old the last frame was when it came.
    lag: f64,
    last: Option<Instant>,
    window: Window,
    /// The period of the window before.
    before: Option<f64>,
}

/// What came since the rate was last measured.
#[derive(Debug, Default)]
struct Window {
    seconds: f64,
    frames: f64,
    least_lag: f64,
    most_lag: f64,
}

impl Window {
    fn new(lag: f64) -> Window {
        Window { least_lag: lag, most_lag: lag, ..Window::default() }
    }

    fn period(&self) -> f64 {
        self.seconds / self.frames
    }
}

impl Pace {
    /// `fps` is the rate that the configuration names.
    pub(super) fn new(fps: u32) -> Pace {
        Pace {
            period: 1.0 / f64::from(fps.max(1)),
            learnt: false,
            seconds: 0.0,
            frames: 0.0,
            lag: 0.0,
            last: None,
            window: Window::default(),
            before: None,
        }
    }

    /// A frame came. How old it is; None: it is of a backlog, or nothing is known yet.
    pub(super) fn arrived(&mut self, now: Instant) -> Option<Duration> {
        let last = self.last.replace(now)?;
        let waited = now.saturating_duration_since(last).as_secs_f64();
        self.lag = if self.learnt { (self.lag + waited - self.period).max(0.0) } else { 0.0 };
        if self.is_stall(waited) {
            if self.lag > 2.0 {
                log::info!("camera: no frame for {waited:.1} s; its backlog is dropped");
            }
            (self.window, self.before) = (Window::new(self.lag), None);
        } else {
            self.count(waited);
        }
        let new = self.learnt && self.lag <= LATEST;
        new.then(|| Duration::from_secs_f64(self.lag))
    }

    /// A stall belongs to no window: frames behind it are measured by themselves.
    fn is_stall(&self, waited: f64) -> bool {
        let usual = match (self.learnt, self.window.frames > 0.0) {
            (true, _) => self.period,
            (false, true) => self.window.period() * 2.0,
            (false, false) => return false,
        };
        waited - usual > STALL
    }

    fn count(&mut self, waited: f64) {
        let window = &mut self.window;
        window.seconds += waited;
        window.frames += 1.0;
        window.least_lag = window.least_lag.min(self.lag);
        window.most_lag = window.most_lag.max(self.lag);
        // It ends at a frame that had to be waited for: a group of frames lies all within.
        let waited_for = waited * 2.0 >= window.period();
        if window.seconds >= WINDOW && window.frames >= 2.0 && waited_for {
            let window = std::mem::take(window);
            self.measure(&window);
            self.window = Window::new(self.lag);
        }
    }

    fn measure(&mut self, window: &Window) {
        let period = window.period();
        let is_faster = |period: f64| period < FASTER * self.period;
        let before = self.before.replace(period);
        let steady = before.is_some_and(|before| same(before, period));
        let faster = is_faster(period);
        if !self.learnt {
            self.learnt = steady || !faster;
            if self.learnt {
                if faster {
                    let (come, fps) = (1.0 / period, 1.0 / self.period);
                    log::info!("camera: {come:.0} frames come each second; set camera.fps, which is {fps:.0}");
                }
                self.learn(window);
            }
            return;
        }
        let late = window.most_lag > LATEST;
        // A hiccup makes one window of a backlog slow, but not two.
        if late && (faster || before.is_none_or(is_faster)) {
            return;
        }
        // At the camera's own rate no backlog grows less: it paused, or it is slower now.
        self.lag -= window.least_lag;
        if !late || steady && period * FASTER > self.period {
            self.learn(window);
        }
    }

    fn learn(&mut self, window: &Window) {
        if !same(self.period, window.period()) {
            (self.seconds, self.frames) = (0.0, 0.0);
        }
        self.seconds += window.seconds;
        self.frames += window.frames;
        self.period = self.seconds / self.frames;
        if self.seconds > MEMORY {
            (self.seconds, self.frames) = (self.seconds / 2.0, self.frames / 2.0);
        }
    }
}

fn same(one: f64, other: f64) -> bool {
    (one / other - 1.0).abs() < SAME_RATE
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// When a frame was taken and when it came, in seconds.
    type Arrival = (f64, f64);

    /// A camera without delay.
    fn live(fps: f64, from: f64, until: f64) -> Vec<Arrival> {
        let count = ((until - from) * fps) as usize;
        (0..count).map(|i| from + i as f64 / fps).map(|at| (at, at)).collect()
    }

    /// Nothing gets through from `stall` until `resume`, then at most `drain` frames per second.
    fn stalled(frames: &[Arrival], stall: f64, resume: f64, drain: f64) -> Vec<Arrival> {
        let mut free = 0.0f64;
        let delay = |&(taken, came): &Arrival| {
            let came = if taken < stall { came } else { came.max(resume).max(free) };
            free = came + 1.0 / drain;
            (taken, came)
        };
        frames.iter().map(delay).collect()
    }

    /// For each frame that counts: when it came, how old it was, how old it was taken for.
    fn accepted(fps: u32, frames: &[Arrival]) -> Vec<(f64, f64, f64)> {
        let (mut pace, begin) = (Pace::new(fps), Instant::now());
        let each = frames.iter().filter_map(|&(taken, came)| {
            let age = pace.arrived(begin + Duration::from_secs_f64(came))?;
            Some((came, came - taken, age.as_secs_f64()))
        });
        each.collect()
    }

    /// How much faster than the camera a backlog comes.
    const DRAINS: [f64; 7] = [1.3, 1.5, 2.0, 3.3, 5.0, 15.0, 1000.0];

    fn oldest(accepted: &[(f64, f64, f64)]) -> f64 {
        accepted.iter().map(|&(_, age, _)| age).fold(0.0, f64::max)
    }

    #[test]
    fn no_frame_of_a_backlog_counts_however_fast_it_comes() {
        for (fps, configured) in [(15.0, 10), (15.0, 15), (25.0, 10), (5.0, 10), (10.0, 30)] {
            for (drain, stall) in DRAINS.iter().flat_map(|drain| [1.0, 2.0, 4.5, 9.0].map(|stall| (*drain, stall))) {
                let resume = 10.0 + stall;
                let frames = stalled(&live(fps, 0.0, 90.0), 10.0, resume, fps * drain);
                let accepted = accepted(configured, &frames);
                assert!(oldest(&accepted) < 0.75, "{fps} fps, {stall} s, {drain}: {}", oldest(&accepted));
                let over = frames.iter().filter(|(taken, came)| came - taken > 0.3);
                let over = over.map(|&(_, came)| came).fold(0.0, f64::max);
                let back = accepted.iter().find(|&&(came, ..)| came > resume).unwrap().0;
                assert!(back < over + 2.5, "{fps} fps, {stall} s, {drain}: back at {back}, over at {over}");
            }
        }
    }

    #[test]
    fn a_stall_in_the_middle_of_a_backlog_lets_no_old_frame_through() {
        for drain in DRAINS {
            let frames = stalled(&live(15.0, 0.0, 90.0), 10.0, 14.5, 15.0 * drain);
            for pause in [0.3, 1.0, 2.0] {
                let frames: Vec<Arrival> = frames
                    .iter()
                    .map(|&(taken, came)| (taken, if came < 14.8 { came } else { came + pause }))
                    .collect();
                let late = accepted(10, &frames).iter().map(|(_, age, _)| age - pause).fold(0.0, f64::max);
                assert!(late < 0.75, "{drain}, {pause} s: {late}");
            }
        }
    }

    #[test]
    fn a_stall_before_the_rate_is_learnt_lets_no_old_frame_through() {
        for stall in [0.01, 0.1, 0.4, 0.9, 1.6, 2.5] {
            for drain in [3.3, 15.0] {
                let frames = stalled(&live(15.0, 0.0, 30.0), stall, stall + 4.5, 15.0 * drain);
                let accepted = accepted(15, &frames);
                assert!(oldest(&accepted) < 0.75, "{stall} {drain}: {}", oldest(&accepted));
            }
        }
    }

    #[test]
    fn what_a_program_kept_back_before_its_first_frame_does_not_count() {
        for (configured, drain) in [(15, 4.0), (15, 100.0), (10, 6.0), (10, 100.0)] {
            let frames = stalled(&live(15.0, 0.0, 60.0), 0.0, 5.0, 15.0 * drain);
            let accepted = accepted(configured, &frames);
            assert!(oldest(&accepted) < 0.75, "{configured} {drain}: {}", oldest(&accepted));
            assert!(accepted.last().unwrap().0 > 59.0);
        }
    }

    #[test]
    fn a_camera_that_paused_counts_again_after_two_seconds() {
        let frames = [live(15.0, 0.0, 10.0), live(15.0, 14.0, 20.0)].concat();
        let accepted = accepted(10, &frames);
        let back = accepted.iter().find(|&&(came, ..)| came > 10.0).unwrap().0;
        assert!((16.0..16.3).contains(&back), "{back}");
        assert!(accepted.last().unwrap().2 < 0.05, "and its frames are new ones");
    }

    #[test]
    fn sources_that_deliver_in_groups_go_on_working() {
        for (fps, group) in [(15.0, 3), (15.0, 7), (10.0, 10), (30.0, 12), (25.0, 25)] {
            // A group comes when its last frame is there, 3 ms from one to the next.
            let mut frames = live(fps, 0.0, 60.0);
            for group in frames.chunks_mut(group) {
                let end = group.last().unwrap().0;
                (0..).zip(group).for_each(|(i, frame)| frame.1 = end + 0.003 * f64::from(i));
            }
            let accepted = accepted(10, &frames);
            for second in 4..58 {
                let within = |&&(came, ..): &&(f64, f64, f64)| came.floor() == f64::from(second);
                let count = accepted.iter().filter(within).count();
                assert!(count >= 4, "{fps} fps by {group}: {count} frames in second {second}");
            }
            for (came, age, taken_for) in accepted.iter().filter(|(came, ..)| *came > 5.0) {
                assert!((age - taken_for).abs() < 0.15, "{came}: {age} taken for {taken_for}");
            }
        }
    }

    #[test]
    fn a_camera_that_changes_its_rate_with_the_light_goes_on_working() {
        for (before, after) in [(30.0, 15.0), (15.0, 30.0), (30.0, 7.5), (10.0, 25.0)] {
            let frames = [live(before, 0.0, 10.0), live(after, 10.0, 20.0)].concat();
            let late = accepted(10, &frames).iter().filter(|(came, ..)| *came > 12.0).count();
            assert!(late as f64 > 6.5 * after, "{before} to {after}: {late}");
        }
    }

    #[test]
    fn slow_and_snapshot_sources_are_seen() {
        for fps in [0.3, 1.0, 2.0] {
            let frames = live(fps, 0.0, 100.0);
            assert!(accepted(10, &frames).len() + 4 >= frames.len(), "{fps}");
        }
    }

    proptest! {
        /// Arrivals that waver by a quarter of the period, as over a radio.
        #[test]
        fn a_wavering_stream_loses_few_frames(
            fps in 2.0f64..30.0, waver in proptest::collection::vec(0.0f64..0.25, 100),
        ) {
            let frames = live(fps, 0.0, 60.0).into_iter().zip(waver.iter().cycle());
            let frames: Vec<Arrival> =
                frames.map(|((taken, came), waver)| (taken, came + waver / fps)).collect();
            let accepted = accepted(10, &frames);
            prop_assert!(accepted.len() as f64 > frames.len() as f64 - 4.0 * fps - 4.0);
        }

        #[test]
        fn any_arrivals_are_no_panic_and_no_age_is_above_the_limit(
            gaps in proptest::collection::vec(prop_oneof![0.0f64..0.01, 0.0f64..0.2, 0.0f64..70.0], 0..300),
            fps in 0u32..100,
        ) {
            let (mut pace, mut now) = (Pace::new(fps), Instant::now());
            for gap in gaps {
                now += Duration::from_secs_f64(gap);
                let age = pace.arrived(now);
                prop_assert!(age.is_none_or(|age| age.as_secs_f64() <= LATEST));
            }
        }
    }
}
