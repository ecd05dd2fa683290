//! What Home Assistant is told so that it shows the door by itself (its "MQTT discovery"): a retained message per entity, all of one device.

use serde_json::{Map, Value, json};

use super::{COMMAND, Topics, outbox::Message};

/// What there is to discover.
pub(super) struct Device<'a> {
    pub name: &'a str,
    /// Whether a relay is driven.
    pub unlocks: bool,
    /// Whether a message may open.
    pub opens: bool,
    pub temperature: bool,
    pub event_types: Vec<Value>,
}

/// One message per entity; one that is not there is taken away by an empty message, in case it was there before.
pub(super) fn messages(prefix: &str, topics: &Topics, device: &Device<'_>) -> Vec<Message> {
    let state = |template: &str| json!({ "state_topic": topics.state, "value_template": template });
    let diagnostic = json!({ "entity_category": "diagnostic" });
    // The relay's state: where the door itself stands nobody knows.
    let lock =
        [json!({ "name": "Lock", "device_class": "lock" }), state("{{ 'ON' if value_json.relay_active else 'OFF' }}")];
    let open = [json!({
        "name": "Open", "icon": "mdi:door-open", "command_topic": topics.command, "payload_press": COMMAND,
    })];
    let last_person = [
        json!({ "name": "Last person", "icon": "mdi:account" }),
        state("{{ value_json.last_person }}"),
        attributes(topics, "{{ {'at': value_json.last_person_at} | tojson }}"),
    ];
    let event = [json!({
        "name": "Event", "icon": "mdi:face-recognition", "state_topic": topics.event, "event_types": device.event_types,
    })];
    let camera = [
        json!({ "name": "Camera", "device_class": "problem" }),
        state("{{ 'OFF' if value_json.camera_ok else 'ON' }}"),
        attributes(topics, "{{ {'camera': value_json.camera} | tojson }}"),
        diagnostic.clone(),
    ];
    let relay = [
        json!({ "name": "Relay", "device_class": "problem" }),
        state("{{ 'ON' if value_json.relay_problem else 'OFF' }}"),
        attributes(topics, "{{ {'problem': value_json.relay_problem} | tojson }}"),
        diagnostic.clone(),
    ];
    let people = [
        json!({ "name": "People enrolled", "icon": "mdi:account-group" }),
        state("{{ value_json.people }}"),
        diagnostic.clone(),
    ];
    let temperature = [
        json!({ "name": "Temperature", "device_class": "temperature", "unit_of_measurement": "°C" }),
        json!({ "state_class": "measurement" }),
        state("{{ value_json.temperature }}"),
        diagnostic,
    ];
    let entities: [(&str, &str, bool, &[Value]); 8] = [
        ("binary_sensor", "lock", device.unlocks, &lock),
        ("button", "open", device.opens, &open),
        ("sensor", "last_person", true, &last_person),
        ("event", "event", true, &event),
        ("binary_sensor", "camera", true, &camera),
        ("binary_sensor", "relay", device.unlocks, &relay),
        ("sensor", "people", true, &people),
        ("sensor", "temperature", device.temperature, &temperature),
    ];
    let message = |(component, object, there, parts): (&str, &str, bool, &[Value])| {
        let config = || Value::Object(whole(object, topics, device.name, parts)).to_string();
        Message {
            topic: format!("{prefix}/{component}/{}/{object}/config", topics.node),
            payload: if there { config() } else { String::new() },
            retain: true,
        }
    };
    entities.into_iter().map(message).collect()
}

fn attributes(topics: &Topics, template: &str) -> Value {
    json!({ "json_attributes_topic": topics.state, "json_attributes_template": template })
}

/// The entity's own keys and those that all have.
fn whole(object: &str, topics: &Topics, name: &str, parts: &[Value]) -> Map<String, Value> {
    let version = env!("CARGO_PKG_VERSION");
    let common = json!({
        "unique_id": format!("{}_{object}", topics.node),
        "availability_topic": topics.availability,
        "qos": 1,
        "device": { "identifiers": [topics.node], "name": name, "manufacturer": "facelatch", "sw_version": version },
        "origin": { "name": "facelatch", "sw_version": version },
    });
    let objects = parts.iter().chain([&common]).filter_map(Value::as_object);
    objects.flatten().map(|(key, value)| (key.clone(), value.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(unlocks: bool, opens: bool) -> Vec<(String, Value)> {
        let device =
            Device { name: "Front \"door\"", unlocks, opens, temperature: false, event_types: vec!["granted".into()] };
        let messages = messages("homeassistant", &Topics::new("house/front door"), &device);
        assert!(messages.iter().all(|message| message.retain));
        let read = |text: &str| if text.is_empty() { Value::Null } else { serde_json::from_str(text).unwrap() };
        messages.into_iter().map(|message| (message.topic, read(&message.payload))).collect()
    }

    #[test]
    fn every_entity_is_of_one_device_and_has_an_id_of_its_own() {
        let told = told(true, true);
        let there: Vec<&Value> = told.iter().map(|(_, entity)| entity).filter(|entity| !entity.is_null()).collect();
        let mut ids: Vec<&str> = there.iter().map(|entity| entity["unique_id"].as_str().unwrap()).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), 7);
        for entity in there {
            assert_eq!(entity["device"]["identifiers"], json!(["house_front_door"]));
            assert_eq!(entity["device"]["name"], "Front \"door\"");
            assert_eq!(entity["availability_topic"], "house/front door/availability");
            assert!(entity["name"].is_string() && entity["origin"]["name"].is_string());
        }
        let (topic, open) = told.iter().find(|(topic, _)| topic.contains("button")).unwrap();
        assert_eq!(topic, "homeassistant/button/house_front_door/open/config");
        assert_eq!(open["command_topic"], "house/front door/command");
    }

    #[test]
    fn what_is_not_there_is_taken_away() {
        let gone = |unlocks, opens| {
            let gone = told(unlocks, opens).into_iter().filter(|(_, entity)| entity.is_null());
            gone.map(|(topic, _)| topic.split('/').nth(3).unwrap().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(gone(true, false), ["open", "temperature"]);
        assert_eq!(gone(false, false), ["lock", "open", "relay", "temperature"]);
    }
}
