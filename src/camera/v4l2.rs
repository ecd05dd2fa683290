//! Webcams and HDMI bridges through Video4Linux.
//!
//! Oddities of the v4l crate that are dealt with here: after a time-out its stream hands the kernel a buffer the kernel already
//! owns, so a stream is never used again after any error; dropping a stream can panic; the slice of a frame is the whole
//! buffer, of which only `bytesused` bytes are the frame; names that are no UTF-8 and colour spaces it does not know make it panic.

use std::{
    fs, io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rustix::time::{ClockId, clock_gettime};
use v4l::{
    Device, Format, FourCC,
    buffer::{Flags, Type},
    capability::Flags as Capabilities,
    frameinterval::FrameIntervalEnum,
    framesize::FrameSizeEnum,
    io::{mmap::Stream, traits::CaptureStream},
    timestamp::Timestamp,
    video::{Capture, capture::Parameters},
};

use super::{Camera, CameraError, STEP};
use crate::{
    config::CameraConfig,
    vision::frame::{Frame, PixelFormat},
};

const BUFFERS: u32 = 4;
/// `poll`'s flag for "there is something to read", the same on every Linux.
const POLLIN: i16 = 1;
/// Drivers whose nodes capture, but give no pictures by themselves: a Raspberry Pi's image processor, and its ribbon cable
/// receivers, which need libcamera. `auto` passes them over.
const NO_CAMERAS: [&str; 5] = ["bcm2835-isp", "bcm2835-codec", "unicam", "rp1-cfe", "pispbe"];
/// What is tried of a continuous range of sizes beside the size that is wanted.
const USUAL_SIZES: [(u32, u32); 4] = [(320, 240), (640, 480), (1280, 720), (1920, 1080)];
/// What this program can decode, as V4L2 calls it, in the order of preference at equal size and rate: luma that needs no
/// decoding first, JPEG after them, grey last because it has no colour.
const FORMATS: [(&[u8; 4], PixelFormat, &str); 6] = [
    (b"NV12", PixelFormat::Nv12, "nv12"),
    (b"YU12", PixelFormat::I420, "i420"),
    (b"YUYV", PixelFormat::Yuyv, "yuyv"),
    (b"MJPG", PixelFormat::Mjpeg, "mjpeg"),
    (b"JPEG", PixelFormat::Mjpeg, "mjpeg"),
    (b"GREY", PixelFormat::Grey, "grey"),
];

/// One way a camera can be run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CameraMode {
    pub format: PixelFormat,
    fourcc: [u8; 4],
    pub width: u32,
    pub height: u32,
    /// The most frames per second in this mode; None: the driver does not say.
    pub fps: Option<f32>,
}

/// A capture device, for `facelatch doctor`.
#[derive(Clone, Debug)]
pub struct DeviceSummary {
    pub path: PathBuf,
    /// A path that survives replugging, if the system gives one.
    pub by_id: Option<PathBuf>,
    pub card: String,
    pub driver: String,
    pub modes: Vec<CameraMode>,
}

/// An open camera.
pub struct V4l2Camera {
    device: String,
    description: String,
    mode: CameraMode,
    stride: u32,
    timeout: Duration,
    /// None once it has failed.
    stream: Option<Stream<'static>>,
    /// The device sends, and so can be asked whether a frame is there.
    streaming: bool,
    last_frame: Instant,
    stamps: Stamps,
}

/// When frames were taken, as their driver stamps them.
#[derive(Debug)]
struct Stamps {
    /// When no frame was there to be read, on the stamps' clock: later ones were taken later, or nearly.
    none_at: Duration,
    /// A stamp could not be right: from then on the time of reading counts.
    distrusted: bool,
}

/// So long a frame may take from its stamp until it can be read: a whole one at the slowest rate, and as much again.
const LONGEST_TRANSFER: Duration = Duration::from_secs(2);
/// A driver may round a stamp up by so much.
const ROUNDED: Duration = Duration::from_millis(50);

impl Stamps {
    fn new() -> Stamps {
        Stamps { none_at: monotonic(), distrusted: false }
    }

    fn nothing_there(&mut self) {
        self.none_at = monotonic();
    }

    /// How old a frame is `now`; nothing for one that has no stamp to go by.
    fn age(&mut self, device: &str, flags: Flags, stamp: Timestamp, now: Duration) -> Duration {
        // Copied and unknown stamps are on clocks that nobody names.
        if self.distrusted || flags & Flags::TIMESTAMP_MASK != Flags::TIMESTAMP_MONOTONIC {
            return Duration::ZERO;
        }
        let earliest = self.none_at.saturating_sub(LONGEST_TRANSFER);
        match as_duration(stamp).filter(|taken| (earliest..=now + ROUNDED).contains(taken)) {
            Some(taken) => now.saturating_sub(taken),
            None => {
                log::warn!(
                    "{device}: its driver stamps a frame with {stamp} at {:.3} s; it is not believed from now on, \
                     and a frame's age counts from its reading",
                    now.as_secs_f64()
                );
                self.distrusted = true;
                Duration::ZERO
            }
        }
    }
}

/// None for a stamp that is no time.
fn as_duration(stamp: Timestamp) -> Option<Duration> {
    // The fields are of 32 or 64 bits, as the board is.
    let (seconds, micros) = (u64::try_from(i128::from(stamp.sec)), u32::try_from(i128::from(stamp.usec)));
    let (seconds, micros) = (seconds.ok()?, micros.ok().filter(|micros| *micros < 1_000_000)?);
    Some(Duration::new(seconds, micros * 1000))
}

/// The clock of [`Instant`], as a number.
fn monotonic() -> Duration {
    let time = clock_gettime(ClockId::Monotonic);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// Every device that can capture and stream.
pub fn list() -> Vec<DeviceSummary> {
    let mut nodes: Vec<PathBuf> = entries("/dev").into_iter().filter(|path| is_video_node(path)).collect();
    nodes.sort();
    let by_id = entries("/dev/v4l/by-id");
    let summary = |path: PathBuf| {
        let (caps, modes) = contained(|| {
            let device = Device::with_path(&path)?;
            Ok(capturing(&device).map(|caps| (caps, modes(&device, (640, 480)))))
        })
        .ok()??;
        let by_id = by_id.iter().find(|link| fs::canonicalize(link).is_ok_and(|target| target == path)).cloned();
        Some(DeviceSummary { by_id, card: caps.card, driver: caps.driver, modes, path })
    };
    nodes.into_iter().filter_map(summary).collect()
}

/// Turns a panic of the v4l crate about what a driver says into an error: it would else end the daemon.
fn contained<T>(ask: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let strange = || Err(io::Error::other("its driver gives an answer that is not understood"));
    catch_unwind(AssertUnwindSafe(ask)).unwrap_or_else(|_| strange())
}

fn entries(folder: &str) -> Vec<PathBuf> {
    fs::read_dir(folder).map(|all| all.filter_map(|entry| Some(entry.ok()?.path())).collect()).unwrap_or_default()
}

fn is_video_node(path: &Path) -> bool {
    path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with("video"))
}

fn capturing(device: &Device) -> Option<v4l::Capabilities> {
    let caps = device.query_caps().ok()?;
    caps.capabilities.contains(Capabilities::VIDEO_CAPTURE | Capabilities::STREAMING).then_some(caps)
}

impl V4l2Camera {
    /// Opens and configures the device; streaming starts with the first frame.
    pub(super) fn open(config: &CameraConfig) -> Result<V4l2Camera, CameraError> {
        let strange =
            |error: io::Error| CameraError::Unavailable { device: config.device.clone(), problem: error.to_string() };
        contained(|| Ok(V4l2Camera::configure(config))).map_err(strange)?
    }

    fn configure(config: &CameraConfig) -> Result<V4l2Camera, CameraError> {
        let path = if config.device == "auto" { first_camera()? } else { PathBuf::from(&config.device) };
        let name = path.display().to_string();
        let unavailable = |problem: String| CameraError::Unavailable { device: name.clone(), problem };
        let device = Device::with_path(&path).map_err(|error| unavailable(explain(&error)))?;
        let caps = capturing(&device).ok_or_else(|| {
            unavailable("this is not a camera that captures video; `facelatch doctor` lists those there are".into())
        })?;
        let offered = modes(&device, (config.width, config.height));
        let mode = choose(&offered, config).ok_or_else(|| unavailable(nothing_fits(&device, config)))?;
        let wanted = Format::new(mode.width, mode.height, FourCC::new(&mode.fourcc));
        let got = device.set_format(&wanted).map_err(|error| unavailable(explain(&error)))?;
        if got.fourcc.repr != mode.fourcc {
            return Err(unavailable(format!("it was asked for {} and set itself to {}", wanted.fourcc, got.fourcc)));
        }
        // A camera that cannot change its rate is used at the rate it has.
        let fps = device.set_params(&Parameters::with_fps(config.fps)).ok().map(|set| set.interval);
        let mut stream =
            Stream::with_buffers(&device, Type::VideoCapture, BUFFERS).map_err(|error| unavailable(explain(&error)))?;
        stream.set_timeout(config.timeout);
        let mode = CameraMode { width: got.width, height: got.height, ..mode };
        let rate = fps.map_or_else(String::new, |i| {
            format!(", {:.0} fps", f64::from(i.denominator) / f64::from(i.numerator.max(1)))
        });
        let description = format!(
            "{name} ({}): {} at {}×{}{rate}, chosen of {} modes",
            crate::telemetry::printable(&caps.card),
            got.fourcc,
            got.width,
            got.height,
            offered.len()
        );
        Ok(V4l2Camera {
            device: name,
            description,
            mode,
            stride: got.stride,
            timeout: config.timeout,
            stream: Some(stream),
            streaming: false,
            last_frame: Instant::now(),
            stamps: Stamps::new(),
        })
    }

    /// Waits for a frame, or for an error that reading it will name.
    fn wait(&mut self) -> Result<(), CameraError> {
        let Some(stream) = self.stream.as_ref().filter(|_| self.streaming) else { return Ok(()) };
        // Asked for before the crate's own wait, a time-out leaves the stream as it was.
        let handle = stream.handle();
        if !matches!(handle.poll(POLLIN, 0), Ok(0)) {
            return Ok(());
        }
        self.stamps.nothing_there();
        match handle.poll(POLLIN, STEP.as_millis() as i32) {
            Ok(0) if self.last_frame.elapsed() < self.timeout => Err(CameraError::NotYet),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Err(CameraError::NotYet),
            Ok(0) => {
                self.close();
                Err(CameraError::TimedOut { device: self.device.clone(), waited: self.timeout })
            }
            Ok(_) | Err(_) => Ok(()),
        }
    }

    fn close(&mut self) {
        if let Some(stream) = self.stream.take() {
            // Its drop panics when the device will not stop; there is nothing left to do about it then.
            let _ = catch_unwind(AssertUnwindSafe(|| drop(stream)));
        }
    }
}

impl Camera for V4l2Camera {
    fn next_frame(&mut self) -> Result<Frame, CameraError> {
        self.wait()?;
        let closed = || CameraError::Unavailable { device: self.device.clone(), problem: "it failed before".into() };
        let stream = self.stream.as_mut().ok_or_else(closed)?;
        let outcome = match stream.next() {
            Ok((buffer, meta)) => {
                let bytes = &buffer[..buffer.len().min(meta.bytesused as usize)];
                if meta.flags.contains(Flags::ERROR) || bytes.is_empty() {
                    Err(CameraError::BrokenFrame(format!(
                        "{}: the driver marked frame {} as damaged",
                        self.device, meta.sequence
                    )))
                } else {
                    Ok((bytes.to_vec(), *meta))
                }
            }
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                Err(CameraError::TimedOut { device: self.device.clone(), waited: self.timeout })
            }
            Err(error) => Err(CameraError::Unavailable { device: self.device.clone(), problem: explain(&error) }),
        };
        if !matches!(outcome, Ok(_) | Err(CameraError::BrokenFrame(_))) {
            self.close();
        }
        (self.streaming, self.last_frame) = (true, Instant::now());
        let (bytes, meta) = outcome?;
        let (now, read_at) = (Instant::now(), monotonic());
        let age = self.stamps.age(&self.device, meta.flags, meta.timestamp, read_at);
        let CameraMode { format, width, height, .. } = self.mode;
        let stride = if format == PixelFormat::Mjpeg { 0 } else { self.stride };
        let (sequence, captured_at) = (meta.sequence.into(), now.checked_sub(age).unwrap_or(now));
        Ok(Frame { bytes, format, width, height, stride, sequence, captured_at })
    }

    fn describe(&self) -> String {
        self.description.clone()
    }

    fn timeout(&self) -> Option<Duration> {
        Some(self.timeout)
    }
}

impl Drop for V4l2Camera {
    fn drop(&mut self) {
        self.close();
    }
}

fn first_camera() -> Result<PathBuf, CameraError> {
    let mut devices = list();
    devices.sort_by_key(|device| device.by_id.is_none());
    let sends = |device: &DeviceSummary| !device.modes.is_empty() && !NO_CAMERAS.contains(&device.driver.as_str());
    let found = devices.into_iter().find(sends);
    found.map(|device| device.by_id.unwrap_or(device.path)).ok_or_else(|| CameraError::Unavailable {
        device: "camera.device = \"auto\"".into(),
        problem: "there is no camera this program can read: plug one in, or add the user to the group video; \
                  for a ribbon cable camera set camera.source = \"command\""
            .into(),
    })
}

/// Every mode in a format this program can decode; of a continuous range of sizes, the wanted one and a few usual ones.
fn modes(device: &Device, wanted: (u32, u32)) -> Vec<CameraMode> {
    let offered = device.enum_formats().unwrap_or_default();
    let mut modes = Vec::new();
    for (fourcc, format, _) in FORMATS {
        if !offered.iter().any(|description| &description.fourcc.repr == fourcc) {
            continue;
        }
        let listed = device.enum_framesizes(FourCC::new(fourcc)).unwrap_or_default();
        let mut sizes: Vec<(u32, u32)> = listed.into_iter().flat_map(|size| sizes_of(&size.size, wanted)).collect();
        if sizes.is_empty() {
            // Bridges that list no sizes take the one they are asked for, or answer with their own.
            sizes.push(wanted);
        }
        for (width, height) in sizes {
            let fps = most_fps(device, fourcc, width, height);
            modes.push(CameraMode { format, fourcc: *fourcc, width, height, fps });
        }
    }
    modes
}

fn sizes_of(size: &FrameSizeEnum, wanted: (u32, u32)) -> Vec<(u32, u32)> {
    match size {
        FrameSizeEnum::Discrete(size) => vec![(size.width, size.height)],
        FrameSizeEnum::Stepwise(range) => {
            let fit = |(width, height): (u32, u32)| {
                (
                    step_into(width, range.min_width, range.max_width, range.step_width),
                    step_into(height, range.min_height, range.max_height, range.step_height),
                )
            };
            let mut sizes: Vec<_> = [wanted].into_iter().chain(USUAL_SIZES).map(fit).collect();
            sizes.sort_unstable();
            sizes.dedup();
            sizes
        }
    }
}

/// The largest value of `min`, `min + step`, … that is not above `wanted`, within the range.
fn step_into(wanted: u32, min: u32, max: u32, step: u32) -> u32 {
    // A driver may say anything: a step of 0, or a least size above the largest.
    let within = wanted.min(max).max(min);
    within - (within - min) % step.max(1)
}

fn most_fps(device: &Device, fourcc: &[u8; 4], width: u32, height: u32) -> Option<f32> {
    let intervals = device.enum_frameintervals(FourCC::new(fourcc), width, height).ok()?;
    let shortest = intervals.into_iter().map(|interval| match interval.interval {
        FrameIntervalEnum::Discrete(interval) => interval,
        FrameIntervalEnum::Stepwise(range) => range.min,
    });
    shortest
        .filter(|interval| interval.numerator > 0)
        .map(|i| i.denominator as f32 / i.numerator as f32)
        .reduce(f32::max)
}

/// The best mode: the nearest size, then one that reaches the rate wanted, then the format that needs the least decoding.
fn choose(modes: &[CameraMode], config: &CameraConfig) -> Option<CameraMode> {
    let named = |mode: &CameraMode| FORMATS.iter().position(|(fourcc, _, _)| **fourcc == mode.fourcc);
    let wanted =
        |mode: &&CameraMode| config.format == "auto" || named(mode).is_some_and(|i| FORMATS[i].2 == config.format);
    let key = |mode: &&CameraMode| {
        let off_size = u64::from(mode.width.abs_diff(config.width)) + u64::from(mode.height.abs_diff(config.height));
        let too_slow = mode.fps.is_some_and(|fps| fps + 0.5 < config.fps as f32);
        let missing_fps = if too_slow { config.fps - mode.fps.unwrap_or(0.0) as u32 } else { 0 };
        // Grey would do for no net here as well as colour does, so it comes after any size and rate.
        (mode.format == PixelFormat::Grey, off_size, missing_fps, named(mode))
    };
    modes.iter().filter(wanted).min_by_key(key).copied()
}

fn nothing_fits(device: &Device, config: &CameraConfig) -> String {
    let offered: Vec<String> = device.enum_formats().unwrap_or_default().iter().map(|f| f.fourcc.to_string()).collect();
    let wanted = if config.format == "auto" { "NV12, YU12, YUYV, MJPG or GREY" } else { &config.format };
    let hint = "a ribbon cable camera is read through camera.source = \"command\"";
    format!(
        "it offers {}, none of which is {wanted}; {hint}",
        if offered.is_empty() { "no format".into() } else { offered.join(", ") }
    )
}

/// The system's error in words.
fn explain(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => {
            "there is no such device; is the camera plugged in? `facelatch doctor` lists those there are".into()
        }
        io::ErrorKind::PermissionDenied => "no permission; add the user to the group video".into(),
        io::ErrorKind::ResourceBusy => "another program is using it; `fuser -v` on the device shows which".into(),
        _ if error.raw_os_error() == Some(19) => "it was unplugged".into(),
        _ if error.raw_os_error() == Some(25) => "this is not a camera".into(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(fourcc: &[u8; 4], width: u32, height: u32, fps: f32) -> CameraMode {
        let format = FORMATS.iter().find(|(known, _, _)| *known == fourcc).unwrap().1;
        CameraMode { format, fourcc: *fourcc, width, height, fps: Some(fps) }
    }

    fn chosen(modes: &[CameraMode], change: impl Fn(&mut CameraConfig)) -> Option<(String, u32)> {
        let mut config = CameraConfig::default();
        change(&mut config);
        choose(modes, &config).map(|mode| (String::from_utf8_lossy(&mode.fourcc).into_owned(), mode.width))
    }

    #[test]
    fn uncompressed_is_preferred_where_it_is_fast_enough() {
        let webcam = [
            mode(b"MJPG", 640, 480, 30.0),
            mode(b"YUYV", 640, 480, 30.0),
            mode(b"MJPG", 1280, 720, 30.0),
            mode(b"YUYV", 1280, 720, 5.0),
        ];
        assert_eq!(chosen(&webcam, |_| {}), Some(("YUYV".into(), 640)));
        let hd = |c: &mut CameraConfig| (c.width, c.height) = (1280, 720);
        assert_eq!(chosen(&webcam, hd), Some(("MJPG".into(), 1280)), "5 frames per second are too slow");
    }

    #[test]
    fn the_nearest_size_is_taken() {
        let small = [mode(b"YUYV", 320, 240, 30.0), mode(b"YUYV", 800, 600, 30.0), mode(b"YUYV", 1920, 1080, 30.0)];
        assert_eq!(chosen(&small, |_| {}), Some(("YUYV".into(), 800)));
    }

    #[test]
    fn grey_is_the_last_choice_and_a_forced_format_the_only_one() {
        let modes = [mode(b"GREY", 640, 480, 60.0), mode(b"MJPG", 1280, 720, 10.0)];
        assert_eq!(chosen(&modes, |_| {}), Some(("MJPG".into(), 1280)));
        assert_eq!(chosen(&modes, |c| c.format = "grey".into()), Some(("GREY".into(), 640)));
        assert_eq!(chosen(&modes, |c| c.format = "yuyv".into()), None);
        assert_eq!(chosen(&[], |_| {}), None);
    }

    #[test]
    fn a_continuous_range_offers_the_size_wanted_or_the_nearest_step() {
        let range = |min, max, step| {
            FrameSizeEnum::Stepwise(v4l::framesize::Stepwise {
                min_width: min,
                max_width: max,
                step_width: step,
                min_height: min,
                max_height: max,
                step_height: step,
            })
        };
        assert!(sizes_of(&range(16, 4096, 2), (800, 600)).contains(&(800, 600)));
        assert!(sizes_of(&range(16, 4096, 32), (810, 600)).contains(&(784, 592)));
        assert_eq!(sizes_of(&range(500, 500, 0), (640, 480)), [(500, 500)], "a range of one size is a size");
        assert_eq!(sizes_of(&range(9, 3, 1), (640, 480)), [(9, 9)], "a range upside down panics nowhere");
    }

    /// The age of a frame that is read 100 s after boot, the stream having been empty at 97 s.
    fn age(flags: Flags, stamp: Timestamp) -> (Duration, bool) {
        let mut stamps = Stamps { none_at: Duration::from_secs(97), distrusted: false };
        let age = stamps.age("/dev/video0", flags, stamp, Duration::from_secs(100));
        (age, stamps.distrusted)
    }

    #[test]
    fn a_frame_is_as_old_as_its_drivers_stamp_says() {
        let monotonic = Flags::TIMESTAMP_MONOTONIC | Flags::MAPPED | Flags::TSTAMP_SRC_SOE;
        assert_eq!(age(monotonic, Timestamp::new(97, 500_000)), (Duration::from_millis(2500), false));
        assert_eq!(age(monotonic, Timestamp::new(100, 20_000)), (Duration::ZERO, false), "rounded up");
        for flags in [Flags::TIMESTAMP_UNKNOWN, Flags::TIMESTAMP_COPY] {
            assert_eq!(age(flags, Timestamp::new(98, 0)), (Duration::ZERO, false), "on another clock");
        }
    }

    #[test]
    fn a_drivers_clock_that_cannot_be_right_is_not_believed() {
        let wrong = [(0, 0), (94, 0), (101, 0), (1_764_000_000, 0), (-1, 0), (99, -1), (99, 1_000_000), (i32::MAX, 0)];
        for (seconds, micros) in wrong {
            let stamp = Timestamp::new(seconds.into(), micros.into());
            assert_eq!(age(Flags::TIMESTAMP_MONOTONIC, stamp), (Duration::ZERO, true), "{stamp}");
        }
        let mut stamps = Stamps { none_at: Duration::from_secs(97), distrusted: true };
        let right = Timestamp::new(99, 0);
        let age = stamps.age("/dev/video0", Flags::TIMESTAMP_MONOTONIC, right, Duration::from_secs(100));
        assert_eq!(age, Duration::ZERO, "a clock that jumped may jump again");
    }

    #[test]
    fn the_stamps_clock_is_that_of_instants() {
        let (before, instant) = (monotonic(), Instant::now());
        std::thread::sleep(Duration::from_millis(30));
        let passed = monotonic() - before;
        assert!(passed >= Duration::from_millis(30) && passed <= instant.elapsed() + Duration::from_millis(20));
    }

    #[test]
    fn a_panic_of_the_driver_wrapper_is_an_error() {
        let error = contained(|| -> io::Result<()> { panic!("Invalid colorspace") }).unwrap_err();
        assert!(error.to_string().contains("not understood"), "{error}");
    }

    #[test]
    fn a_camera_that_is_not_one_is_refused_with_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("video0");
        fs::write(&file, "no camera").unwrap();
        for path in [file, "/dev/null".into(), dir.path().join("none")] {
            let config = CameraConfig { device: path.display().to_string(), ..CameraConfig::default() };
            let error = V4l2Camera::open(&config).err().expect("this is no camera").to_string();
            assert!(error.starts_with(path.to_str().unwrap()), "{error}");
            assert!(error.contains("not a camera") || error.contains("no such device"), "{error}");
        }
    }
}
