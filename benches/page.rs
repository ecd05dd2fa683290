//! What the page costs the door: the time to decide, and memory, with nobody looking, with 20 and 100 viewers, and with clients that
//! mean harm.
//!
//!     cargo bench --bench page
//!
//! The daemon runs as a program of its own before frames in which a known person comes again and again; how long each decision took
//! is what it recorded itself, from the frame's capture to the relay. Everything else that can be switched on is: metrics, a hook,
//! a broker that is not there, unknown faces.

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use facelatch::{api::ask, control::ControlClient, store::EventKind};
use image::{Rgb, RgbImage, imageops};

/// Visits that are timed under each load.
const VISITS: usize = 20;

fn main() {
    // `cargo test` runs benches too; this one takes minutes.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let address = free_address();
    prepare(dir.path(), address);
    let mut daemon = Daemon::start(dir.path());
    println!("{VISITS} visits under each load; ms from the deciding frame to the relay");
    println!("{:52} {:>7} {:>7} {:>7} {:>9}", "load", "median", "p90", "most", "RSS MiB");
    let quiet = daemon.measure("nobody looks", None);
    for viewers in [20, 100] {
        let stop = Arc::new(AtomicBool::new(false));
        let read = Arc::new(AtomicU64::new(0));
        let threads: Vec<_> = (0..viewers).map(|_| viewer(address, &stop, &read)).collect();
        let loaded = daemon.measure(&format!("{viewers} viewers"), Some(quiet));
        stop.store(true, Ordering::Relaxed);
        threads.into_iter().for_each(|thread| thread.join().expect("a viewer ended well"));
        assert!(read.load(Ordering::Relaxed) > 0, "the viewers saw nothing");
        assert!(loaded > 0.0);
    }
    let stop = Arc::new(AtomicBool::new(false));
    let threads = hostile(address, &stop);
    daemon.measure("10,000 idle connections, slow and blind ones, a storm", Some(quiet));
    stop.store(true, Ordering::Relaxed);
    threads.into_iter().for_each(|thread| thread.join().expect("a client ended well"));
    daemon.measure("nobody looks again", Some(quiet));
    let _ = daemon.process.kill();
    let log = fs::read_to_string(dir.path().join("log")).unwrap_or_default();
    let lines = log.lines().filter(|line| line.contains("page") || line.contains("broker") || line.contains("hook"));
    println!("the log about all this:");
    lines.for_each(|line| println!("  {line}"));
}

fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port")
}

fn prepare(dir: &Path, address: SocketAddr) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for folder in ["frames", "enroll"] {
        fs::create_dir(dir.join(folder)).expect("a folder");
    }
    fs::copy(root.join("tests/data/barack_obama_1.png"), dir.join("enroll/Barack Obama.png")).expect("a portrait");
    let portrait = image::open(root.join("tests/data/barack_obama_2.png")).expect("a portrait").to_rgb8();
    let person = imageops::resize(&portrait, 440, 440, imageops::FilterType::Triangle);
    for number in 0..26 {
        let mut frame =
            RgbImage::from_fn(640, 480, |x, y| Rgb([100 + ((((x * 7919) ^ (y * 104_729)) >> 3) & 7) as u8; 3]));
        if number < 10 {
            imageops::overlay(&mut frame, &person, 100 + number % 3, 40);
        }
        frame.save(dir.join(format!("frames/{number:04}.jpg"))).expect("a frame");
    }
    let config = format!(
        r#"
[camera]
source = "files"
folder = "frames"
fps = 20
repeat = true
[models]
dir = "{}"
precision = "w8"
[recognition]
visit_gap = "500ms"
cooldown = "0s"
[enroll]
folder = "enroll"
keep_unknown = 10
[store]
path = "store"
[latch]
backend = "simulated"
line = 17
hold = "200ms"
[control]
socket = "control.sock"
[http]
enabled = true
listen = "{address}"
metrics = true
[mqtt]
broker = "mqtt://{}"
[[hooks]]
on = ["granted"]
command = ["true"]
"#,
        root.join("models").display(),
        free_address()
    );
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    fs::write(dir.join("facelatch.toml"), config).expect("a configuration");
}

struct Daemon {
    process: Child,
    events: ControlClient,
}

impl Daemon {
    fn start(dir: &Path) -> Daemon {
        let log = fs::File::create(dir.join("log")).expect("a log");
        let process = Command::new(env!("CARGO_BIN_EXE_facelatch"))
            .args(["--config".as_ref(), dir.join("facelatch.toml").as_os_str(), "run".as_ref()])
            // As the service does.
            .env("MALLOC_MMAP_THRESHOLD_", "1048576")
            .env("MALLOC_TRIM_THRESHOLD_", "4194304")
            .env("MALLOC_ARENA_MAX", "2")
            .env("MALLOC_TOP_PAD_", "0")
            .stderr(log)
            .spawn()
            .expect("the daemon starts");
        let until = Instant::now() + Duration::from_secs(30);
        let mut events = loop {
            match ControlClient::connect(&dir.join("control.sock")) {
                Ok(client) => break client,
                Err(error) => assert!(Instant::now() < until, "{error}"),
            }
            thread::sleep(Duration::from_millis(50));
        };
        events.ask(ask::Events { since_ms: None, limit: Some(0), follow: true }).expect("it answers");
        Daemon { process, events }
    }

    /// The median; beside it the ratio to that of the quiet door.
    fn measure(&mut self, load: &str, quiet: Option<f64>) -> f64 {
        let mut times = Vec::new();
        // The first one may have begun before the load.
        while times.len() <= VISITS {
            let events = self.events.next_events().expect("the daemon lives");
            times.extend(events.iter().filter_map(|event| match event.kind {
                EventKind::Granted { latency_ms, .. } => Some(f64::from(latency_ms)),
                _ => None,
            }));
        }
        times.remove(0);
        times.sort_by(f64::total_cmp);
        let (median, most) = (times[times.len() / 2], times[times.len() - 1]);
        let ratio = quiet.map_or_else(String::new, |quiet| format!("  {:.2} of the quiet door's", median / quiet));
        println!(
            "{load:52} {median:7.0} {:7.0} {most:7.0} {:9.1}{ratio}",
            times[times.len() * 9 / 10],
            resident_mib(self.process.id())
        );
        median
    }
}

fn resident_mib(pid: u32) -> f64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<f64>().ok()).unwrap_or(0.0) / 1024.0
}

fn ask(address: SocketAddr, request: &str) -> Option<TcpStream> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(Duration::from_millis(500))).ok()?;
    stream.write_all(request.as_bytes()).ok()?;
    Some(stream)
}

const STREAM: &str = "GET /api/stream HTTP/1.1\r\nHost: localhost\r\n\r\n";

fn viewer(address: SocketAddr, stop: &Arc<AtomicBool>, read: &Arc<AtomicU64>) -> thread::JoinHandle<()> {
    let (stop, read) = (Arc::clone(stop), Arc::clone(read));
    thread::spawn(move || {
        let mut buffer = vec![0; 1 << 16];
        while !stop.load(Ordering::Relaxed) {
            let Some(mut stream) = ask(address, STREAM) else { continue };
            while !stop.load(Ordering::Relaxed) {
                match stream.read(&mut buffer) {
                    Ok(0) => break,
                    Ok(count) => drop(read.fetch_add(count as u64, Ordering::Relaxed)),
                    Err(_) => {}
                }
            }
            thread::sleep(Duration::from_millis(100));
        }
    })
}

/// Connections that say nothing, ten thousand of them in turn; viewers that read a byte a second or nothing; uploads that never end;
/// rubbish, and as many requests as can be made.
fn hostile(address: SocketAddr, stop: &Arc<AtomicBool>) -> Vec<thread::JoinHandle<()>> {
    let spawn = |work: Box<dyn Fn() + Send>| {
        let stop = Arc::clone(stop);
        thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                work();
            }
        })
    };
    let idle = spawn(Box::new(move || {
        let mut open = std::collections::VecDeque::new();
        for _ in 0..10_000 {
            open.extend(TcpStream::connect(address).ok());
            if open.len() > 500 {
                open.pop_front();
            }
            thread::sleep(Duration::from_micros(500));
        }
    }));
    let slow = spawn(Box::new(move || {
        let mut streams: Vec<_> = (0..10).filter_map(|_| ask(address, STREAM)).collect();
        for _ in 0..5 {
            let mut byte = [0];
            streams.iter_mut().take(5).for_each(|stream| drop(stream.read(&mut byte)));
            thread::sleep(Duration::from_secs(1));
        }
    }));
    let endless = spawn(Box::new(move || {
        let head = "POST /api/identify HTTP/1.1\r\nHost: localhost\r\nContent-Length: 30000000\r\n\r\n";
        let mut stream = ask(address, head);
        for _ in 0..50 {
            if let Some(stream) = stream.as_mut() {
                let _ = stream.write_all(&[0; 1000]);
            }
            thread::sleep(Duration::from_millis(20));
        }
    }));
    let storm = spawn(Box::new(move || {
        for request in
            ["GET /api/session HTTP/1.1\r\nHost: localhost\r\n\r\n", "\0\0\0\r\n\r\n", "GET /../../x HTTP/1.1\r\n\r\n"]
        {
            let mut answer = [0; 256];
            if let Some(mut stream) = ask(address, request) {
                let _ = stream.read(&mut answer);
            }
        }
        thread::sleep(Duration::from_millis(2));
    }));
    vec![idle, slow, endless, storm]
}
