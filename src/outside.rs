//! What broker and hooks have in common: an event as programs outside read it, and how long to wait before trying again.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::{
    config::EventName,
    store::{Event, EventKind},
};

/// The event as one flat JSON object with the event's own time.
pub fn notice(event: &Event) -> Map<String, Value> {
    let mut notice = Map::new();
    let mut put = |key: &str, value: Value| notice.insert(key.to_owned(), value);
    put("id", event.id.into());
    put("at", iso_time(event.at_ms).into());
    put("event_type", json!(name_of(&event.kind)));
    match &event.kind {
        EventKind::Started | EventKind::Stopped => {}
        EventKind::Granted { name, distance, frames, latency_ms, pulsed, .. } => {
            put("person", name.as_str().into());
            put("distance", rounded(*distance));
            put("frames", (*frames).into());
            put("latency_ms", (*latency_ms).into());
            put("pulsed", (*pulsed).into());
        }
        EventKind::Denied { reason, nearest, distance, frames } => {
            put("reason", reason.as_str().into());
            put("nearest", nearest.as_ref().map(|(_, name)| name.as_str()).into());
            put("distance", distance.map_or(Value::Null, rounded));
            put("frames", (*frames).into());
        }
        EventKind::Opened { by } => {
            put("by", by.as_str().into());
        }
        EventKind::Enrolled { name, picture, .. } | EventKind::Forgotten { name, picture, .. } => {
            put("person", name.as_str().into());
            put("picture", picture.as_str().into());
        }
        EventKind::Refused { name, picture, reason } => {
            put("person", name.as_str().into());
            put("picture", picture.as_str().into());
            put("reason", reason.as_str().into());
        }
        EventKind::Renamed { from, to, .. } => {
            put("person", to.as_str().into());
            put("former", from.as_str().into());
        }
        EventKind::CameraLost { problem } => {
            put("problem", problem.as_str().into());
        }
        EventKind::CameraBack { after } => {
            put("after_s", rounded(after.as_secs_f32()));
        }
        EventKind::ClockSet { by_ms } => {
            put("by_ms", (*by_ms).into());
        }
        EventKind::ShutOut { names, reason } => {
            put("people", json!(names));
            put("reason", reason.as_str().into());
        }
        EventKind::RelayStuck { problem } => {
            put("problem", problem.as_str().into());
        }
        EventKind::RelayFreed { after } => {
            put("after_s", rounded(after.as_secs_f32()));
        }
        EventKind::DeniedMore { count, over } => {
            put("count", (*count).into());
            put("over_s", rounded(over.as_secs_f32()));
        }
        EventKind::StoreDamaged { problem, events_missing } => {
            put("problem", problem.as_str().into());
            put("events_missing", (*events_missing).into());
        }
    }
    notice
}

pub fn name_of(kind: &EventKind) -> EventName {
    match kind {
        EventKind::Started => EventName::Started,
        EventKind::Stopped => EventName::Stopped,
        EventKind::Granted { .. } => EventName::Granted,
        EventKind::Denied { .. } => EventName::Denied,
        EventKind::Opened { .. } => EventName::Opened,
        EventKind::Enrolled { .. } => EventName::Enrolled,
        EventKind::Refused { .. } => EventName::Refused,
        EventKind::Forgotten { .. } => EventName::Forgotten,
        EventKind::Renamed { .. } => EventName::Renamed,
        EventKind::CameraLost { .. } => EventName::CameraLost,
        EventKind::CameraBack { .. } => EventName::CameraBack,
        EventKind::ClockSet { .. } => EventName::ClockSet,
        EventKind::ShutOut { .. } => EventName::ShutOut,
        EventKind::RelayStuck { .. } => EventName::RelayStuck,
        EventKind::RelayFreed { .. } => EventName::RelayFreed,
        EventKind::DeniedMore { .. } => EventName::DeniedMore,
        EventKind::StoreDamaged { .. } => EventName::StoreDamaged,
    }
}

/// As in `2026-11-25T21:30:01.123Z`.
pub fn iso_time(at_ms: i64) -> String {
    Timestamp::from_millisecond(at_ms).map_or_else(|_| at_ms.to_string(), |time| format!("{time:.3}"))
}

/// To three digits after the point.
fn rounded(value: f32) -> Value {
    json!((f64::from(value) * 1000.0).round() / 1000.0)
}

/// How long to wait after so many failures in a row: twice as long each time, up to `most`, and by chance up to half of it
/// less, so that those who lost the same server do not come back all at once.
pub fn pause(failures: u32, most: Duration) -> Duration {
    let whole = Duration::from_secs(1).saturating_mul(1 << failures.clamp(1, 20).saturating_sub(1)).min(most);
    let mut chance = [0];
    // Without chance all is well too.
    let _ = getrandom::fill(&mut chance);
    whole - whole.mul_f32(f32::from(chance[0]) / 512.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gallery::PersonId;

    fn read(kind: EventKind) -> Value {
        let event = Event { id: 7, at_ms: 1_764_106_201_123, boot_id: String::new(), since_boot: Duration::ZERO, kind };
        Value::Object(notice(&event))
    }

    #[test]
    fn every_event_is_documented_for_those_who_hear_of_it() {
        let (table, config) = (include_str!("../docs/home-automation.md"), include_str!("../config/facelatch.toml"));
        for name in EventName::ALL {
            let name = serde_json::to_value(name).unwrap();
            let name = name.as_str().unwrap();
            assert!(table.contains(&format!("`{name}`")) && config.contains(name), "{name}");
        }
    }

    #[test]
    fn an_event_is_one_flat_object_with_its_own_time() {
        let granted = EventKind::Granted {
            person: PersonId(3),
            name: "Ada \"the\" Countess".into(),
            distance: 0.42,
            frames: 3,
            latency_ms: 90,
            pulsed: true,
        };
        let expected = json!({
            "id": 7, "at": "2025-11-25T21:30:01.123Z", "event_type": "granted", "person": "Ada \"the\" Countess",
            "distance": 0.42, "frames": 3, "latency_ms": 90, "pulsed": true,
        });
        assert_eq!(read(granted), expected);
        let after = Duration::from_millis(1500);
        assert_eq!(read(EventKind::CameraBack { after })["after_s"], json!(1.5));
        let denied = EventKind::Denied { reason: "r".into(), nearest: None, distance: None, frames: 0 };
        assert_eq!(read(denied)["nearest"], Value::Null);
    }

    #[test]
    fn a_pause_doubles_up_to_its_limit() {
        let most = Duration::from_secs(60);
        for (failures, whole) in [(1, 1), (2, 2), (3, 4), (7, 60), (1000, 60)] {
            let whole = Duration::from_secs(whole);
            let pause = pause(failures, most);
            assert!(whole / 2 <= pause && pause <= whole, "{failures}: {pause:?}");
        }
    }
}
