//! How a request shows that a proxy handed it on. Where nobody is asked for a password, the page is for this machine alone, and a
//! proxy on it would let everybody in.

use std::net::IpAddr;

use axum::http::{HeaderMap, Version};

/// What proxies, load balancers and tunnels add; with what the names begin.
const TRACES: [&str; 29] = [
    "forwarded",
    "x-forwarded",
    "via",
    "x-real-",
    "x-client-",
    "x-cluster-client-ip",
    "true-client-ip",
    "client-ip",
    "x-original-",
    "x-remote-",
    "x-proxy",
    "x-host",
    "x-scheme",
    "x-url-scheme",
    "front-end-https",
    "early-data",
    "cdn-loop",
    "cf-",
    "fastly-",
    "fly-",
    "akamai-",
    "x-envoy-",
    "x-varnish",
    "x-azure-",
    "x-appengine-",
    "x-amz",
    "x-arr-",
    "x-ngrok-",
    "tailscale-",
];

/// What shows it, in words; None: nothing does. A proxy that adds nothing cannot be told from a program of this machine.
pub(super) fn trace(headers: &HeaderMap, version: Version, peer: IpAddr) -> Option<String> {
    if !peer.to_canonical().is_loopback() {
        return Some(format!("from {peer}"));
    }
    let names = headers.keys().map(axum::http::HeaderName::as_str);
    let found = names.filter(|name| TRACES.iter().any(|trace| name.starts_with(trace))).min();
    match found {
        Some(name) => Some(format!("header {name}")),
        // Browsers speak 1.1; nginx speaks 1.0 unless proxy_http_version says otherwise.
        None => (version < Version::HTTP_11).then(|| format!("{version:?}")),
    }
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderName, HeaderValue};

    use super::*;

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn with(name: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(HeaderName::from_static(name), HeaderValue::from_static("203.0.113.7"))])
    }

    #[test]
    fn what_a_proxy_adds_is_known() {
        for name in [
            "forwarded",
            "x-forwarded-for",
            "x-forwarded-host",
            "x-forwarded-proto",
            "x-forwarded",
            "via",
            "x-real-ip",
            "x-client-ip",
            "cf-connecting-ip",
            "cf-ray",
            "true-client-ip",
            "fastly-client-ip",
            "x-original-forwarded-for",
            "forwarded-for",
            "x-cluster-client-ip",
        ] {
            assert_eq!(trace(&with(name), Version::HTTP_11, HERE), Some(format!("header {name}")));
        }
        assert_eq!(trace(&HeaderMap::new(), Version::HTTP_10, HERE).as_deref(), Some("HTTP/1.0"));
        let elsewhere = IpAddr::from([192, 168, 1, 7]);
        assert_eq!(trace(&HeaderMap::new(), Version::HTTP_11, elsewhere).as_deref(), Some("from 192.168.1.7"));
    }

    #[test]
    fn what_browsers_and_programs_send_is_no_trace() {
        for name in ["host", "user-agent", "accept", "cookie", "origin", "referer", "sec-fetch-site", "x-csrf-token"] {
            assert_eq!(trace(&with(name), Version::HTTP_11, HERE), None, "{name}");
        }
        let mapped = "::ffff:127.0.0.1".parse().unwrap();
        assert_eq!(trace(&HeaderMap::new(), Version::HTTP_11, mapped), None);
    }
}
