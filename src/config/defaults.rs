//! What holds where the file says nothing.

use std::{net::Ipv4Addr, path::PathBuf, time::Duration};

use super::*;

impl Default for Config {
    fn default() -> Self {
        Config {
            mode: Mode::Unlock,
            camera: CameraConfig::default(),
            models: ModelsConfig::default(),
            detection: DetectionConfig::default(),
            recognition: RecognitionConfig::default(),
            enroll: EnrollConfig::default(),
            store: StoreConfig::default(),
            latch: LatchConfig::default(),
            led: LedConfig::default(),
            attendance: AttendanceConfig::default(),
            control: ControlConfig::default(),
            http: HttpConfig::default(),
            mqtt: MqttConfig::default(),
            hooks: Vec::new(),
            log: LogConfig::default(),
        }
    }
}

impl Default for CameraConfig {
    fn default() -> Self {
        CameraConfig {
            source: CameraSource::V4l2,
            device: "auto".into(),
            width: 640,
            height: 480,
            fps: 10,
            format: "auto".into(),
            rotate: 0,
            timeout: Duration::from_secs(5),
            command: Vec::new(),
            stream: CommandStream::Mjpeg,
            folder: PathBuf::new(),
            repeat: false,
        }
    }
}

impl Default for ModelsConfig {
    fn default() -> Self {
        ModelsConfig {
            dir: "/usr/share/facelatch/models".into(),
            embedder: "mobilefacenet".into(),
            precision: PrecisionChoice::Auto,
            mirror: false,
        }
    }
}

impl Default for DetectionConfig {
    fn default() -> Self {
        DetectionConfig {
            min_face: 80,
            thresholds: [0.6, 0.7, 0.7],
            min_sharpness: 0.22,
            min_brightness: 40.0,
            max_brightness: 225.0,
            max_turn: 0.6,
        }
    }
}

impl Default for RecognitionConfig {
    fn default() -> Self {
        RecognitionConfig {
            false_match_rate: FalseMatchRate(1e-3),
            max_distance: None,
            margin: 0.14,
            confirm: 3,
            window: 5,
            several_faces: SeveralFaces::Refuse,
            visit_gap: Duration::from_secs(3),
            cooldown: Duration::from_secs(2),
            max_decision_age: Duration::from_secs(1),
            template_fusion: TemplateFusion::Mean,
        }
    }
}

impl Default for EnrollConfig {
    fn default() -> Self {
        EnrollConfig {
            folder: "/var/lib/facelatch/enroll".into(),
            settle: Duration::from_millis(500),
            min_face: 80,
            max_megapixels: 200,
            max_spread: 1.3,
            keep_unknown: 0,
            unknown_expiry: Duration::from_secs(14 * 86_400),
        }
    }
}

impl Default for StoreConfig {
    fn default() -> Self {
        StoreConfig {
            path: "/var/lib/facelatch/store".into(),
            keep_events: Duration::from_secs(365 * 86_400),
            max_events: 1_000_000,
        }
    }
}

impl Default for LatchConfig {
    fn default() -> Self {
        LatchConfig {
            backend: GpioBackend::Auto,
            chip: "auto".into(),
            line: None,
            active_low: false,
            hold: Duration::from_secs(3),
            max_hold: Duration::from_secs(10),
            max_active_per_minute: None,
        }
    }
}

impl Default for AttendanceConfig {
    fn default() -> Self {
        AttendanceConfig {
            gap: Duration::from_secs(120),
            // Whoever leaves after midnight still leaves the day before.
            day_start: Time::constant(4, 0, 0, 0),
            time_zone: "system".into(),
            direction: Direction::Both,
        }
    }
}

impl Default for ControlConfig {
    fn default() -> Self {
        ControlConfig { socket: "/run/facelatch/control.sock".into() }
    }
}

impl Default for HttpConfig {
    fn default() -> Self {
        HttpConfig {
            enabled: false,
            listen: (Ipv4Addr::LOCALHOST, 8420).into(),
            password: String::new(),
            tokens: Vec::new(),
            certificate: PathBuf::new(),
            key: PathBuf::new(),
            proxied: false,
            fps: 5,
            metrics: false,
        }
    }
}

/// The certificates a Debian system trusts.
const SYSTEMS_CERTIFICATES: &str = "/etc/ssl/certs/ca-certificates.crt";

impl Default for MqttConfig {
    fn default() -> Self {
        MqttConfig {
            broker: None,
            ca: SYSTEMS_CERTIFICATES.into(),
            user: String::new(),
            password: String::new(),
            password_file: PathBuf::new(),
            prefix: String::new(),
            discovery: "homeassistant".into(),
            name: String::new(),
            allow_open: false,
            queue: 1000,
        }
    }
}

impl Default for HookConfig {
    fn default() -> Self {
        HookConfig {
            on: Vec::new(),
            command: Vec::new(),
            url: String::new(),
            secret: String::new(),
            secret_file: PathBuf::new(),
            ca: SYSTEMS_CERTIFICATES.into(),
            timeout: Duration::from_secs(10),
        }
    }
}

impl Default for LogConfig {
    fn default() -> Self {
        LogConfig { level: "info".into() }
    }
}
