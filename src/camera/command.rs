//! A program that writes frames to its standard output: rpicam-vid for a Raspberry Pi's ribbon cable camera, ffmpeg for a
//! network camera.
//!
//! It runs without a shell, in a process group of its own, which is killed as a whole when the camera is closed.

use std::{
    io::{BufRead, BufReader, Read},
    os::unix::process::CommandExt,
    process::{Child, ChildStdout, Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, Signal, kill_process_group},
};

use super::{Camera, CameraError, mjpeg::MjpegSplitter};
use crate::{
    config::{CameraConfig, CommandStream},
    vision::frame::{Frame, PixelFormat},
};

/// Lines of the program's error output that are kept to explain its end.
const LINES_KEPT: usize = 5;

/// See the module.
pub(super) struct CommandCamera {
    program: String,
    child: Child,
    output: ChildStdout,
    last_words: Arc<Mutex<Vec<String>>>,
    stream: Stream,
    timeout: Duration,
    sequence: u64,
}

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
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .map_err(|error| unavailable(format!("{error}; is it installed, and camera.command right?")))?;
        let (Some(output), Some(errors)) = (child.stdout.take(), child.stderr.take()) else {
            return Err(unavailable("its output cannot be read".into()));
        };
        let last_words = Arc::default();
        listen(errors, program.clone(), Arc::clone(&last_words));
        let stream = match config.stream {
            CommandStream::Mjpeg => Stream::Mjpeg(MjpegSplitter::default()),
            CommandStream::Yuv420 => Stream::Yuv420 { width: config.width, height: config.height, bytes: Vec::new() },
        };
        Ok(CommandCamera {
            program: program.clone(),
            child,
            output,
            last_words,
            stream,
            timeout: config.timeout,
            sequence: 0,
        })
    }

    /// Bytes as they come; None when the program has ended.
    fn read(&mut self, deadline: Instant) -> Result<Option<Vec<u8>>, CameraError> {
        let left = deadline.saturating_duration_since(Instant::now());
        let mut wait = [PollFd::new(&self.output, PollFlags::IN)];
        let wait_for = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
        let failed = |problem: String| CameraError::Unavailable { device: self.program.clone(), problem };
        match poll(&mut wait, Some(&wait_for)) {
            Ok(0) => return Err(CameraError::TimedOut { device: self.program.clone(), waited: self.timeout }),
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => return Ok(Some(Vec::new())),
            Err(error) => return Err(failed(error.to_string())),
        }
        let mut bytes = vec![0; 1 << 16];
        let count = self.output.read(&mut bytes).map_err(|error| failed(error.to_string()))?;
        bytes.truncate(count);
        Ok((count > 0).then_some(bytes))
    }

    fn ended(&mut self) -> CameraError {
        let status = self.child.wait().map_or_else(|error| error.to_string(), |status| status.to_string());
        // Its last words may still be on their way.
        thread::sleep(Duration::from_millis(50));
        let words = self.last_words.lock().unwrap_or_else(PoisonError::into_inner).join(" / ");
        let said = if words.is_empty() { String::new() } else { format!("; it said: {words}") };
        CameraError::Unavailable {
            device: self.program.clone(),
            problem: format!("the program ended ({status}){said}"),
        }
    }
}

impl Stream {
    fn push(&mut self, more: &[u8]) {
        match self {
            Stream::Mjpeg(splitter) => splitter.push(more),
            Stream::Yuv420 { bytes, .. } => bytes.extend_from_slice(more),
        }
    }

    fn next(&mut self) -> Result<Option<(Vec<u8>, PixelFormat, u32, u32)>, CameraError> {
        match self {
            Stream::Mjpeg(splitter) => match splitter.next_picture() {
                None => Ok(None),
                Some(bytes) => {
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

/// Reads a program's error output until it ends.
fn listen(errors: impl Read + Send + 'static, program: String, last_words: Arc<Mutex<Vec<String>>>) {
    thread::spawn(move || {
        for line in BufReader::new(errors).lines().map_while(Result::ok) {
            log::debug!("{program}: {}", crate::telemetry::printable(&line));
            let mut words = last_words.lock().unwrap_or_else(PoisonError::into_inner);
            words.push(crate::telemetry::printable(&line));
            if words.len() > LINES_KEPT {
                words.remove(0);
            }
        }
    });
}

impl Camera for CommandCamera {
    fn next_frame(&mut self) -> Result<Frame, CameraError> {
        let deadline = Instant::now() + self.timeout;
        loop {
            if let Some((bytes, format, width, height)) = self.stream.next()? {
                self.sequence += 1;
                let stride = if format == PixelFormat::I420 { width } else { 0 };
                let captured_at = Instant::now();
                return Ok(Frame { bytes, format, width, height, stride, sequence: self.sequence, captured_at });
            }
            match self.read(deadline)? {
                Some(bytes) => self.stream.push(&bytes),
                None => return Err(self.ended()),
            }
        }
    }

    fn describe(&self) -> String {
        match &self.stream {
            Stream::Mjpeg(_) => format!("{} writing MJPEG", self.program),
            Stream::Yuv420 { width, height, .. } => format!("{} writing YUV420 at {width}×{height}", self.program),
        }
    }
}

impl Drop for CommandCamera {
    fn drop(&mut self) {
        if let Some(group) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process_group(group, Signal::KILL);
        }
        let _ = self.child.wait();
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

    #[test]
    fn frames_are_cut_by_their_size() {
        let mut camera =
            CommandCamera::open(&config("printf AAAAAAAAUUVVBBBBBBBBuuvv", CommandStream::Yuv420)).unwrap();
        assert_eq!(camera.next_frame().unwrap().bytes, b"AAAAAAAAUUVV");
        let second = camera.next_frame().unwrap();
        assert_eq!((second.bytes.as_slice(), second.sequence), (b"BBBBBBBBuuvv".as_slice(), 2));
    }

    #[test]
    fn the_end_of_the_program_is_explained() {
        let mut camera =
            CommandCamera::open(&config("echo no cameras available >&2; exit 3", CommandStream::Mjpeg)).unwrap();
        let error = camera.next_frame().err().unwrap().to_string();
        assert!(error.contains("exit status: 3") && error.contains("no cameras available"), "{error}");
    }

    #[test]
    fn a_program_that_stalls_times_out_and_is_killed() {
        let mut camera = CommandCamera::open(&config("sleep 60 & wait", CommandStream::Mjpeg)).unwrap();
        assert!(matches!(camera.next_frame(), Err(CameraError::TimedOut { .. })));
        let started = Instant::now();
        drop(camera);
        assert!(started.elapsed() < Duration::from_secs(5), "the group is killed, not waited for");
    }

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let config = CameraConfig { command: vec!["/no/such/program".into()], ..CameraConfig::default() };
        let error = CommandCamera::open(&config).err().unwrap().to_string();
        assert!(error.contains("/no/such/program") && error.contains("installed"), "{error}");
    }

    #[test]
    fn mjpeg_frames_come_through() {
        let dir = tempfile::tempdir().unwrap();
        image::RgbImage::new(32, 24).save(dir.path().join("a.jpg")).unwrap();
        let file = dir.path().join("a.jpg").display().to_string();
        let mut camera = CommandCamera::open(&config(&format!("cat {file} {file}"), CommandStream::Mjpeg)).unwrap();
        for _ in 0..2 {
            assert_eq!(camera.next_frame().unwrap().rgb().unwrap().dimensions(), (32, 24));
        }
        assert!(camera.next_frame().is_err());
    }
}
