//! The capture thread: opens the camera, opens it again after any error, and keeps only the newest frame.

use std::{
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use super::{Camera, CameraError, still::Still};
use crate::{
    telemetry::Counters,
    vision::frame::{Frame, FrameError},
};

const FIRST_BACKOFF: Duration = Duration::from_millis(500);
const LONGEST_BACKOFF: Duration = Duration::from_secs(10);
/// So many broken frames in a row are not bad luck: the camera is opened anew.
const BROKEN_IN_A_ROW: u32 = 30;
/// Fewer are enough if no frame was whole within the camera's timeout.
const BROKEN_FOR_LONG: u32 = 5;

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
    /// Frames that the recogniser could not decode.
    undecoded: Row,
    /// It could decode one since the camera was lost.
    decoded: bool,
    ended: bool,
    stop: bool,
}

/// Broken frames in a row.
#[derive(Default)]
struct Row {
    count: u32,
    since: Option<Instant>,
    last: String,
}

impl Row {
    fn add(&mut self, problem: String) {
        self.count += 1;
        self.since.get_or_insert_with(Instant::now);
        self.last = problem;
    }

    /// The problem, once there are too many.
    fn too_long(&self, timeout: Option<Duration>) -> Option<String> {
        let for_long = timeout.is_some_and(|timeout| self.since.is_some_and(|since| since.elapsed() >= timeout));
        let over = self.count >= BROKEN_IN_A_ROW || for_long && self.count >= BROKEN_FOR_LONG;
        over.then(|| format!("{} broken frames in a row, the last: {}", self.count, self.last))
    }
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
    /// Starts the thread. Counts `frames`, `frames_dropped` (a newer one came before they were
    /// taken), `frames_late` (too old when they came), `frames_broken` and `frames_torn` (part of
    /// them is missing).
    pub fn start(opener: Opener, counters: Counters) -> std::io::Result<Capture> {
        let shared = Arc::new(Shared::default());
        let loop_ = Loop {
            shared: Arc::clone(&shared),
            opener,
            counters,
            lost_since: None,
            opened_before: false,
            unproven: false,
            still: Still::default(),
            backoff: FIRST_BACKOFF,
        };
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

    /// What became of the frame that was taken last. Too many in a row that cannot be decoded
    /// are a lost camera.
    pub fn decoded(&self, outcome: Result<(), FrameError>) {
        let mut slot = self.shared.lock();
        match outcome {
            Ok(()) => {
                slot.undecoded = Row::default();
                slot.decoded = true;
            }
            Err(problem) => slot.undecoded.add(problem.to_string()),
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
    /// It was lost because its frames could not be decoded: it is back when one can be.
    unproven: bool,
    still: Still,
    backoff: Duration,
}

/// Why a camera is reopened.
struct Loss {
    problem: String,
    /// It sent frames that could not be decoded.
    undecoded: bool,
}

impl From<String> for Loss {
    fn from(problem: String) -> Loss {
        Loss { problem, undecoded: false }
    }
}

impl Loop {
    fn run(mut self) {
        loop {
            let loss = match (self.opener)() {
                Ok(camera) => match self.play(camera) {
                    Ok(()) => return,
                    Err(loss) => loss,
                },
                Err(error) => error.to_string().into(),
            };
            if loss.undecoded {
                self.unproven = true;
                self.shared.lock().decoded = false;
            }
            if self.lost_since.is_none() {
                self.lost_since = Some(Instant::now());
                self.shared.tell(Captured::Lost { problem: loss.problem });
            }
            if self.shared.pause(self.backoff) {
                return;
            }
            self.backoff = (self.backoff * 2).min(LONGEST_BACKOFF);
        }
    }

    /// Passes frames on until the camera fails or everything is over.
    fn play(&mut self, mut camera: Box<dyn Camera>) -> Result<(), Loss> {
        let (description, every_frame, timeout) = (camera.describe(), camera.wants_every_frame(), camera.timeout());
        let mut broken = Row::default();
        self.still.reopened();
        self.shared.lock().undecoded = Row::default();
        loop {
            {
                let slot = self.shared.lock();
                if slot.stop {
                    return Ok(());
                }
                // A folder that is played once would begin again.
                if let Some(problem) = slot.undecoded.too_long(timeout).filter(|_| !every_frame) {
                    return Err(Loss { problem, undecoded: true });
                }
            }
            match camera.next_frame() {
                Ok(frame) => {
                    broken = Row::default();
                    if self.is_new(&frame, timeout)? {
                        self.ready(&description);
                        if self.put(frame, every_frame) {
                            return Ok(());
                        }
                    }
                }
                Err(CameraError::Ended) => {
                    self.shared.lock().ended = true;
                    self.shared.changed.notify_all();
                    return Ok(());
                }
                Err(error) => {
                    self.one_frame_only(error, &mut broken)?;
                    if let Some(problem) = broken.too_long(timeout) {
                        return Err(problem.into());
                    }
                }
            }
        }
    }

    /// False: it is the picture that the camera hung with, and was lost.
    fn is_new(&mut self, frame: &Frame, timeout: Option<Duration>) -> Result<bool, String> {
        let Some(timeout) = timeout else { return Ok(true) };
        match self.still.look(&frame.bytes, timeout * 2, Instant::now()) {
            Some(problem) => Err(problem),
            None => Ok(!self.still.is_stuck()),
        }
    }

    /// Counts what is wrong with a frame; an error if more than that is wrong.
    fn one_frame_only(&self, error: CameraError, broken: &mut Row) -> Result<(), String> {
        let (counter, problem) = match error {
            CameraError::NotYet => return Ok(()),
            CameraError::Late => {
                self.counters.increment("frames_late");
                return Ok(());
            }
            CameraError::BrokenFrame(problem) => ("frames_broken", problem),
            CameraError::Torn(problem) => ("frames_torn", problem),
            error => return Err(error.to_string()),
        };
        self.counters.increment(counter);
        log::debug!("{counter}: {problem}");
        broken.add(problem);
        Ok(())
    }

    /// A camera counts as there when its first frame has come, not when its device could be opened.
    fn ready(&mut self, description: &str) {
        if self.lost_since.is_none() && self.opened_before {
            return;
        }
        if self.unproven && !self.shared.lock().decoded {
            return;
        }
        self.unproven = false;
        self.backoff = FIRST_BACKOFF;
        let lost_for = self.lost_since.take().map(|since| since.elapsed()).filter(|_| self.opened_before);
        self.opened_before = true;
        self.shared.tell(Captured::Ready { description: description.to_owned(), lost_for });
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

    fn torn() -> Result<u64, CameraError> {
        Err(CameraError::Torn("half of it".into()))
    }

    #[test]
    fn every_third_frame_torn_is_no_lost_camera_and_all_of_them_are() {
        let thirds = (0..99).map(|i| if i % 3 == 0 { torn() } else { Ok(i) }).collect();
        let (capture, counters) = capture(vec![thirds], true);
        assert_eq!(story(&capture).len(), 1 + 66);
        assert_eq!((counters.get("frames_torn"), counters.get("frames_broken")), (33, 0));
        let (capture, counters) = self::capture(vec![(0..40).map(|_| torn()).collect(), vec![Ok(1)]], true);
        let story = story(&capture);
        assert!(story[0].starts_with("lost: 30 broken frames in a row, the last: half of it"), "{story:?}");
        assert_eq!(counters.get("frames_torn"), 30);
    }

    #[test]
    fn late_frames_are_counted_and_harm_nothing() {
        let late = || Err(CameraError::Late);
        let script = std::iter::repeat_with(late).take(100).chain([Ok(1), Ok(2)]).collect();
        let (capture, counters) = capture(vec![script], true);
        assert_eq!(story(&capture), ["ready", "frame 1", "frame 2"]);
        assert_eq!(counters.get("frames_late"), 100);
    }

    /// A live camera that sends for ever; frame n, counted over all openings, is `byte(n)`.
    fn endless(byte: impl Fn(u64) -> u8 + Clone + Send + 'static) -> (Capture, Counters) {
        struct Endless<B>(Arc<Mutex<u64>>, B);
        impl<B: Fn(u64) -> u8 + Send> Camera for Endless<B> {
            fn next_frame(&mut self) -> Result<Frame, CameraError> {
                thread::sleep(Duration::from_millis(2));
                let mut number = self.0.lock().unwrap();
                *number += 1;
                Ok(Frame { bytes: vec![(self.1)(*number); 4], ..frame(*number) })
            }

            fn describe(&self) -> String {
                "endless".into()
            }

            fn timeout(&self) -> Option<Duration> {
                Some(Duration::from_millis(100))
            }
        }
        let (counters, number) = (Counters::default(), Arc::default());
        let opener: Opener = Box::new(move || Ok(Box::new(Endless(Arc::clone(&number), byte.clone()))));
        (Capture::start(opener, counters.clone()).unwrap(), counters)
    }

    /// The first `count` news besides frames, each of which is `judge`d.
    fn news(capture: &Capture, count: usize, judge: impl Fn(&Frame) -> Result<(), FrameError>) -> Vec<String> {
        let (mut news, until) = (Vec::new(), Instant::now() + Duration::from_secs(20));
        while news.len() < count && Instant::now() < until {
            match capture.next(SOON) {
                Captured::Frame(frame) => capture.decoded(judge(&frame)),
                Captured::Ready { lost_for, .. } => news.push(if lost_for.is_some() { "back" } else { "ready" }.into()),
                Captured::Lost { problem } => news.push(problem),
                Captured::Nothing | Captured::Ended => {}
            }
        }
        news
    }

    #[test]
    fn a_frozen_camera_is_lost_until_it_shows_another_picture() {
        // It hangs with frame 50 through several openings.
        let began = Instant::now();
        let moving = move |number: u64| number < 50 || began.elapsed() > Duration::from_secs(4);
        let (capture, counters) = endless(move |number| if moving(number) { number as u8 } else { 50 });
        let news = news(&capture, 3, |_| Ok(()));
        assert_eq!((news[0].as_str(), news[2].as_str()), ("ready", "back"), "{news:?}");
        assert!(news[1].contains("the same picture") && news[1].contains("hangs"), "{news:?}");
        assert!(began.elapsed() > Duration::from_secs(4), "it was lost all the time");
        assert!(counters.get("frames") < 2000, "the frozen picture is not passed on");
    }

    #[test]
    fn a_folder_in_a_loop_may_show_one_picture_for_ever() {
        let (capture, _) = capture(vec![(0..500).map(|_| Ok(1)).collect()], true);
        assert_eq!(story(&capture).len(), 501);
    }

    #[test]
    fn frames_that_cannot_be_decoded_are_a_lost_camera_until_one_can() {
        let began = Instant::now();
        let (capture, _) = endless(|number| number as u8);
        let news = news(&capture, 3, |_| match began.elapsed() > Duration::from_secs(3) {
            true => Ok(()),
            false => Err(FrameError::Jpeg("it has 4 components".into())),
        });
        assert_eq!((news[0].as_str(), news[2].as_str()), ("ready", "back"), "told once: {news:?}");
        assert!(news[1].contains("broken frames in a row") && news[1].contains("4 components"), "{news:?}");
        assert!(began.elapsed() > Duration::from_secs(3));
    }

    #[test]
    fn a_frame_that_can_be_decoded_now_and_then_is_no_lost_camera() {
        let (capture, counters) = endless(|number| number as u8);
        let judge = |frame: &Frame| if frame.sequence.is_multiple_of(3) { Ok(()) } else { Err(FrameError::Torn) };
        thread::scope(|scope| {
            scope.spawn(|| assert_eq!(news(&capture, 1, judge), ["ready"]));
        });
        let until = Instant::now() + Duration::from_secs(1);
        while Instant::now() < until {
            match capture.next(SOON) {
                Captured::Frame(frame) => capture.decoded(judge(&frame)),
                other => panic!("{other:?}"),
            }
        }
        assert!(counters.get("frames") > 100);
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
