//! What Prometheus reads: counters, times of the stages, the board's health, in its text format 0.0.4.

use std::{
    fmt::{Display, Write},
    fs,
    sync::Arc,
};

use crate::{
    service::Services,
    telemetry::{BUCKETS, Histogram},
};

/// Everything there is to tell.
pub(super) fn text(services: &Arc<Services>) -> String {
    let mut page = Page::default();
    let status = services.status();
    let labels = format!("version=\"{}\",mode=\"{}\"", status.version, status.mode);
    page.single("facelatch_info", "gauge", "Always 1; the labels say what runs.", &labels, 1);
    page.single("facelatch_uptime_seconds", "gauge", "Since the start.", "", status.uptime_s);
    page.single("facelatch_camera_up", "gauge", "1 while the camera delivers.", "", u8::from(status.camera_ok));
    let enrolling = u8::from(status.enroll_problem.is_none());
    page.single("facelatch_enroll_up", "gauge", "1 while people can be enrolled and removed.", "", enrolling);
    page.single("facelatch_relay_active", "gauge", "1 while the relay is active.", "", u8::from(status.relay_active));
    page.single("facelatch_people", "gauge", "People enrolled.", "", status.people);
    page.single("facelatch_templates", "gauge", "Pictures they are known by.", "", status.templates);
    page.single("facelatch_viewers", "gauge", "Who looks at the live view.", "", services.live.viewers());
    for (name, value) in &status.counters {
        match name.ends_with("_queue") {
            true => page.single(&format!("facelatch_{name}"), "gauge", "What waits now.", "", value),
            false => page.single(&format!("facelatch_{name}_total"), "counter", "Since the start.", "", value),
        }
    }
    let reasons: Vec<_> = services
        .denials
        .snapshot()
        .into_iter()
        .map(|(reason, count)| (format!("reason=\"{reason}\""), count))
        .collect();
    page.family("facelatch_denials_total", "counter", "Visits that ended in no pulse, by reason.", &reasons);
    page.head("facelatch_stage_seconds", "histogram", "What the stages of recognition took, frame by frame.");
    for (stage, histogram) in services.times.snapshot() {
        page.histogram("facelatch_stage_seconds", stage, &histogram);
    }
    let board = [
        ("facelatch_resident_bytes", "gauge", "Memory held (RSS).", resident_bytes()),
        ("facelatch_board_celsius", "gauge", "The processor's temperature.", temperature()),
        (
            "facelatch_board_throttled",
            "gauge",
            "The Raspberry Pi's throttling flags: 1 undervoltage, 2 frequency capped, 4 throttled, 8 soft temperature limit; times 65536: it was so since boot.",
            throttled(),
        ),
    ];
    for (name, kind, help, value) in board {
        if let Some(value) = value {
            page.single(name, kind, help, "", value);
        }
    }
    page.0
}

#[derive(Default)]
struct Page(String);

impl Page {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        // Writing into a String cannot fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn family<T: Display>(&mut self, name: &str, kind: &str, help: &str, values: &[(String, T)]) {
        self.head(name, kind, help);
        for (labels, value) in values {
            let labels = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
            let _ = writeln!(self.0, "{name}{labels} {value}");
        }
    }

    fn single(&mut self, name: &str, kind: &str, help: &str, labels: &str, value: impl Display) {
        self.family(name, kind, help, &[(labels.to_owned(), value)]);
    }

    /// Buckets are counted from the smallest up, each with all before it.
    fn histogram(&mut self, name: &str, stage: &str, histogram: &Histogram) {
        let mut total = 0;
        let ends = BUCKETS.iter().map(ToString::to_string).chain(["+Inf".into()]);
        for (end, count) in ends.zip(histogram.counts) {
            total += count;
            let _ = writeln!(self.0, "{name}_bucket{{stage=\"{stage}\",le=\"{end}\"}} {total}");
        }
        let _ = writeln!(self.0, "{name}_sum{{stage=\"{stage}\"}} {}", histogram.sum.as_secs_f64());
        let _ = writeln!(self.0, "{name}_count{{stage=\"{stage}\"}} {total}");
    }
}

fn resident_bytes() -> Option<f64> {
    let statm = fs::read_to_string("/proc/self/statm").ok()?;
    let pages: f64 = statm.split(' ').nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as f64)
}

fn temperature() -> Option<f64> {
    let text = fs::read_to_string("/sys/class/thermal/thermal_zone0/temp").ok()?;
    Some(text.trim().parse::<f64>().ok()? / 1000.0)
}

fn throttled() -> Option<f64> {
    let text = fs::read_to_string("/sys/devices/platform/soc/soc:firmware/get_throttled").ok()?;
    Some(f64::from(u32::from_str_radix(text.trim().trim_start_matches("0x"), 16).ok()?))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::telemetry::Times;

    #[test]
    fn buckets_count_all_that_was_shorter() {
        let times = Times::default();
        for milliseconds in [1, 2, 7, 9000] {
            times.observe("embed", Duration::from_millis(milliseconds));
        }
        let mut page = Page::default();
        page.histogram("t", "embed", &times.snapshot()["embed"]);
        for line in [
            "t_bucket{stage=\"embed\",le=\"0.0005\"} 0",
            "t_bucket{stage=\"embed\",le=\"0.001\"} 1",
            "t_bucket{stage=\"embed\",le=\"0.0025\"} 2",
            "t_bucket{stage=\"embed\",le=\"2.5\"} 3",
            "t_bucket{stage=\"embed\",le=\"+Inf\"} 4",
            "t_sum{stage=\"embed\"} 9.01",
            "t_count{stage=\"embed\"} 4",
        ] {
            assert!(page.0.lines().any(|found| found == line), "{line} is not in\n{}", page.0);
        }
    }
}
