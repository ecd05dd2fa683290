//! The capture thread: opens the camera, opens it again after any error, and keeps only the newest frame.

use std::{
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use super::{Camera, CameraError};
use crate::{telemetry::Counters, vision::frame::Frame};

const FIRST_BACKOFF: Duration = Duration::from_millis(500);
const LONGEST_BACKOFF: Duration = Duration::from_secs(10);
/// So many broken frames in a row are not bad luck: the camera is opened anew.
const BROKEN_IN_A_ROW: u32 = 30;

/// How a camera is opened; called again after each loss.
pub type Opener = Box<dyn FnMut() -> Result<Box<dyn Camera>, CameraError> + Send>;

/// What the recogniser finds when it looks for a frame.
#[derive(Debug)]
pub enum Captured {
    Frame(Frame),
    /// The camera is there; the text describes it. `lost_for` is None the first time.
    Ready {
        description: String,
        lost_for: Option<Duration>,
    },
    /// The camera is not there; said once per loss.
    Lost {
        problem: String,
    },
    /// Nothing within the time given.
    Nothing,
    /// A folder played once has come to its end.
    Ended,
}

/// The running thread.
pub struct Capture {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    slot: Mutex<Slot>,
    changed: Condvar,
}

#[derive(Default)]
struct Slot {
    frame: Option<Frame>,
    /// Ready and Lost, in order; they go before frames.
    news: Vec<Captured>,
    ended: bool,
    stop: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Slot> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, news: Captured) {
        self.lock().news.push(news);
        self.changed.notify_all();
    }

    /// Waits; true when the thread has to stop.
    fn pause(&self, time: Duration) -> bool {
        let until = Instant::now() + time;
        let mut slot = self.lock();
        while !slot.stop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            slot = self.changed.wait_timeout(slot, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }
}

impl Capture {
    /// Starts the thread. Counts `frames`, `frames_dropped` (a newer one came before they were taken) and `frames_broken`.
    pub fn start(opener: Opener, counters: Counters) -> std::io::Result<Capture> {
        let shared = Arc::new(Shared::default());
        let loop_ = Loop { shared: Arc::clone(&shared), opener, counters, lost_since: None, opened_before: false };
        let thread = thread::Builder::new().name("capture".into()).spawn(move || loop_.run())?;
        Ok(Capture { shared, thread: Some(thread) })
    }

    /// The next thing to know, waiting for it at most `timeout`.
    pub fn next(&self, timeout: Duration) -> Captured {
        let until = Instant::now() + timeout;
        let mut slot = self.shared.lock();
        loop {
            // The last frame came before the loss that follows it.
            let frame_first = slot.frame.is_some() && matches!(slot.news.first(), Some(Captured::Lost { .. }));
            if !slot.news.is_empty() && !frame_first {
                return slot.news.remove(0);
            }
            if let Some(frame) = slot.frame.take() {
                self.shared.changed.notify_all();
                return Captured::Frame(frame);
            }
            if slot.ended {
                return Captured::Ended;
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Captured::Nothing;
            }
            slot = self.shared.changed.wait_timeout(slot, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// False when the thread has ended; without an `Ended` before, it died.
    pub fn is_running(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }
}

impl Drop for Capture {
    /// Asks the thread to stop and does not wait for one that hangs in a driver: it owns nothing that matters.
    fn drop(&mut self) {
        self.shared.lock().stop = true;
        self.shared.changed.notify_all();
        let deadline = Instant::now() + Duration::from_secs(1);
        while let Some(thread) = &self.thread {
            if thread.is_finished() || Instant::now() > deadline {
                break;
            }
            thread::sleep(Duration::from_millis(5));
        }
    }
}

struct Loop {
    shared: Arc<Shared>,
    opener: Opener,
    counters: Counters,
    lost_since: Option<Instant>,
    opened_before: bool,
}

impl Loop {
    fn run(mut self) {
        let mut backoff = FIRST_BACKOFF;
        loop {
            let problem = match (self.opener)() {
                Ok(camera) => {
                    let had_frame = self.counters.get("frames");
                    let problem = match self.play(camera) {
                        Ok(()) => return,
                        Err(problem) => problem,
                    };
                    if self.counters.get("frames") > had_frame {
                        backoff = FIRST_BACKOFF;
                    }
                    problem
                }
                Err(error) => error.to_string(),
            };
            if self.lost_since.is_none() {
                self.lost_since = Some(Instant::now());
                self.shared.tell(Captured::Lost { problem });
            }
            if self.shared.pause(backoff) {
                return;
            }
            backoff = (backoff * 2).min(LONGEST_BACKOFF);
        }
    }

    /// Passes frames on until the camera fails (the problem in words) or everything is over.
    fn play(&mut self, mut camera: Box<dyn Camera>) -> Result<(), String> {
        let (description, every_frame) = (camera.describe(), camera.wants_every_frame());
        let mut broken = 0;
        loop {
            if self.shared.lock().stop {
                return Ok(());
            }
            match camera.next_frame() {
                Ok(frame) => {
                    broken = 0;
                    self.ready(&description);
                    if self.put(frame, every_frame) {
                        return Ok(());
                    }
                }
                Err(CameraError::NotYet) => {}
                Err(CameraError::BrokenFrame(problem)) => {
                    self.counters.increment("frames_broken");
                    log::debug!("broken frame: {problem}");
                    broken += 1;
                    if broken >= BROKEN_IN_A_ROW {
                        return Err(format!("{broken} broken frames in a row, the last: {problem}"));
                    }
                }
                Err(CameraError::Ended) => {
                    self.shared.lock().ended = true;
                    self.shared.changed.notify_all();
                    return Ok(());
                }
                Err(error) => return Err(error.to_string()),
            }
        }
    }

    /// A camera counts as there when its first frame has come, not when its device could be opened.
    fn ready(&mut self, description: &str) {
        let lost_for = self.lost_since.take().map(|since| since.elapsed());
        if lost_for.is_some() || !self.opened_before {
            let lost_for = lost_for.filter(|_| self.opened_before);
            self.opened_before = true;
            self.shared.tell(Captured::Ready { description: description.to_owned(), lost_for });
        }
    }

    /// Puts the frame into the slot; true when the thread has to stop.
    fn put(&mut self, mut frame: Frame, wait: bool) -> bool {
        self.counters.increment("frames");
        let mut slot = self.shared.lock();
        while wait && slot.frame.is_some() && !slot.stop {
            slot = self.shared.changed.wait(slot).unwrap_or_else(PoisonError::into_inner);
        }
        if wait {
            // The frame has grown old waiting for its turn, not in the camera.
            frame.captured_at = Instant::now();
        }
        if slot.frame.replace(frame).is_some() {
            self.counters.increment("frames_dropped");
        }
        let stop = slot.stop;
        drop(slot);
        self.shared.changed.notify_all();
        stop
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::VecDeque, sync::mpsc};

    use super::*;
    use crate::vision::frame::PixelFormat;

    const SOON: Duration = Duration::from_secs(5);

    fn frame(sequence: u64) -> Frame {
        Frame {
            bytes: vec![0; 4],
            format: PixelFormat::Grey,
            width: 2,
            height: 2,
            stride: 2,
            sequence,
            captured_at: Instant::now(),
        }
    }

    /// Plays a script; the test lets it go on step by step when `gate` is there.
    struct Scripted {
        script: VecDeque<Result<u64, CameraError>>,
        gate: Option<mpsc::Receiver<()>>,
        every_frame: bool,
    }

    impl Camera for Scripted {
        fn next_frame(&mut self) -> Result<Frame, CameraError> {
            if let Some(gate) = &self.gate {
                let _ = gate.recv();
            }
            self.script.pop_front().unwrap_or(Err(CameraError::Ended)).map(frame)
        }

        fn describe(&self) -> String {
            "scripted".into()
        }

        fn wants_every_frame(&self) -> bool {
            self.every_frame
        }
    }

    fn broken() -> Result<u64, CameraError> {
        Err(CameraError::BrokenFrame("torn".into()))
    }

    fn unplugged() -> Result<u64, CameraError> {
        Err(CameraError::Unavailable { device: "/dev/video0".into(), problem: "it was unplugged".into() })
    }

    /// Each opening plays the next script.
    fn capture(scripts: Vec<Vec<Result<u64, CameraError>>>, every_frame: bool) -> (Capture, Counters) {
        let (counters, mut scripts) = (Counters::default(), VecDeque::from(scripts));
        let opener: Opener = Box::new(move || {
            let script =
                scripts.pop_front().ok_or(CameraError::Unavailable { device: "x".into(), problem: "gone".into() })?;
            Ok(Box::new(Scripted { script: script.into(), gate: None, every_frame }))
        });
        (Capture::start(opener, counters.clone()).unwrap(), counters)
    }

    fn story(capture: &Capture) -> Vec<String> {
        std::iter::from_fn(|| match capture.next(SOON) {
            Captured::Frame(frame) => Some(format!("frame {}", frame.sequence)),
            Captured::Ready { lost_for, .. } => Some(if lost_for.is_some() { "back".into() } else { "ready".into() }),
            Captured::Lost { problem } => Some(format!("lost: {problem}")),
            Captured::Nothing | Captured::Ended => None,
        })
        .collect()
    }

    #[test]
    fn only_the_newest_frame_is_kept() {
        let (sender, gate) = mpsc::channel();
        let mut camera = Some(Scripted { script: (1..=5).map(Ok).collect(), gate: Some(gate), every_frame: false });
        let counters = Counters::default();
        let opener: Opener = Box::new(move || Ok(Box::new(camera.take().expect("opened once"))));
        let capture = Capture::start(opener, counters.clone()).unwrap();
        (0..5).for_each(|_| sender.send(()).unwrap());
        while counters.get("frames") < 5 {
            thread::sleep(Duration::from_millis(1));
        }
        assert!(matches!(capture.next(SOON), Captured::Ready { lost_for: None, .. }));
        assert!(matches!(capture.next(SOON), Captured::Frame(frame) if frame.sequence == 5));
        assert!(matches!(capture.next(Duration::ZERO), Captured::Nothing));
        assert_eq!(counters.get("frames_dropped"), 4);
        drop(sender);
    }

    #[test]
    fn a_folder_played_once_loses_no_frame() {
        let (capture, counters) = capture(vec![(1..=20).map(Ok).collect()], true);
        let expected: Vec<String> =
            std::iter::once("ready".into()).chain((1..=20).map(|i| format!("frame {i}"))).collect();
        assert_eq!(story(&capture), expected);
        assert_eq!(counters.get("frames_dropped"), 0);
    }

    #[test]
    fn a_broken_frame_is_skipped_and_counted() {
        let (capture, counters) = capture(vec![vec![Ok(1), broken(), broken(), Ok(2)]], true);
        assert_eq!(story(&capture), ["ready", "frame 1", "frame 2"]);
        assert_eq!(counters.get("frames_broken"), 2);
    }

    #[test]
    fn a_lost_camera_is_opened_anew() {
        let (capture, _) = capture(vec![vec![Ok(1), unplugged()], vec![Ok(2)]], true);
        assert_eq!(story(&capture), ["ready", "frame 1", "lost: /dev/video0: it was unplugged", "back", "frame 2"]);
    }

    #[test]
    fn nothing_but_broken_frames_is_a_lost_camera() {
        let broken_ones = (0..BROKEN_IN_A_ROW).map(|_| broken()).collect();
        let (capture, _) = capture(vec![broken_ones, vec![Ok(1)]], true);
        let story = story(&capture);
        assert!(story[0].starts_with("lost: 30 broken frames in a row"), "{story:?}");
        assert_eq!(story[1..], ["ready", "frame 1"]);
    }

    #[test]
    fn a_camera_that_has_nothing_yet_is_neither_lost_nor_kept_after_the_stop() {
        struct Silent(mpsc::Sender<()>);
        impl Camera for Silent {
            fn next_frame(&mut self) -> Result<Frame, CameraError> {
                thread::sleep(Duration::from_millis(1));
                Err(CameraError::NotYet)
            }

            fn describe(&self) -> String {
                "silent".into()
            }
        }
        impl Drop for Silent {
            fn drop(&mut self) {
                let _ = self.0.send(());
            }
        }
        let (sender, dropped) = mpsc::channel();
        let opener: Opener = Box::new(move || Ok(Box::new(Silent(sender.clone()))));
        let capture = Capture::start(opener, Counters::default()).unwrap();
        assert!(matches!(capture.next(Duration::from_millis(50)), Captured::Nothing));
        assert!(dropped.try_recv().is_err(), "it is asked again, not opened anew");
        drop(capture);
        dropped.try_recv().expect("its program would else go on");
    }

    #[test]
    fn stopping_does_not_wait_for_a_camera_that_hangs() {
        let (_sender, gate) = mpsc::channel();
        let mut camera = Some(Scripted { script: VecDeque::new(), gate: Some(gate), every_frame: false });
        let opener: Opener = Box::new(move || Ok(Box::new(camera.take().expect("opened once"))));
        let capture = Capture::start(opener, Counters::default()).unwrap();
        let started = Instant::now();
        drop(capture);
        assert!(started.elapsed() < Duration::from_secs(3));
    }
}
