//! Whether the program grows while it runs: frames through the `files` camera in a loop, as fast as they are looked at, with the memory
//! it holds at the end against that near the beginning.
//!
//!     cargo bench --bench soak -- [--looks 1000000]
//!
//! It fails when the mean of the last tenth is more than 2 % above that of the second tenth (the first is spent on settling).

use std::{
    env,
    error::Error,
    fs,
    time::{Duration, Instant},
};

use facelatch::{
    camera::{
        self,
        capture::{Capture, Captured},
    },
    config::{CameraConfig, CameraSource, Config, PrecisionChoice},
    policy::Policy,
    service::Services,
    telemetry::Counters,
};
use image::{Rgb, RgbImage, imageops};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const MOST_GROWTH: f64 = 0.02;

fn main() -> Result<()> {
    let words: Vec<String> = env::args().skip(1).filter(|word| word != "--bench").collect();
    let looks: u64 = match &words[..] {
        [] => 20_000,
        [key, count] if key == "--looks" => count.parse()?,
        other => return Err(format!("{other:?}: --looks COUNT").into()),
    };
    let dir = tempfile::tempdir()?;
    let folder = dir.path().join("frames");
    frames(&folder)?;
    let mut config = Config::default();
    config.models.dir = concat!(env!("CARGO_MANIFEST_DIR"), "/models").into();
    config.models.precision = PrecisionChoice::Int8;
    config.enroll.folder = dir.path().join("enroll");
    config.store.path = dir.path().join("store");
    config.latch.line = None;
    let services = Services::open(config)?.0;
    let mut sight = services.sight();
    let mut policy = Policy::new(services.rules);

    // A frame every 50 µs: none is waited for.
    let camera =
        CameraConfig { source: CameraSource::Files, folder, fps: 20_000, repeat: true, ..CameraConfig::default() };
    let capture = Capture::start(Box::new(move || camera::open(&camera)), Counters::default())?;
    let (begun, mut looked, mut tenths) = (Instant::now(), 0, [(0.0, 0.0); 10]);
    while looked < looks {
        if let Captured::Frame(frame) = capture.next(Duration::from_secs(1)) {
            let roster = services.roster();
            let observations = sight.look(&frame, &roster.gallery, policy.attention())?;
            policy.judge(&observations, roster.threshold.limits, frame.captured_at, Instant::now());
            if looked % (looks / 1000).max(1) == 0 {
                let (sum, count) = &mut tenths[(looked * 10 / looks) as usize];
                (*sum, *count) = (*sum + rss_mib()?, *count + 1.0);
            }
            looked += 1;
        }
    }
    let means = tenths.map(|(sum, count)| sum / count);
    println!("{looks} frames in {:.0?}: {:?}", begun.elapsed(), sight.tally());
    println!("MiB held, by tenths: {}", means.map(|mean| format!("{mean:.1}")).join(" "));
    let growth = means[9] / means[1] - 1.0;
    println!("the last tenth against the second: {:+.2} %", growth * 100.0);
    if growth > MOST_GROWTH { Err("it grows".into()) } else { Ok(()) }
}

/// Somebody stands there, and nobody does, in turn.
fn frames(folder: &std::path::Path) -> Result<()> {
    fs::create_dir_all(folder)?;
    let portrait = image::open(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/barack_obama_1.png"))?.to_rgb8();
    let person = imageops::resize(&portrait, 240, 240, imageops::FilterType::Triangle);
    for number in 0..200u32 {
        let mut frame = RgbImage::from_fn(640, 480, |x, y| Rgb([(90 + x / 20 + y / 30) as u8; 3]));
        if number >= 100 {
            imageops::overlay(&mut frame, &person, i64::from(number), 120);
        }
        frame.save(folder.join(format!("{number:04}.jpg")))?;
    }
    Ok(())
}

/// Memory of this process that is in use now.
fn rss_mib() -> Result<f64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
    Ok(line.trim_end_matches("kB").trim().parse::<f64>()? / 1024.0)
}
