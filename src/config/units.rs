//! How durations, rates and a broker's address are written.

use std::{fmt, net::IpAddr, time::Duration};

use jiff::civil::Time;
use serde::{
    Deserialize, Deserializer,
    de::{Error, Visitor},
};

use super::{Broker, FalseMatchRate};

const UNITS: [(&str, u64); 5] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

/// Reads "400ms", "5s", "2m", "2h" or "365d": a whole number and its unit.
///
/// # Errors
/// A sentence that says what is expected.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let milliseconds = UNITS.iter().find(|(name, _)| *name == unit.trim()).map(|(_, milliseconds)| milliseconds);
    match (number.parse::<u64>(), milliseconds) {
        (Ok(number), Some(unit)) if number <= 1_000_000_000 => Ok(Duration::from_millis(number * unit)),
        _ => Err(format!(
            "\"{text}\" is no duration; give a whole number with its unit: \"400ms\", \"5s\", \"2m\", \"2h\" or \"30d\""
        )),
    }
}

/// For `#[serde(deserialize_with)]`.
pub(super) fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    struct Text;
    impl Visitor<'_> for Text {
        type Value = Duration;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a duration in quotes with its unit, for example \"5s\"")
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<Duration, E> {
            parse_duration(text).map_err(E::custom)
        }
    }
    deserializer.deserialize_any(Text)
}

/// For `#[serde(deserialize_with)]` on a key that may be left out.
pub(super) fn optional_duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    duration(deserializer).map(Some)
}

/// Reads "00:00" to "23:59".
fn parse_time_of_day(text: &str) -> Result<Time, String> {
    let number =
        |text: &str| text.parse::<i8>().ok().filter(|_| text.len() == 2 && text.bytes().all(|b| b.is_ascii_digit()));
    text.split_once(':')
        .and_then(|(hour, minute)| Time::new(number(hour)?, number(minute)?, 0, 0).ok())
        .ok_or_else(|| format!("\"{text}\" is no time of day; give \"00:00\" to \"23:59\""))
}

/// For `#[serde(deserialize_with)]`.
pub(super) fn time_of_day<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Time, D::Error> {
    struct Text;
    impl Visitor<'_> for Text {
        type Value = Time;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a time of day in quotes, for example \"04:00\"")
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<Time, E> {
            parse_time_of_day(text).map_err(E::custom)
        }
    }
    deserializer.deserialize_any(Text)
}

impl<'de> Deserialize<'de> for FalseMatchRate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Rate;
        impl Visitor<'_> for Rate {
            type Value = FalseMatchRate;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a rate such as \"1/10000\" or 0.0001")
            }

            fn visit_f64<E: Error>(self, rate: f64) -> Result<FalseMatchRate, E> {
                Ok(FalseMatchRate(rate))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<FalseMatchRate, E> {
                let number = |text: &str| text.trim().parse::<f64>().ok();
                text.split_once('/')
                    .and_then(|(one, of)| Some(FalseMatchRate(number(one)? / number(of)?)))
                    .ok_or_else(|| E::custom(format!("\"{text}\" is no rate; give for example \"1/10000\" or 0.0001")))
            }
        }
        deserializer.deserialize_any(Rate)
    }
}

/// Reads "mqtt://host:1883" or "mqtts://host:8883", the port being optional; None of an empty text.
///
/// # Errors
/// A sentence that says what is expected.
pub fn parse_broker(text: &str) -> Result<Option<Broker>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    let read = || {
        let (scheme, address) = text.split_once("://")?;
        let (tls, port) = match scheme {
            "mqtt" => (false, 1883),
            "mqtts" => (true, 8883),
            _ => return None,
        };
        // The colons of an IPv6 address stand in brackets.
        let (host, port) = match address.rsplit_once(':').filter(|(_, after)| !after.contains(']')) {
            Some((host, port)) => (host, port.parse().ok()?),
            None => (address, port),
        };
        let fine = |c: char| c.is_ascii_alphanumeric() || "-._:[]".contains(c);
        (!host.is_empty() && host.chars().all(fine)).then(|| Broker { tls, host: host.to_owned(), port })
    };
    let expected =
        "give \"mqtt://HOST:1883\" or, with TLS, \"mqtts://HOST:8883\"; user and password have keys of their own";
    read().map(Some).ok_or_else(|| format!("\"{text}\" is no broker; {expected}"))
}

/// For `#[serde(deserialize_with)]`.
pub(super) fn broker<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Broker>, D::Error> {
    parse_broker(&String::deserialize(deserializer)?).map_err(D::Error::custom)
}

impl Broker {
    /// Whether it runs here, so that nothing leaves this machine.
    pub(super) fn is_this_machine(&self) -> bool {
        let host = self.host.trim_matches(['[', ']']);
        host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
    }
}

impl fmt::Display for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "mqtt{}://{}:{}", if self.tls { "s" } else { "" }, self.host, self.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broker_has_a_scheme_and_a_host() {
        let read = |text: &str| parse_broker(text).map(|broker| broker.map(|broker| broker.to_string()));
        assert_eq!(read(""), Ok(None));
        assert_eq!(read("mqtt://pi.local"), Ok(Some("mqtt://pi.local:1883".into())));
        assert_eq!(read("mqtts://10.0.0.2:1234"), Ok(Some("mqtts://10.0.0.2:1234".into())));
        assert_eq!(read("mqtt://[::1]"), Ok(Some("mqtt://[::1]:1883".into())));
        for wrong in [
            "pi.local",
            "http://pi",
            "mqtt://",
            "mqtt://:1883",
            "mqtt://pi:99999",
            "mqtt://me:secret@pi",
            "mqtt://pi/x",
        ] {
            assert!(read(wrong).unwrap_err().contains("mqtts://HOST:8883"), "{wrong}");
        }
    }

    #[test]
    fn durations_have_a_unit() {
        assert_eq!(parse_duration("400ms"), Ok(Duration::from_millis(400)));
        assert_eq!(parse_duration("2h"), Ok(Duration::from_secs(7200)));
        assert_eq!(parse_duration("365d"), Ok(Duration::from_secs(365 * 86_400)));
        for wrong in ["5", "s", "", "-5s", "1.5s", "5 minutes", "99999999999999999999s"] {
            assert!(parse_duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn times_of_day_have_hours_and_minutes() {
        assert_eq!(parse_time_of_day("04:00"), Ok(Time::constant(4, 0, 0, 0)));
        assert_eq!(parse_time_of_day("23:59"), Ok(Time::constant(23, 59, 0, 0)));
        for wrong in ["24:00", "4:00", "04:60", "0400", "+4:00", "04:00:00", "", "٠٤:٠٠"] {
            assert!(parse_time_of_day(wrong).is_err(), "{wrong}");
        }
    }

    proptest::proptest! {
        #[test]
        fn rubbish_is_refused_without_a_panic(text in "\\PC{0,20}") {
            let _ = parse_time_of_day(&text);
            let _ = parse_duration(&text);
        }
    }
}
