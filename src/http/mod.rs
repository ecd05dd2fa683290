//! The live page and its JSON API, for whoever wants to see what the door sees.
//!
//! All of it runs on threads of its own and takes from the door only what that gives without waiting ([`crate::live`], the store's
//! events): a slow, hostile or absent reader changes nothing there. What the page can do
//! goes through the same [`Backend`] as the commands do.
//!
//! [`Backend`]: crate::api::Backend

mod api;
pub mod auth;
pub mod certificate;
mod guesses;
mod metrics;
mod places;
mod proxy;
mod stream;

use std::{
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    pin::pin,
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};

use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpSocket, TcpStream},
    runtime,
    sync::oneshot,
    time::{sleep, timeout},
};
use tokio_io_timeout::TimeoutStream;
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        self, ServerConfig,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    },
};

use self::places::{Place, Places};
use crate::{
    config::{HttpConfig, secret::with_credentials},
    live::give_way,
    service::Services,
};

/// A client that takes longer for its first request, or for the TLS handshake, is left.
const FIRST_PATIENCE: Duration = Duration::from_secs(5);
/// A client that takes longer for the head of a further request is left.
const HEAD_PATIENCE: Duration = Duration::from_secs(10);
/// A client that takes nothing for this long is left.
const WRITE_PATIENCE: Duration = Duration::from_secs(30);
/// What is kept for a slow reader, by this program and by the kernel, in bytes.
const BUFFER: usize = 64 << 10;
const KERNEL_BUFFER: u32 = 128 << 10;
/// A port that is taken, or an address that is not there yet, is tried again this often.
const TRY_AGAIN: Duration = Duration::from_secs(10);
/// Threads that wait for disk and nets on behalf of requests.
const WORKERS: usize = 8;

/// Why there is no page.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    #[error("http.{key}: {path}: {problem}; give a PEM file that the service's user can read")]
    Pem { key: &'static str, path: PathBuf, problem: String },
    #[error("http.certificate: {0}; certificate and key must belong together")]
    Tls(rustls::Error),
    #[error("{0}")]
    Password(String),
    #[error("a thread cannot be started: {0}")]
    Thread(io::Error),
    #[error("no random numbers: {0}")]
    Random(String),
}

/// The running server. Dropping it closes every connection.
pub struct HttpServer {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl HttpServer {
    /// Starts it, if the configuration asks for it. A port that cannot be had is tried again and again: the door works without.
    ///
    /// # Errors
    /// What can only be mended by hand: certificate, key, password.
    pub fn start(services: &Arc<Services>) -> Result<Option<HttpServer>, HttpError> {
        let config = services.config.http.clone();
        if !config.enabled {
            return Ok(None);
        }
        let tls = tls(&config)?;
        let password = match config.password.as_str() {
            "" => None,
            text => Some(with_credentials(text, "http.password").map_err(HttpError::Password)?),
        };
        if password.as_deref().is_some_and(|hash| !auth::is_hash(hash)) {
            let problem = "http.password: the credential is no hash; it holds what `facelatch password` prints between the quotes";
            return Err(HttpError::Password(problem.into()));
        }
        let door = auth::Door::new(password, config.tokens.clone())?;
        let (encoder, feed) = stream::Encoder::start(services).map_err(HttpError::Thread)?;
        let app = api::router(Arc::clone(services), door, feed, &config);
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(WORKERS)
            .thread_name("page worker")
            .build()
            .map_err(HttpError::Thread)?;
        let (stop, stopped) = oneshot::channel();
        let thread = thread::Builder::new()
            .name("page".into())
            .spawn(move || {
                give_way();
                runtime.block_on(async {
                    tokio::select! {
                        () = serve(&config, tls, app) => {}
                        _ = stopped => {}
                    }
                });
                runtime.shutdown_timeout(Duration::from_millis(500));
                drop(encoder);
            })
            .map_err(HttpError::Thread)?;
        Ok(Some(HttpServer { stop: Some(stop), thread: Some(thread) }))
    }
}

impl Drop for HttpServer {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What speaks TLS with the configured certificate; None without one.
///
/// # Errors
/// Certificate or key cannot be read, or do not belong together.
pub fn tls(config: &HttpConfig) -> Result<Option<TlsAcceptor>, HttpError> {
    if config.certificate.as_os_str().is_empty() {
        return Ok(None);
    }
    let pem = |key, path: &Path, problem: String| HttpError::Pem { key, path: path.to_owned(), problem };
    let read = |key, path: &Path| fs::read(path).map_err(|error| pem(key, path, error.to_string()));
    let certificate = read("certificate", &config.certificate)?;
    let chain = CertificateDer::pem_slice_iter(&certificate).collect::<Result<Vec<_>, _>>();
    let chain = chain.map_err(|error| pem("certificate", &config.certificate, error.to_string()))?;
    let key = PrivateKeyDer::from_pem_slice(&read("key", &config.key)?)
        .map_err(|error| pem("key", &config.key, error.to_string()))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let server = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key))
        .map_err(HttpError::Tls)?;
    Ok(Some(TlsAcceptor::from(Arc::new(server))))
}

/// Listens; what cannot be had now is said once and tried again.
async fn serve(config: &HttpConfig, tls: Option<TlsAcceptor>, app: axum::Router) {
    let mut told = false;
    let listener = loop {
        match listen(config.listen) {
            Ok(listener) => break listener,
            Err(error) => {
                if !told {
                    log::error!(
                        "page: {} cannot be listened at: {error}; the door works without, trying again",
                        config.listen
                    );
                }
                told = true;
                tokio::time::sleep(TRY_AGAIN).await;
            }
        }
    };
    let scheme = if tls.is_some() { "https" } else { "http" };
    log::info!("page: {scheme}://{}/", config.listen);
    let places = Places::default();
    loop {
        let Ok((stream, peer)) = listener.accept().await else {
            // Out of file handles: the connections there are have to end first.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let Some(place) = places.take(peer.ip()).map(Arc::new) else { continue };
        let app = app.clone().layer(axum::Extension(api::Peer(peer.ip()))).layer(axum::Extension(Arc::clone(&place)));
        let (tls, own) = (tls.clone(), Arc::clone(&place));
        let task = tokio::spawn(async move {
            // A client that goes away or speaks nonsense: nobody is left to tell.
            let _ = connection(stream, tls, app, own).await;
        });
        place.belongs_to(task.abort_handle());
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    // Connections inherit it.
    socket.set_send_buffer_size(KERNEL_BUFFER)?;
    socket.bind(address)?;
    socket.listen(1024)
}

async fn connection(
    stream: TcpStream,
    tls: Option<TlsAcceptor>,
    app: axum::Router,
    place: Arc<Place>,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    stream.set_nodelay(true)?;
    match tls {
        None => talk(stream, app, &place).await,
        Some(tls) => talk(timeout(FIRST_PATIENCE, tls.accept(stream)).await??, app, &place).await,
    }
}

async fn talk<S: AsyncRead + AsyncWrite + Send + Unpin + 'static>(
    stream: S,
    app: axum::Router,
    place: &Place,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(WRITE_PATIENCE));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_PATIENCE)
        .max_buf_size(BUFFER)
        .serve_connection(TokioIo::new(Box::pin(stream)), TowerToHyperService::new(app));
    let mut connection = pin!(connection);
    tokio::select! {
        ended = &mut connection => return Ok(ended?),
        () = sleep(FIRST_PATIENCE) => {}
    }
    if place.is_silent() { Ok(()) } else { Ok(connection.await?) }
}
