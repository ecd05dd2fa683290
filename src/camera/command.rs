//! A program that writes frames to its standard output: rpicam-vid for a Raspberry Pi's ribbon cable camera, ffmpeg for a
//! network camera.
//!
//! It is killed with everything it started when the camera is closed.

use std::{
    io::Read,
    process::{ChildStdout, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{
    Camera, CameraError, STEP,
    mjpeg::{MjpegSplitter, Torn},
    pace::Pace,
};
use crate::{
    config::{CameraConfig, CommandStream, secret::arguments_with_credentials},
    program::{Program, listen::LastWords},
    vision::frame::{Frame, PixelFormat},
};

/// A program whose output has ended gets so long to end itself, so that its exit status can be told.
const GRACE: Duration = Duration::from_millis(500);

/// See the module.
pub(super) struct CommandCamera {
    program: String,
    running: Program,
    output: ChildStdout,
    last_words: LastWords,
    stream: Stream,
    pace: Pace,
    timeout: Duration,
    sequence: u64,
    /// Since when the next frame is waited for, and how many bytes have come since.
    waiting: Option<(Instant, u64)>,
}

/// What the program's output gave within a short time.
enum Output {
    Nothing,
    Bytes(Vec<u8>),
    End,
}

type RawFrame = (Vec<u8>, PixelFormat, u32, u32);

enum Stream {
    Mjpeg(MjpegSplitter),
    Yuv420 { width: u32, height: u32, bytes: Vec<u8> },
}

impl CommandCamera {
    pub(super) fn open(config: &CameraConfig) -> Result<CommandCamera, CameraError> {
        let [program, arguments @ ..] = &config.command[..] else {
            return Err(CameraError::Unavailable {
                device: "command".into(),
                problem: "camera.command is empty".into(),
            });
        };
        let unavailable = |problem: String| CameraError::Unavailable { device: program.clone(), problem };
        // A network camera's password stands in no configuration file.
        let (arguments, secrets) = arguments_with_credentials(arguments, "camera.command").map_err(&unavailable)?;
        let mut command = Command::new(program);
        command.args(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut running = Program::start(&mut command)
            .map_err(|error| unavailable(format!("{error}; is it installed, and camera.command right?")))?;
        let (Some(output), Some(errors)) = (running.child.stdout.take(), running.child.stderr.take()) else {
            return Err(unavailable("its output cannot be read".into()));
        };
        let last_words = LastWords::listen(errors, program.clone(), move |line| secrets.kept_out(line));
        let stream = match config.stream {
            CommandStream::Mjpeg => Stream::Mjpeg(MjpegSplitter::default()),
            CommandStream::Yuv420 => Stream::Yuv420 { width: config.width, height: config.height, bytes: Vec::new() },
        };
        Ok(CommandCamera {
            program: program.clone(),
            running,
            output,
            last_words,
            stream,
            pace: Pace::new(config.fps),
            timeout: config.timeout,
            sequence: 0,
            waiting: None,
        })
    }

    fn read(&mut self, at_most: Duration) -> Result<Output, CameraError> {
        let mut wait = [PollFd::new(&self.output, PollFlags::IN)];
        let wait_for = Timespec { tv_sec: at_most.as_secs() as i64, tv_nsec: at_most.subsec_nanos().into() };
        let failed = |problem: String| CameraError::Unavailable { device: self.program.clone(), problem };
        match poll(&mut wait, Some(&wait_for)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => return Ok(Output::Nothing),
            Ok(_) => {}
            Err(error) => return Err(failed(error.to_string())),
        }
        let mut bytes = vec![0; 1 << 16];
        let count = self.output.read(&mut bytes).map_err(|error| failed(error.to_string()))?;
        bytes.truncate(count);
        Ok(if count > 0 { Output::Bytes(bytes) } else { Output::End })
    }

    /// A frame that has come, with the time at which it was taken.
    fn frame(&mut self, outcome: Result<RawFrame, CameraError>) -> Result<Frame, CameraError> {
        let now = Instant::now();
        // A frame that is none has taken its time, too.
        let age = self.pace.arrived(now);
        let (bytes, format, width, height) = outcome?;
        let captured_at = now.checked_sub(age.ok_or(CameraError::Late)?).unwrap_or(now);
        self.sequence += 1;
        let stride = if format == PixelFormat::I420 { width } else { 0 };
        Ok(Frame { bytes, format, width, height, stride, sequence: self.sequence, captured_at })
    }

    /// Why no frame came in time: a program that is silent, or one that writes something else than was configured.
    fn timed_out(&self, bytes: u64) -> CameraError {
        let (device, waited) = (self.program.clone(), self.timeout);
        if bytes == 0 {
            return CameraError::TimedOut { device, waited };
        }
        let missing = match self.stream {
            Stream::Mjpeg(_) => "no whole JPEG; is camera.stream = \"mjpeg\" what it writes?".to_owned(),
            Stream::Yuv420 { width, height, .. } => {
                format!(
                    "not one frame of {width}×{height}; do its arguments say the size and rate of this configuration?"
                )
            }
        };
        CameraError::Unavailable { device, problem: format!("it wrote {bytes} bytes within {waited:?}, but {missing}") }
    }

    /// Its output has come to the end. A program may close it and stay, so it is waited for only for a moment.
    fn ended(&mut self) -> CameraError {
        let until = Instant::now() + GRACE;
        while !self.running.has_exited() && Instant::now() < until {
            thread::sleep(Duration::from_millis(5));
        }
        let how = match (self.running.has_exited(), self.running.kill()) {
            (true, Some(status)) => format!("the program ended ({status})"),
            _ => "the program closed its output and did not end".to_owned(),
        };
        let words = self.last_words.all();
        let said = if words.is_empty() { String::new() } else { format!("; it said: {words}") };
        CameraError::Unavailable { device: self.program.clone(), problem: how + &said }
    }
}

impl Stream {
    fn push(&mut self, more: &[u8]) {
        match self {
            Stream::Mjpeg(splitter) => splitter.push(more),
            Stream::Yuv420 { bytes, .. } => bytes.extend_from_slice(more),
        }
    }

    /// The next whole frame, if there is one already: bytes, format, width, height.
    fn next(&mut self) -> Result<Option<RawFrame>, CameraError> {
        match self {
            Stream::Mjpeg(splitter) => match splitter.next_picture() {
                None => Ok(None),
                Some(Err(Torn)) => Err(CameraError::Torn("a JPEG ends before its end".into())),
                Some(Ok(bytes)) => {
                    let reader =
                        image::ImageReader::with_format(std::io::Cursor::new(&bytes), image::ImageFormat::Jpeg);
                    let (width, height) =
                        reader.into_dimensions().map_err(|error| CameraError::BrokenFrame(error.to_string()))?;
                    Ok(Some((bytes, PixelFormat::Mjpeg, width, height)))
                }
            },
            Stream::Yuv420 { width, height, bytes } => {
                let needed = (*width * *height * 3 / 2) as usize;
                let whole = (bytes.len() >= needed).then(|| bytes.drain(..needed).collect());
                Ok(whole.map(|frame| (frame, PixelFormat::I420, *width, *height)))
            }
        }
    }
}

impl Camera for CommandCamera {
    fn next_frame(&mut self) -> Result<Frame, CameraError> {
        let step_ends = Instant::now() + STEP;
        let (since, mut bytes_come) = self.waiting.take().unwrap_or((Instant::now(), 0));
        loop {
            if let Some(outcome) = self.stream.next().transpose() {
                return self.frame(outcome);
            }
            if since.elapsed() >= self.timeout {
                return Err(self.timed_out(bytes_come));
            }
            let left = step_ends.saturating_duration_since(Instant::now());
            if left.is_zero() {
                self.waiting = Some((since, bytes_come));
                return Err(CameraError::NotYet);
            }
            match self.read(left.min(self.timeout))? {
                Output::Nothing => {}
                Output::Bytes(bytes) => {
                    bytes_come += bytes.len() as u64;
                    self.stream.push(&bytes);
                }
                Output::End => return Err(self.ended()),
            }
        }
    }

    fn describe(&self) -> String {
        match &self.stream {
            Stream::Mjpeg(_) => format!("{} writing MJPEG", self.program),
            Stream::Yuv420 { width, height, .. } => format!("{} writing YUV420 at {width}×{height}", self.program),
        }
    }

    fn timeout(&self) -> Option<Duration> {
        Some(self.timeout)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(script: &str, stream: CommandStream) -> CameraConfig {
        let command = ["sh", "-c", script].map(str::to_owned).to_vec();
        CameraConfig {
            command,
            stream,
            width: 4,
            height: 2,
            timeout: Duration::from_millis(300),
            ..CameraConfig::default()
        }
    }

    /// Asks on while there is nothing yet, or nothing whose age is known.
    fn next(camera: &mut CommandCamera) -> Result<Frame, CameraError> {
        loop {
            match camera.next_frame() {
                Err(CameraError::NotYet | CameraError::Late) => {}
                outcome => return outcome,
            }
        }
    }

    /// A process that is killed, but not reaped by its new parent yet, is in state Z.
    fn alive(pid: &str) -> bool {
        std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|status| !status.contains(") Z"))
    }

    #[test]
    fn frames_are_cut_by_their_size() {
        let script = "while :; do printf AAAAAAAAUUVVBBBBBBBBuuvv; sleep .1; done";
        let mut camera = CommandCamera::open(&config(script, CommandStream::Yuv420)).unwrap();
        let (first, second) = (next(&mut camera).unwrap(), next(&mut camera).unwrap());
        let mut both = [first.bytes.as_slice(), second.bytes.as_slice()];
        both.sort();
        assert_eq!(both, [b"AAAAAAAAUUVV", b"BBBBBBBBuuvv"]);
        assert_eq!((first.sequence, second.sequence), (1, 2));
    }

    #[test]
    fn the_end_of_the_program_is_explained() {
        let mut camera =
            CommandCamera::open(&config("echo no cameras available >&2; exit 3", CommandStream::Mjpeg)).unwrap();
        let error = next(&mut camera).err().unwrap().to_string();
        assert!(error.contains("exit status: 3") && error.contains("no cameras available"), "{error}");
    }

    #[test]
    fn a_password_in_what_the_program_says_is_not_repeated() {
        let script = "echo rtsp://cam:s3cret@10.0.0.5/1: Connection refused >&2; exit 1";
        let mut camera = CommandCamera::open(&config(script, CommandStream::Mjpeg)).unwrap();
        let error = next(&mut camera).err().unwrap().to_string();
        assert!(error.contains("rtsp://***@10.0.0.5/1: Connection refused"), "{error}");
    }

    #[test]
    fn a_program_that_stalls_times_out_and_dies_with_its_children() {
        let dir = tempfile::tempdir().unwrap();
        let note = dir.path().join("pid");
        let script = format!("sleep 60 & echo $! >{}; wait", note.display());
        let mut camera = CommandCamera::open(&config(&script, CommandStream::Mjpeg)).unwrap();
        assert!(matches!(camera.next_frame(), Err(CameraError::NotYet)), "it can be stopped before its time is over");
        assert!(matches!(next(&mut camera), Err(CameraError::TimedOut { .. })));
        let child = std::fs::read_to_string(note).unwrap();
        assert!(alive(child.trim()));
        drop(camera);
        let until = Instant::now() + Duration::from_secs(2);
        while alive(child.trim()) {
            assert!(Instant::now() < until, "the group is killed");
            thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn a_program_that_writes_no_jpeg_is_given_up_and_the_message_says_so() {
        let mut camera = CommandCamera::open(&config("exec cat /dev/zero", CommandStream::Mjpeg)).unwrap();
        let error = next(&mut camera).err().unwrap().to_string();
        assert!(error.contains("no whole JPEG") && error.contains("camera.stream"), "{error}");
    }

    #[test]
    fn a_program_that_closes_its_output_and_stays_is_not_waited_for() {
        let mut camera = CommandCamera::open(&config("exec >&-; sleep 60", CommandStream::Mjpeg)).unwrap();
        let error = next(&mut camera).err().unwrap().to_string();
        assert!(error.contains("closed its output"), "{error}");
    }

    #[test]
    fn a_jpeg_that_claims_to_be_gigantic_is_not_decoded() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("bomb.jpg");
        image::RgbImage::new(32, 24).save(&file).unwrap();
        let mut bytes = std::fs::read(&file).unwrap();
        let size = bytes.windows(2).position(|marker| marker == [0xff, 0xc0]).unwrap() + 5;
        bytes[size..size + 4].fill(0xfe);
        std::fs::write(&file, bytes).unwrap();
        let mut camera = CommandCamera::open(&config(&again_and_again(&file), CommandStream::Mjpeg)).unwrap();
        assert!(next(&mut camera).unwrap().rgb().is_err());
    }

    #[test]
    fn a_program_that_is_not_there_is_named() {
        if std::env::var_os("FACELATCH_RUNNER").is_some() {
            // Under qemu-user starting a program that is not there succeeds, and ends with 127.
            use std::io::Write;
            writeln!(
                std::io::stderr(),
                "SKIPPED: a camera's program that is not there: the emulator starts it all the same"
            )
            .unwrap();
            return;
        }
        let config = CameraConfig { command: vec!["/no/such/program".into()], ..CameraConfig::default() };
        let error = CommandCamera::open(&config).err().unwrap().to_string();
        assert!(error.contains("/no/such/program") && error.contains("installed"), "{error}");
    }

    #[test]
    fn mjpeg_frames_come_through() {
        let dir = tempfile::tempdir().unwrap();
        image::RgbImage::new(32, 24).save(dir.path().join("a.jpg")).unwrap();
        let script = again_and_again(&dir.path().join("a.jpg"));
        let mut camera = CommandCamera::open(&config(&script, CommandStream::Mjpeg)).unwrap();
        for _ in 0..2 {
            assert_eq!(next(&mut camera).unwrap().rgb().unwrap().dimensions(), (32, 24));
        }
    }

    /// A program that writes frames of its own numbers, which lie in files of these names.
    fn writes_frames(dir: &std::path::Path, script: &str) -> CommandCamera {
        for i in 0..256u32 {
            std::fs::write(dir.join(i.to_string()), [i as u8; 12]).unwrap();
        }
        let script = format!("cd {}; {script}", dir.display());
        let config =
            CameraConfig { fps: 15, timeout: Duration::from_secs(5), ..config(&script, CommandStream::Yuv420) };
        CommandCamera::open(&config).unwrap()
    }

    #[test]
    fn a_programs_backlog_after_a_stall_is_dropped() {
        // Live for 2.5 s, a stall of as long, its backlog at ten times the rate, then live.
        let live = |from: u32, to: u32, sleep: &str| {
            format!("i={from}; while [ $i -lt {to} ]; do cat $i; sleep {sleep}; i=$((i+1)); done;")
        };
        let script = live(0, 38, ".066") + "sleep 2.5;" + &live(38, 76, ".004") + &live(76, 200, ".066");
        let dir = tempfile::tempdir().unwrap();
        let mut camera = writes_frames(dir.path(), &script);
        let (mut numbers, mut late) = (Vec::new(), 0);
        loop {
            match camera.next_frame() {
                Ok(frame) => numbers.push((u32::from(frame.bytes[0]), frame.captured_at.elapsed())),
                Err(CameraError::Late) => late += 1,
                Err(CameraError::NotYet) => {}
                Err(error) => break assert!(error.to_string().contains("ended"), "{error}"),
            }
        }
        let backlog: Vec<_> = numbers.iter().filter(|(number, _)| (38..64).contains(number)).collect();
        assert!(backlog.is_empty(), "{backlog:?}");
        assert!(numbers.iter().filter(|(number, _)| *number < 38).count() > 10, "{numbers:?}");
        assert!(numbers.iter().filter(|(number, _)| *number > 110).count() > 60, "{numbers:?}");
        assert!((25..90).contains(&late), "{late}");
    }

    /// A program that shows one picture, ten times a second.
    fn again_and_again(file: &std::path::Path) -> String {
        format!("while :; do cat {}; sleep .1; done", file.display())
    }
}
