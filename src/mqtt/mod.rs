//! The broker of a home automation: it is told the door's state and every event, Home Assistant finds the door by itself, and, only
//! if that is allowed, a message opens it.
//!
//! All of it is on one thread. Events come by a channel, which is emptied ten times a second whatever the network does; what the
//! broker has not acknowledged is kept, up to a limit. MQTT 5, because with it the broker itself holds back messages that are
//! too large, and messages that it kept from before.

mod discovery;
mod outbox;

use std::{
    fs, io,
    path::Path,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::Receiver,
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use rumqttc::{
    AsyncClient, Broker as Address, ConnectReturnCode, ConnectionError, DisconnectReasonCode, Event as Heard, LastWill,
    MqttOptions, Outgoing, Packet, PubAckReason, Publish, PublishOptions, QoS, RetainForwardRule, StateError,
    SubscribeFilter, SubscribeReasonCode, default_socket_connect, mqttbytes,
};
use serde_json::json;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_rustls::{
    TlsConnector,
    rustls::{
        self, ClientConfig, RootCertStore,
        crypto::ring,
        pki_types::{CertificateDer, ServerName, pem::PemObject},
    },
};

use self::{
    discovery::Device,
    outbox::{Message, Outbox},
};
use crate::{
    api::{Ask, Backend, Status, ask},
    config::{Broker, Config, EventName, Mode, MqttConfig, secret::secret},
    outside::{iso_time, notice, pause},
    store::{Event, EventKind},
    telemetry::{Counters, printable},
};

/// How often the channel of events is emptied, and the door's state looked at.
const TICK: Duration = Duration::from_millis(100);
/// Longest wait between two attempts.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// A connection that held so long was a good one: the next attempt after it comes soon.
const GOOD_CONNECTION: Duration = Duration::from_secs(60);
/// A broker that acknowledges nothing for so long is left.
const PATIENCE: Duration = Duration::from_secs(20);
/// A broker notices after one and a half times this, in seconds, that we are gone.
const KEEP_ALIVE: u16 = 30;
/// The same where a message may open: what the network held up is noticed by the answer to a ping that is missing.
const KEEP_ALIVE_TO_OPEN: u16 = 5;
/// An answer to a ping, or this thread's own next turn, takes less, or messages may have waited on their way.
const HELD_UP: Duration = Duration::from_secs(2);
/// At the end so long is spent on telling the broker what it does not know yet.
const FAREWELL: Duration = Duration::from_secs(1);
/// Largest packet taken, in bytes: the only message that is listened to has four.
const LARGEST_PACKET: u32 = 1024;
/// What has to be written to the command's topic, to the letter.
const COMMAND: &str = "open";
/// Between two commands that are obeyed.
const COMMAND_GAP: Duration = Duration::from_secs(2);
/// The board's temperature is read so often.
const TEMPERATURE_GAP: Duration = Duration::from_secs(30);

/// The thread that talks to the broker. Dropping it says farewell, for a second at most.
pub struct Mqtt {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Mqtt {
    /// None when no broker is configured.
    ///
    /// # Errors
    /// There can be no thread. A broker that is not there is no error.
    pub fn start(config: &Config, service: Arc<dyn Backend>, counters: Counters) -> io::Result<Option<Mqtt>> {
        let Some(broker) = config.mqtt.broker.clone() else { return Ok(None) };
        let stop = Arc::new(AtomicBool::new(false));
        let mut talk = Talk::new(config, broker, service, counters, Arc::clone(&stop));
        let thread = thread::Builder::new().name("mqtt".into()).spawn(move || {
            let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => runtime,
                Err(error) => return log::error!("mqtt: nothing is told to the broker: {error}"),
            };
            runtime.block_on(talk.go_on());
            // A name server that does not answer is not waited for.
            runtime.shutdown_background();
        })?;
        Ok(Some(Mqtt { stop, thread: Some(thread) }))
    }
}

impl Drop for Mqtt {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Where what is written.
struct Topics {
    availability: String,
    state: String,
    event: String,
    command: String,
    /// The prefix as one word, for identifiers.
    node: String,
}

impl Topics {
    fn new(prefix: &str) -> Topics {
        let word = |c: char| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' };
        Topics {
            availability: format!("{prefix}/availability"),
            state: format!("{prefix}/state"),
            event: format!("{prefix}/event"),
            command: format!("{prefix}/command"),
            node: prefix.chars().map(word).collect(),
        }
    }
}

/// Everything the thread knows.
struct Talk {
    config: MqttConfig,
    broker: Broker,
    name: String,
    topics: Topics,
    unlocks: bool,
    service: Arc<dyn Backend>,
    events: Receiver<Event>,
    counters: Counters,
    stop: Arc<AtomicBool>,
    stop_seen: Option<Instant>,
    connected_at: Option<Instant>,
    outbox: Outbox,
    sent_at: Instant,
    /// Name and time of the last one who was let, or counted, in.
    last_person: Option<(String, String)>,
    /// Not while it is opened for the first time: that would be an alarm at each start.
    camera_lost: bool,
    state: String,
    temperature: Option<i32>,
    temperature_due: Instant,
    last_command: Option<Instant>,
    /// The ping that is not answered yet.
    pinged_at: Option<Instant>,
    awake_at: Instant,
    /// When this thread last went on after a pause that was too long.
    woke_late_at: Option<Instant>,
    told: Told,
}

/// What the log has said already, so that it says it once.
#[derive(Default)]
struct Told {
    lost_at: Option<Instant>,
    thrown_out: bool,
    events_dropped: u64,
    /// On this connection.
    refusal: bool,
    command: bool,
}

impl Talk {
    fn new(
        config: &Config,
        broker: Broker,
        service: Arc<dyn Backend>,
        counters: Counters,
        stop: Arc<AtomicBool>,
    ) -> Talk {
        let unlocks = config.mode == Mode::Unlock;
        let config = config.mqtt.clone();
        let host = host_name();
        let prefix = if config.prefix.is_empty() { format!("facelatch/{host}") } else { config.prefix.clone() };
        let name = if config.name.is_empty() { format!("facelatch {host}") } else { config.name.clone() };
        let events = service.follow();
        let now = Instant::now();
        Talk {
            topics: Topics::new(&prefix),
            connected_at: None,
            outbox: Outbox::new(config.queue),
            sent_at: now,
            last_person: last_person(service.as_ref()),
            camera_lost: false,
            state: String::new(),
            temperature: None,
            temperature_due: now,
            last_command: None,
            pinged_at: None,
            awake_at: now,
            woke_late_at: None,
            told: Told::default(),
            stop_seen: None,
            config,
            broker,
            name,
            unlocks,
            service,
            events,
            counters,
            stop,
        }
    }

    /// Connects again and again, until it is told to stop.
    async fn go_on(&mut self) {
        let mut failures = 0;
        while !self.stopping() {
            let Err(problem) = self.connection().await else { break };
            self.outbox.lost();
            let held = self.connected_at.take().map(|since| since.elapsed());
            self.tell_loss(&problem, held);
            failures = if held >= Some(GOOD_CONNECTION) { 1 } else { failures + 1 };
            let until = Instant::now() + pause(failures, LONGEST_PAUSE);
            while Instant::now() < until && !self.stopping() {
                sleep(TICK).await;
                self.take_events();
            }
        }
    }

    /// Says once that there is no connection; `held`: how long there was one. Of a broker that lets us in and throws us out again and
    /// again it is said the first time only.
    fn tell_loss(&mut self, problem: &str, held: Option<Duration>) {
        self.counters.increment("mqtt_lost");
        let news = held.is_none_or(|held| held >= GOOD_CONNECTION) || !self.told.thrown_out;
        self.told.thrown_out |= held.is_some();
        if news && self.told.lost_at.is_none() && !self.stopping() {
            self.told.lost_at = Some(Instant::now());
            let kept = self.config.queue;
            log::warn!("broker {}: {problem}; trying again, up to {kept} events are kept meanwhile", self.broker);
        } else {
            log::debug!("broker {}: {problem}", self.broker);
        }
    }

    fn stopping(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// One connection, from its beginning to its end; Ok when it was ended by us.
    async fn connection(&mut self) -> Result<(), String> {
        // Each has its own client, so that nothing of the last one is left; what has to be sent again is in the outbox.
        let (client, mut connection) = AsyncClient::builder(self.options()?).capacity(4).build();
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let heard = {
                // It must not be dropped half done: connecting would begin anew.
                let mut heard = pin!(connection.poll());
                loop {
                    tokio::select! {
                        heard = &mut heard => break heard,
                        _ = ticks.tick() => {
                            self.note_pause();
                            self.take_events();
                            self.look_at_state();
                            if self.said_farewell() {
                                return Ok(());
                            }
                            if self.connected_at.is_some() {
                                self.send_next(&client)?;
                            }
                        }
                    }
                }
            };
            self.note_pause();
            match heard {
                Ok(Heard::Incoming(packet)) => {
                    self.hear(packet, &client)?;
                    self.send_next(&client)?;
                }
                Ok(Heard::Outgoing(Outgoing::PingReq)) => self.pinged_at = Some(Instant::now()),
                Ok(Heard::Outgoing(_) | Heard::Auth(_)) => {}
                Err(error) => {
                    let too_large = matches!(
                        &error,
                        ConnectionError::MqttState(
                            StateError::OutgoingPacketTooLarge { .. }
                                | StateError::Deserialization(mqttbytes::Error::OutgoingPacketTooLarge { .. })
                        )
                    );
                    if too_large {
                        // It would be too large the next time too.
                        self.outbox.acknowledged();
                    }
                    return Err(explain(&error, &self.topics));
                }
            }
        }
    }

    /// Credentials and certificates are read anew each time: whoever mends them need not restart.
    fn options(&self) -> Result<MqttOptions, String> {
        let Broker { tls, host, port } = &self.broker;
        let mut options = MqttOptions::new(&self.topics.node, Address::tcp(host, *port));
        options.set_keep_alive(if self.opens() { KEEP_ALIVE_TO_OPEN } else { KEEP_ALIVE });
        options.set_max_packet_size(Some(LARGEST_PACKET));
        options.set_outgoing_inflight_upper_limit(8);
        if !self.config.user.is_empty() {
            let password = secret(&self.config.password, &self.config.password_file, "mqtt.password")?;
            options.set_credentials(&self.config.user, password);
        }
        if *tls {
            let (tls, name) = (TlsConnector::from(tls_of(&self.config.ca)?), certified_name(host)?);
            options.set_socket_connector(move |address, network| {
                let (tls, name) = (tls.clone(), name.clone());
                async move { tls.connect(name, default_socket_connect(address, network).await?).await }
            });
        }
        options.set_last_will(LastWill::new(&self.topics.availability, "offline", QoS::AtLeastOnce, true, None));
        Ok(options)
    }

    fn hear(&mut self, packet: Packet, client: &AsyncClient) -> Result<(), String> {
        match packet {
            Packet::ConnAck(_) => {
                self.connected();
                if self.opens() {
                    // Nothing that was written before: who presses the button wants in now.
                    let filter = SubscribeFilter {
                        path: self.topics.command.clone(),
                        qos: QoS::AtLeastOnce,
                        preserve_retain: true,
                        retain_forward_rule: RetainForwardRule::Never,
                        ..SubscribeFilter::default()
                    };
                    client.try_subscribe_many([filter]).map_err(|error| error.to_string())?;
                }
            }
            Packet::PubAck(ack) => {
                let message = self.outbox.acknowledged();
                let refused = !matches!(ack.reason, PubAckReason::Success | PubAckReason::NoMatchingSubscribers);
                if let Some(message) = message.filter(|_| refused) {
                    self.refused(&format!("writing to {}", message.topic), &format!("{:?}", ack.reason));
                }
            }
            Packet::SubAck(ack) => {
                if let Some(code) =
                    ack.return_codes.iter().find(|code| !matches!(code, SubscribeReasonCode::Success(_)))
                {
                    self.refused(&format!("reading {}", self.topics.command), &format!("{code:?}"));
                }
            }
            Packet::Publish(publish) => self.obey(&publish),
            Packet::PingResp => self.pinged_at = None,
            _ => {}
        }
        Ok(())
    }

    fn note_pause(&mut self) {
        let paused = self.awake_at.elapsed();
        self.awake_at = Instant::now();
        if paused > HELD_UP {
            self.woke_late_at = Some(self.awake_at);
        }
    }

    /// Whether what comes now may have been sent a while ago: a broker says how long a message may be kept, never how old it is.
    fn may_be_old(&self) -> bool {
        self.pinged_at.is_some_and(|at| at.elapsed() > HELD_UP)
            || self.woke_late_at.is_some_and(|at| at.elapsed() < HELD_UP)
    }

    fn opens(&self) -> bool {
        self.config.allow_open && self.unlocks
    }

    fn connected(&mut self) {
        self.connected_at = Some(Instant::now());
        self.pinged_at = None;
        let waiting = self.outbox.events();
        match self.told.lost_at.take() {
            None if !self.told.thrown_out => log::info!("broker {}: connected", self.broker),
            None => {}
            Some(lost_at) => {
                let dropped = std::mem::take(&mut self.told.events_dropped);
                let dropped = if dropped > 0 { format!(", {dropped} older ones were dropped") } else { String::new() };
                let gone = lost_at.elapsed();
                log::info!("broker {}: connected after {gone:.1?}, {waiting} events to tell{dropped}", self.broker);
            }
        }
        self.told.refusal = false;
        self.look_at_state();
        let mut greeting = Vec::new();
        if !self.config.discovery.is_empty() {
            let device = Device {
                name: &self.name,
                unlocks: self.unlocks,
                opens: self.opens(),
                temperature: self.temperature.is_some(),
                event_types: EventName::ALL.iter().map(|name| json!(name)).collect(),
            };
            greeting = discovery::messages(&self.config.discovery, &self.topics, &device);
        }
        let retained =
            |topic: &str, payload: &str| Message { topic: topic.into(), payload: payload.into(), retain: true };
        greeting.push(retained(&self.topics.state, &self.state));
        greeting.push(retained(&self.topics.availability, "online"));
        self.outbox.greet(greeting);
    }

    /// Says once on each connection what the broker does not let us do.
    fn refused(&mut self, what: &str, why: &str) {
        self.counters.increment("mqtt_refused");
        if !std::mem::replace(&mut self.told.refusal, true) {
            log::warn!("broker {}: it refuses {what} ({why}); let mqtt.user do that", self.broker);
        }
    }

    /// Opens the door for exactly one message: whatever else is written to the topic changes nothing.
    fn obey(&mut self, publish: &Publish) {
        let problem = if publish.topic != self.topics.command.as_bytes() {
            "of another topic"
        } else if publish.dup {
            // Each connection begins anew, so that it belongs to one before, or came already.
            "sent once more"
        } else if publish.retain {
            "kept by the broker from before"
        } else if publish.payload != COMMAND.as_bytes() {
            "not to the letter"
        } else if publish.properties.as_ref().and_then(|all| all.message_expiry_interval) == Some(0) {
            "expired"
        } else if self.may_be_old() {
            "held up on its way"
        } else if self.last_command.is_some_and(|last| last.elapsed() < COMMAND_GAP) {
            "too soon after the last"
        } else {
            self.last_command = Some(Instant::now());
            if let Err(problem) = (ask::Open {}).of(&*self.service, "the broker") {
                log::error!("broker {}: the door was not opened: {problem}", self.broker);
            }
            return;
        };
        self.counters.increment("mqtt_commands_ignored");
        if !std::mem::replace(&mut self.told.command, true) {
            log::warn!("broker {}: a message was ignored: {problem}; from now on this is only counted", self.broker);
        }
    }

    fn send_next(&mut self, client: &AsyncClient) -> Result<(), String> {
        if let Some(Message { topic, payload, retain }) = self.outbox.next() {
            self.sent_at = Instant::now();
            return client
                .try_publish(topic, payload, PublishOptions::new(QoS::AtLeastOnce).retain(retain))
                .map_err(|error| error.to_string());
        }
        let waits = !self.outbox.is_empty();
        if waits && self.sent_at.elapsed() > PATIENCE { Err("it acknowledges nothing".into()) } else { Ok(()) }
    }

    fn take_events(&mut self) {
        while let Ok(event) = self.events.try_recv() {
            match &event.kind {
                EventKind::Granted { name, .. } => self.last_person = Some((name.clone(), iso_time(event.at_ms))),
                EventKind::CameraLost { .. } => self.camera_lost = true,
                _ => {}
            }
            let payload = serde_json::Value::Object(notice(&event)).to_string();
            let message = Message { topic: self.topics.event.clone(), payload, retain: false };
            if !self.outbox.add_event(message) {
                self.counters.increment("mqtt_events_lost");
                self.told.events_dropped += 1;
                if self.told.events_dropped == 1 {
                    log::warn!("broker {}: more than {} events wait; the oldest go", self.broker, self.config.queue);
                }
            }
        }
        self.counters.set("mqtt_queue", self.outbox.events() as u64);
    }

    fn look_at_state(&mut self) {
        if Instant::now() >= self.temperature_due {
            self.temperature_due = Instant::now() + TEMPERATURE_GAP;
            self.temperature = board_temperature();
        }
        let Ok(status) = (ask::Status {}).of(&*self.service, "the broker") else { return };
        self.camera_lost &= !status.camera_ok;
        let state = self.state_of(&status);
        if state != self.state {
            self.state.clone_from(&state);
            self.outbox.set_state(Message { topic: self.topics.state.clone(), payload: state, retain: true });
        }
    }

    fn state_of(&self, status: &Status) -> String {
        let (person, at) = self.last_person.as_ref().map(|(person, at)| (person, at)).unzip();
        json!({
            "mode": status.mode,
            "relay": status.relay,
            "relay_active": status.relay_active,
            "relay_problem": status.relay_problem,
            "camera": printable(&status.camera),
            "camera_ok": !self.camera_lost,
            "people": status.people,
            "enroll_problem": status.enroll_problem,
            "last_person": person,
            "last_person_at": at,
            "temperature": self.temperature,
        })
        .to_string()
    }

    /// Whether everything was told after the stop, or the time for it is over. The broker tells the rest, our last will, itself.
    fn said_farewell(&mut self) -> bool {
        if !self.stopping() {
            return false;
        }
        let since = *self.stop_seen.get_or_insert_with(Instant::now);
        self.outbox.is_empty() || since.elapsed() >= FAREWELL
    }
}

/// Whom a broker's certificate has to name.
fn certified_name(host: &str) -> Result<ServerName<'static>, String> {
    let name = host.trim_matches(['[', ']']).to_owned();
    ServerName::try_from(name).map_err(|_| format!("mqtt.broker: {host} is no name that a certificate can have"))
}

/// What trusts the certificates of a PEM file.
///
/// # Errors
/// It cannot be read, or there is none in it.
pub fn tls_of(ca: &Path) -> Result<Arc<ClientConfig>, String> {
    let unusable = |problem: &dyn std::fmt::Display| {
        format!("mqtt.ca: {}: {problem}; give the file of those who certify the broker", ca.display())
    };
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_file_iter(ca).and_then(Iterator::collect);
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(certificates.map_err(|error| unusable(&error))?);
    if roots.is_empty() {
        return Err(unusable(&"there is no certificate in it"));
    }
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| unusable(&error))?;
    Ok(Arc::new(config.with_root_certificates(roots).with_no_client_auth()))
}

/// Why there is no connection, with the remedy where there is one.
fn explain(error: &ConnectionError, topics: &Topics) -> String {
    use ConnectReturnCode::{BadUserNamePassword, NotAuthorized, RefusedProtocolVersion, UnsupportedProtocolVersion};
    match error {
        ConnectionError::Io(error) if error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>()) => {
            format!("{error}; does mqtt.ca certify it, under this name?")
        }
        ConnectionError::Io(error) => format!("{error}; does it listen there?"),
        ConnectionError::Timeout(_) => "it does not answer".into(),
        ConnectionError::ConnectionRefused(BadUserNamePassword | NotAuthorized) => {
            "it refuses us; check mqtt.user and its password".into()
        }
        ConnectionError::ConnectionRefused(RefusedProtocolVersion | UnsupportedProtocolVersion) => {
            "it does not speak MQTT 5; update it".into()
        }
        ConnectionError::MqttState(StateError::ServerDisconnect {
            reason_code: DisconnectReasonCode::SessionTakenOver,
            ..
        }) => format!("another client calls itself {} too; give each its own mqtt.prefix", topics.node),
        ConnectionError::MqttState(StateError::ConnectionAborted) => "it closed the connection".into(),
        error => error.to_string(),
    }
}

/// Who was granted last, of the last few events.
fn last_person(service: &dyn Backend) -> Option<(String, String)> {
    let question = ask::Events { limit: Some(200), ..ask::Events::default() };
    let events = question.of(service, "the broker").ok()?;
    events.into_iter().rev().find_map(|event| match event.kind {
        EventKind::Granted { name, .. } => Some((name, iso_time(event.at_ms))),
        _ => None,
    })
}

fn host_name() -> String {
    let read = |path: &str| fs::read_to_string(path).ok().map(|name| name.trim().to_owned());
    let name = read("/proc/sys/kernel/hostname").or_else(|| read("/etc/hostname")).unwrap_or_default();
    let fine = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
    if name.is_empty() || !name.chars().all(fine) { "door".into() } else { name }
}

/// In whole degrees, where the system tells it.
fn board_temperature() -> Option<i32> {
    let text = fs::read_to_string("/sys/class/thermal/thermal_zone0/temp").ok()?;
    Some((text.trim().parse::<f64>().ok()? / 1000.0).round() as i32)
}
