//! Routes, and what stands before each of them: limits, who asks, what a browser may do with the answer. page/openapi.json describes
//! them; a test compares the two.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use axum::{
    Extension, Json, Router,
    body::{Body, Bytes},
    extract::{DefaultBodyLimit, Path, Query, Request as HttpRequest, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version, header},
    middleware::{self, Next},
    response::{IntoResponse, Response as HttpResponse, Sse, sse::KeepAlive},
    routing::{MethodRouter, delete, get, post},
};
use futures_util::StreamExt;
use jiff::civil::Date;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    task,
    time::{sleep, timeout},
};

use super::{
    auth::{Asker, COOKIE, CSRF_HEADER, Claims, Door, Refused},
    guesses::one_user,
    metrics,
    places::Place,
    proxy,
    stream::{Feed, multipart_type},
};
use crate::{
    api::{Ask, ask},
    attendance::Attendance,
    config::{HttpConfig, token::Scope},
    error::ErrorKind,
    service::Services,
};

/// Largest picture taken in, in bytes; of everything else far less is read.
const MOST_PICTURE: usize = 32 << 20;
const MOST_JSON: usize = 16 << 10;
/// An answer has to begin within this time, the question's body included.
const PATIENCE: Duration = Duration::from_secs(30);
/// Pictures of all clients held at a time, in KiB.
const MOST_HELD: usize = MOST_PICTURE >> 10;
/// Pictures that may wait to be read, and for how long.
const MOST_WAITING: usize = 16;
const WAITING: Duration = Duration::from_secs(15);
/// Requests of one address: so many at once, and so many a second after that.
const BURST: f64 = 120.0;
const PER_SECOND: f64 = 30.0;
/// Addresses whose requests are counted.
const MOST_ADDRESSES: usize = 1024;
/// A proxy that is refused is in the log at most this often.
const BETWEEN_LINES: Duration = Duration::from_secs(60);
/// How often it is seen to that who looks on still may.
const ASK_AGAIN: Duration = Duration::from_millis(500);
/// Events of one answer.
const MOST_EVENTS: usize = 1000;

const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
     connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// Where a connection comes from.
#[derive(Clone, Copy)]
pub(super) struct Peer(pub IpAddr);

struct App {
    services: Arc<Services>,
    door: Door,
    feed: Feed,
    proxied: bool,
    secure: bool,
    metrics: bool,
    buckets: Mutex<HashMap<IpAddr, Bucket>>,
    /// Passwords are looked at one by one.
    passwords: Semaphore,
    /// KiB of pictures that may be taken in now.
    room: Arc<Semaphore>,
    /// A permit for each picture that waits for room or is worked on.
    queue: Arc<Semaphore>,
    told_proxy: Mutex<Option<Instant>>,
}

/// A picture's room; whatever works on the picture keeps it.
type Held = Arc<(OwnedSemaphorePermit, OwnedSemaphorePermit)>;

/// Requests somebody may still make.
#[derive(Clone, Copy)]
struct Bucket {
    left: f64,
    at: Instant,
}

type Shared = State<Arc<App>>;

pub(super) fn router(services: Arc<Services>, door: Door, feed: Feed, config: &HttpConfig) -> Router {
    let app = Arc::new(App {
        services,
        door,
        feed,
        proxied: config.proxied,
        secure: config.proxied || !config.certificate.as_os_str().is_empty(),
        metrics: config.metrics,
        buckets: Mutex::default(),
        passwords: Semaphore::new(1),
        room: Arc::new(Semaphore::new(MOST_HELD)),
        queue: Arc::new(Semaphore::new(MOST_WAITING)),
        told_proxy: Mutex::default(),
    });
    let for_who_may = |needs: Option<Scope>, routes: Router<Arc<App>>| {
        routes.layer(middleware::from_fn_with_state((Arc::clone(&app), needs), admit))
    };
    let of_pictures = |route: MethodRouter<Arc<App>>| {
        let in_turn = middleware::from_fn_with_state(Arc::clone(&app), one_after_another);
        route.layer(DefaultBodyLimit::max(MOST_PICTURE)).layer(in_turn)
    };
    let look = Router::new()
        .route("/api/status", get(status))
        .route("/api/people", get(people))
        .route("/api/calibration", get(calibration))
        .route("/api/events", get(events))
        .route("/api/live", get(live))
        .route("/api/stream", get(pictures_live))
        .route("/api/snapshot", get(snapshot))
        .route("/api/unknown", get(unknown))
        .route("/api/unknown/{id}/pictures/{look}", get(unknown_picture))
        .route("/api/attendance", get(days))
        .route("/api/attendance.csv", get(days_as_csv))
        .route("/api/identify", of_pictures(post(identify)));
    let enrol = Router::new()
        .route("/api/people/{name}/pictures", of_pictures(post(add_picture)))
        .route("/api/faces/{track}/name", post(name_face))
        .route("/api/unknown/{id}", delete(forget_unknown))
        .route("/api/unknown/{id}/name", post(name_unknown));
    let guarded = for_who_may(Some(Scope::Look), look)
        .merge(for_who_may(Some(Scope::Enrol), enrol))
        .merge(for_who_may(Some(Scope::Open), Router::new().route("/api/open", post(open))))
        .merge(for_who_may(Some(Scope::Metrics), Router::new().route("/metrics", get(prometheus))))
        .merge(for_who_may(None, Router::new().route("/api/logout", post(log_out))));
    Router::new()
        .route("/api/session", get(session))
        .route("/api/login", post(log_in))
        .route("/api/openapi.json", get(|| asset("application/json", include_str!("page/openapi.json"))))
        .route("/", get(|| asset("text/html; charset=utf-8", include_str!("page/index.html"))))
        .route("/page.css", get(|| asset("text/css; charset=utf-8", include_str!("page/page.css"))))
        .route("/page.js", get(|| asset("text/javascript; charset=utf-8", include_str!("page/page.js"))))
        .route("/icon.svg", get(|| asset("image/svg+xml", include_str!("page/icon.svg"))))
        .merge(guarded)
        .fallback(|| async { problem(StatusCode::NOT_FOUND, "there is nothing here") })
        .layer(DefaultBodyLimit::max(MOST_JSON))
        .layer(middleware::from_fn_with_state(Arc::clone(&app), limits))
        .with_state(app)
}

async fn asset(kind: &'static str, text: &'static str) -> HttpResponse {
    ([(header::CONTENT_TYPE, kind)], text).into_response()
}

/// What went wrong, for whoever asked.
struct Problem {
    status: StatusCode,
    text: String,
    /// When it is worth asking again, in seconds.
    retry_after: Option<u64>,
}

fn problem(status: StatusCode, text: &str) -> Problem {
    Problem { status, text: text.to_owned(), retry_after: None }
}

impl IntoResponse for Problem {
    fn into_response(self) -> HttpResponse {
        let mut response = (self.status, Json(json!({ "error": self.text }))).into_response();
        if let Some(seconds) = self.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

/// Rate, time, and the headers of every answer.
async fn limits(State(app): Shared, mut request: HttpRequest, next: Next) -> HttpResponse {
    let address = app.address(&request);
    if let Some(place) = request.extensions().get::<Arc<Place>>() {
        place.asked();
    }
    request.extensions_mut().insert(Peer(address));
    let announced = request.headers().get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    let mut response = if announced.is_some_and(|length: usize| length > MOST_PICTURE) {
        // Before any of it is read.
        problem(StatusCode::PAYLOAD_TOO_LARGE, "a picture may have 32 MiB, anything else 16 KiB").into_response()
    } else if app.spend(address, Instant::now()) {
        let answered = timeout(PATIENCE, next.run(request)).await;
        let late = |_| problem(StatusCode::REQUEST_TIMEOUT, "the request took too long").into_response();
        answered.unwrap_or_else(late)
    } else {
        let busy = problem(StatusCode::TOO_MANY_REQUESTS, "too many requests; wait a second");
        Problem { retry_after: Some(1), ..busy }.into_response()
    };
    let headers = response.headers_mut();
    let fixed: [(HeaderName, &str); 7] = [
        (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
        (HeaderName::from_static("permissions-policy"), "camera=(), microphone=(), geolocation=()"),
    ];
    headers.extend(fixed.map(|(name, value)| (name, HeaderValue::from_static(value))));
    if app.secure {
        headers.insert(header::STRICT_TRANSPORT_SECURITY, HeaderValue::from_static("max-age=31536000"));
    }
    response
}

/// Lets through who may ask.
async fn admit(
    State((app, needs)): State<(Arc<App>, Option<Scope>)>,
    Extension(peer): Extension<Peer>,
    mut request: HttpRequest,
    next: Next,
) -> HttpResponse {
    let changes = !matches!(*request.method(), Method::GET | Method::HEAD);
    match app.asker(request.headers(), request.version(), peer, changes, needs) {
        Ok(asker) => {
            if let Some(place) = request.extensions().get::<Arc<Place>>() {
                place.admitted();
            }
            request.extensions_mut().insert(asker);
            next.run(request).await
        }
        Err(refused) => refusal(refused).into_response(),
    }
}

/// Pictures are taken in as far as there is room for them; the others wait, but not all
/// of them.
async fn one_after_another(State(app): Shared, mut request: HttpRequest, next: Next) -> HttpResponse {
    let busy = || {
        let busy = problem(StatusCode::SERVICE_UNAVAILABLE, "other pictures are being read; try again in some seconds");
        Problem { retry_after: Some(5), ..busy }.into_response()
    };
    let Ok(place) = Arc::clone(&app.queue).try_acquire_owned() else { return busy() };
    let length = request.headers().get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    // One that does not say its length may be as long as any.
    let room = length.map_or(MOST_HELD, |bytes: usize| bytes.div_ceil(1 << 10)).clamp(1, MOST_HELD);
    match timeout(WAITING, Arc::clone(&app.room).acquire_many_owned(room as u32)).await {
        Ok(Ok(room)) => request.extensions_mut().insert::<Held>(Arc::new((place, room))),
        _ => return busy(),
    };
    next.run(request).await
}

fn refusal(refused: Refused) -> Problem {
    match refused {
        Refused::Unknown => problem(StatusCode::UNAUTHORIZED, "log in, or send a token (Authorization: Bearer ...)"),
        Refused::Forged => problem(StatusCode::FORBIDDEN, "the request does not come from the page; load it anew"),
        Refused::Host => {
            problem(StatusCode::FORBIDDEN, "without a password the page is served at localhost only; set http.password")
        }
        Refused::HandedOn => problem(
            StatusCode::FORBIDDEN,
            "this came through a proxy, and without a password the page is for its own machine only; \
             set http.password, then http.proxied = true",
        ),
        Refused::Scope(scope) => problem(
            StatusCode::FORBIDDEN,
            &format!("this token may not {scope}; add \"{scope}\" to its may = [...] in http.tokens"),
        ),
    }
}

impl App {
    /// Whose request this is: the connection's, or what the proxy says.
    fn address(&self, request: &HttpRequest) -> IpAddr {
        let peer = request.extensions().get::<Peer>().map_or(IpAddr::from([0, 0, 0, 0]), |peer| peer.0);
        let told = || {
            // The last one was written by the proxy; those before may be anybody's.
            let list = request.headers().get_all("x-forwarded-for").iter().next_back()?.to_str().ok()?;
            list.rsplit(',').next()?.trim().parse().ok()
        };
        if self.proxied { told().unwrap_or(peer) } else { peer }
    }

    fn asker(
        &self,
        headers: &HeaderMap,
        version: Version,
        Peer(peer): Peer,
        changes: bool,
        needs: Option<Scope>,
    ) -> Result<Asker, Refused> {
        let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
        let cookies = text(header::COOKIE).unwrap_or_default();
        let cookie =
            cookies.split(';').filter_map(|pair| pair.trim().split_once('=')).find(|(name, _)| *name == COOKIE);
        let trace = if self.door.needs_password() { None } else { proxy::trace(headers, version, peer) };
        let claims = Claims {
            host: text(header::HOST),
            cookie: cookie.map(|(_, value)| value),
            bearer: text(header::AUTHORIZATION).and_then(|value| value.strip_prefix("Bearer ")),
            csrf: text(HeaderName::from_static(CSRF_HEADER)),
            origin: text(header::ORIGIN),
            handed_on: trace.is_some(),
            changes,
            needs,
        };
        let admitted = self.door.admit(claims, Instant::now());
        if let (Err(Refused::HandedOn), Some(trace)) = (&admitted, trace) {
            self.tell_proxy(&trace);
        }
        admitted
    }

    fn tell_proxy(&self, trace: &str) {
        let mut told = self.told_proxy.lock().unwrap_or_else(PoisonError::into_inner);
        if told.is_none_or(|told: Instant| told.elapsed() >= BETWEEN_LINES) {
            *told = Some(Instant::now());
            log::warn!(
                "page: refused what a proxy handed on ({trace}), because no password is asked for; \
                 set http.password (facelatch password), then http.proxied = true"
            );
        }
    }

    /// Whether this address may ask once more now.
    fn spend(&self, address: IpAddr, now: Instant) -> bool {
        let address = one_user(address);
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let refilled = |bucket: &Bucket| {
            (bucket.left + now.saturating_duration_since(bucket.at).as_secs_f64() * PER_SECOND).min(BURST)
        };
        if buckets.len() >= MOST_ADDRESSES && !buckets.contains_key(&address) {
            buckets.retain(|_, bucket| refilled(bucket) < BURST);
            if buckets.len() >= MOST_ADDRESSES {
                return false;
            }
        }
        let bucket = buckets.entry(address).or_insert(Bucket { left: BURST, at: now });
        (bucket.left, bucket.at) = (refilled(bucket), now);
        let granted = bucket.left >= 1.0;
        if granted {
            bucket.left -= 1.0;
        }
        granted
    }

    /// Asks as a command would, on a thread that may wait.
    async fn ask<Q: Ask + Send + 'static>(self: &Arc<App>, question: Q, peer: Peer) -> Result<Q::Answer, Problem>
    where
        Q::Answer: Send + 'static,
    {
        self.ask_holding((), question, peer).await
    }

    /// The same, and keeps something until the answer is there, even if nobody waits for
    /// it any more.
    async fn ask_holding<T, Q>(self: &Arc<App>, held: T, question: Q, peer: Peer) -> Result<Q::Answer, Problem>
    where
        T: Send + 'static,
        Q: Ask + Send + 'static,
        Q::Answer: Send + 'static,
    {
        let app = Arc::clone(self);
        let asked = task::spawn_blocking(move || {
            let answer = question.of(&*app.services, &format!("page ({})", peer.0));
            drop(held);
            answer
        });
        match asked.await {
            Ok(answer) => answer.map_err(|failure| problem(status_of(failure.kind), &failure.problem)),
            Err(_) => Err(problem(StatusCode::INTERNAL_SERVER_ERROR, "the request failed; the log says why")),
        }
    }
}

/// What a kind of trouble means to a browser.
fn status_of(kind: ErrorKind) -> StatusCode {
    match kind {
        ErrorKind::NotFound => StatusCode::NOT_FOUND,
        ErrorKind::Refused => StatusCode::UNPROCESSABLE_ENTITY,
        ErrorKind::Invalid => StatusCode::BAD_REQUEST,
        ErrorKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        ErrorKind::Denied => StatusCode::FORBIDDEN,
        ErrorKind::Conflict => StatusCode::CONFLICT,
        ErrorKind::Io | ErrorKind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

type Answer = Result<HttpResponse, Problem>;

fn ok(value: Value) -> Answer {
    Ok(Json(value).into_response())
}

async fn session(
    State(app): Shared,
    Extension(peer): Extension<Peer>,
    version: Version,
    headers: HeaderMap,
) -> HttpResponse {
    match app.asker(&headers, version, peer, false, None) {
        Ok(asker) => Json(json!({
            "authenticated": true,
            "password": app.door.needs_password(),
            "csrf": app.door.csrf(&asker),
        }))
        .into_response(),
        Err(Refused::Unknown) => Json(json!({ "authenticated": false, "password": true })).into_response(),
        Err(refused) => refusal(refused).into_response(),
    }
}

#[derive(Deserialize)]
struct LogIn {
    password: String,
}

async fn log_in(
    State(app): Shared,
    Extension(Peer(address)): Extension<Peer>,
    Json(LogIn { password }): Json<LogIn>,
) -> Answer {
    if !app.door.needs_password() {
        return Err(problem(StatusCode::CONFLICT, "there is no password"));
    }
    let wait = |wait: Duration| {
        let seconds = wait.as_secs() + 1;
        let text = format!("too many wrong passwords; wait {seconds} seconds");
        Problem { status: StatusCode::TOO_MANY_REQUESTS, text, retry_after: Some(seconds) }
    };
    if let Some(left) = app.door.wait(address, Instant::now()) {
        return Err(wait(left));
    }
    let Ok(Ok(_one_at_a_time)) = timeout(Duration::from_secs(5), app.passwords.acquire()).await else {
        return Err(wait(Duration::from_secs(5)));
    };
    // Others may have been wrong from here meanwhile.
    if let Some(left) = app.door.wait(address, Instant::now()) {
        return Err(wait(left));
    }
    let looked = Arc::clone(&app);
    let right = task::spawn_blocking(move || looked.door.is_password(&password)).await.unwrap_or(false);
    if !right {
        if let Some(line) = app.door.was_wrong(address, Instant::now()) {
            log::warn!("{line}");
        }
        return Err(problem(StatusCode::UNAUTHORIZED, "wrong password"));
    }
    let failed = |_| problem(StatusCode::INTERNAL_SERVER_ERROR, "no random numbers");
    let cookie = app.door.log_in(address, Instant::now()).map_err(failed)?;
    log::info!("page: somebody logged in from {address}");
    let secure = if app.secure { "; Secure" } else { "" };
    let cookie = format!("{COOKIE}={cookie}; HttpOnly; SameSite=Strict; Path=/{secure}");
    Ok(([(header::SET_COOKIE, cookie)], Json(json!({}))).into_response())
}

async fn log_out(State(app): Shared, Extension(asker): Extension<Asker>) -> Answer {
    app.door.log_out(&asker);
    let cookie = format!("{COOKIE}=; HttpOnly; SameSite=Strict; Path=/; Max-Age=0");
    Ok(([(header::SET_COOKIE, cookie)], Json(json!({}))).into_response())
}

async fn status(State(app): Shared, Extension(peer): Extension<Peer>) -> Answer {
    let mut value = json!(app.ask(ask::Status {}, peer).await?);
    value["can_open"] = json!(app.services.config.opens());
    value["keeps_unknown"] = json!(app.services.config.enroll.keep_unknown > 0);
    value["viewers"] = json!(app.services.live.viewers());
    ok(value)
}

async fn people(State(app): Shared, Extension(peer): Extension<Peer>) -> Answer {
    ok(json!({ "people": app.ask(ask::People {}, peer).await? }))
}

async fn calibration(State(app): Shared, Extension(peer): Extension<Peer>) -> Answer {
    ok(json!(app.ask(ask::Calibrate {}, peer).await?))
}

#[derive(Deserialize)]
struct Since {
    since_ms: Option<i64>,
    limit: Option<usize>,
}

async fn events(
    State(app): Shared,
    Extension(peer): Extension<Peer>,
    Query(Since { since_ms, limit }): Query<Since>,
) -> Answer {
    let limit = Some(limit.unwrap_or(100).min(MOST_EVENTS));
    ok(json!({ "events": app.ask(ask::Events { since_ms, limit, follow: false }, peer).await? }))
}

/// Waits until who was admitted is so no more: logged out, or the session expired.
async fn log_out_of(app: Arc<App>, asker: Asker) {
    while app.door.still_admits(&asker, Instant::now()) {
        sleep(ASK_AGAIN).await;
    }
}

async fn live(State(app): Shared, Extension(asker): Extension<Asker>) -> HttpResponse {
    let news = app.feed.news().take_until(log_out_of(Arc::clone(&app), asker));
    Sse::new(news).keep_alive(KeepAlive::new().interval(Duration::from_secs(15))).into_response()
}

async fn pictures_live(State(app): Shared, Extension(asker): Extension<Asker>) -> HttpResponse {
    let pictures = app.feed.pictures().take_until(log_out_of(Arc::clone(&app), asker));
    ([(header::CONTENT_TYPE, multipart_type())], Body::from_stream(pictures)).into_response()
}

async fn snapshot(State(app): Shared, Extension(asker): Extension<Asker>) -> Answer {
    let shown = timeout(Duration::from_secs(5), app.feed.snapshot()).await;
    if !app.door.still_admits(&asker, Instant::now()) {
        return Err(refusal(Refused::Unknown));
    }
    match shown {
        Ok(Some(shown)) => Ok(([(header::CONTENT_TYPE, "image/jpeg")], shown.jpeg.clone()).into_response()),
        _ => Err(problem(StatusCode::SERVICE_UNAVAILABLE, "the camera sends no picture now")),
    }
}

async fn open(State(app): Shared, Extension(peer): Extension<Peer>) -> Answer {
    app.ask(ask::Open {}, peer).await?;
    ok(json!({}))
}

#[derive(Deserialize)]
struct Name {
    name: String,
}

async fn name_face(
    State(app): Shared,
    Extension(peer): Extension<Peer>,
    Path(track): Path<u64>,
    Json(Name { name }): Json<Name>,
) -> Answer {
    ok(json!(app.ask(ask::EnrollFace { track, name }, peer).await?))
}

#[derive(Deserialize)]
struct FileName {
    file: Option<String>,
}

async fn add_picture(
    State(app): Shared,
    Extension(peer): Extension<Peer>,
    Path(name): Path<String>,
    Query(FileName { file }): Query<FileName>,
    Extension(held): Extension<Held>,
    picture: Bytes,
) -> Answer {
    let file_name = file.unwrap_or_else(|| "page.jpg".into());
    let question = ask::Enroll { name, file_name, picture: picture.into() };
    ok(json!(app.ask_holding(held, question, peer).await?))
}

async fn identify(
    State(app): Shared,
    Extension(peer): Extension<Peer>,
    Extension(held): Extension<Held>,
    picture: Bytes,
) -> Answer {
    ok(json!({ "faces": app.ask_holding(held, ask::Identify { picture: picture.into() }, peer).await? }))
}

async fn unknown(State(app): Shared, Extension(peer): Extension<Peer>) -> Answer {
    ok(json!({ "faces": app.ask(ask::Unknown {}, peer).await? }))
}

async fn unknown_picture(
    State(app): Shared,
    Extension(peer): Extension<Peer>,
    Path((id, look)): Path<(u32, usize)>,
) -> Answer {
    let picture = app.ask(ask::UnknownPicture { id, look }, peer).await?;
    Ok(([(header::CONTENT_TYPE, "image/jpeg")], Body::from(picture)).into_response())
}

async fn name_unknown(
    State(app): Shared,
    Extension(peer): Extension<Peer>,
    Path(id): Path<u32>,
    Json(Name { name }): Json<Name>,
) -> Answer {
    ok(json!(app.ask(ask::NameUnknown { id, name }, peer).await?))
}

async fn forget_unknown(State(app): Shared, Extension(peer): Extension<Peer>, Path(id): Path<u32>) -> Answer {
    app.ask(ask::ForgetUnknown { id }, peer).await?;
    ok(json!({}))
}

#[derive(Deserialize)]
struct Days {
    from: Option<Date>,
    to: Option<Date>,
    person: Option<String>,
}

async fn attendance(app: &Arc<App>, peer: Peer, Days { from, to, person }: Days) -> Result<Attendance, Problem> {
    app.ask(ask::Attendance { from, to, person }, peer).await
}

async fn days(State(app): Shared, Extension(peer): Extension<Peer>, Query(asked): Query<Days>) -> Answer {
    ok(json!(attendance(&app, peer, asked).await?))
}

async fn days_as_csv(State(app): Shared, Extension(peer): Extension<Peer>, Query(asked): Query<Days>) -> Answer {
    let attendance = attendance(&app, peer, asked).await?;
    let file = format!("attachment; filename=\"attendance-{}-{}.csv\"", attendance.from, attendance.to);
    let headers = [(header::CONTENT_TYPE, "text/csv; charset=utf-8".to_owned()), (header::CONTENT_DISPOSITION, file)];
    Ok((headers, attendance.csv()).into_response())
}

async fn prometheus(State(app): Shared) -> Answer {
    if !app.metrics {
        return Err(problem(StatusCode::NOT_FOUND, "switched off; set http.metrics = true"));
    }
    let shared = Arc::clone(&app);
    let text = task::spawn_blocking(move || metrics::text(&shared.services)).await.unwrap_or_default();
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response())
}
