//! The server: one request a connection, answered by a handler that may block.

use std::convert::Infallible;
use std::io;
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ACCEPT, ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tartan_rpc::{RpcError, SocketName};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Semaphore, oneshot};

use crate::Listen;

/// Connections that are served at once; more wait.
pub const MAX_CONNECTIONS: usize = 16;
/// The longest head of a request in bytes.
pub const MAX_HEAD: usize = 16 << 10;
/// How long a client may take to send its request.
const HEAD_TIME: Duration = Duration::from_secs(2);
/// How long a connection may last, whatever happens on it.
const CONNECTION_TIME: Duration = Duration::from_secs(10);
/// How long to wait after a connection could not be taken.
const REST: Duration = Duration::from_millis(100);
/// Threads on which handlers may block.
const BLOCKING: usize = MAX_CONNECTIONS;
/// The stack of each.
const STACK: usize = 512 << 10;

/// Answers requests.
pub trait Handler: Send + Sync + 'static {
    /// The answer to a GET of this path; `accept` says what the client can read. May block for a second or two.
    fn handle(&self, path: &str, accept: &str) -> Reply;
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// The HTTP status.
    pub status: u16,
    /// The type of the body.
    pub content_type: &'static str,
    /// The body.
    pub body: String,
}

/// Why there is no server.
#[derive(Debug, Error)]
pub enum HttpError {
    /// The unix socket cannot be made.
    #[error("cannot serve metrics")]
    Socket(#[from] RpcError),
    /// The address cannot be had.
    #[error("cannot serve metrics at {listen}; is somebody else there? name another place (metrics_listen)")]
    Bind {
        /// Where.
        listen: Listen,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// There is no thread or no runtime.
    #[error("cannot start the thread that serves metrics")]
    Start(#[source] io::Error),
}

/// A server; it ends when this is dropped.
#[derive(Debug)]
pub struct Serving {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    /// Takes the socket's name away.
    _name: Option<SocketName>,
}

enum Bound {
    Unix(UnixListener),
    Tcp(TcpListener),
}

/// Serves until the answer is dropped.
///
/// # Errors
/// When there cannot be listened there.
pub fn serve(listen: &Listen, handler: Arc<dyn Handler>) -> Result<Serving, HttpError> {
    let bind = |source| HttpError::Bind { listen: listen.clone(), source };
    let (bound, name) = match listen {
        Listen::Unix(path) => {
            let (listener, name) = tartan_rpc::Server::bind(path)?.into_parts();
            listener.set_nonblocking(true).map_err(bind)?;
            (Bound::Unix(listener), Some(name))
        }
        Listen::Loopback(address) => {
            let listener = TcpListener::bind(address).map_err(bind)?;
            listener.set_nonblocking(true).map_err(bind)?;
            (Bound::Tcp(listener), None)
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .max_blocking_threads(BLOCKING)
        .thread_name("http-answer")
        .thread_stack_size(STACK)
        .build()
        .map_err(HttpError::Start)?;
    let (stop, stopped) = oneshot::channel();
    let run = move || {
        runtime.spawn(async move {
            if let Err(error) = accept(bound, handler).await {
                tracing::error!(%error, "metrics are not served");
            }
        });
        // Also when the other end is dropped.
        let _ = runtime.block_on(stopped);
        runtime.shutdown_timeout(REST);
    };
    let thread =
        thread::Builder::new().name("http".into()).stack_size(STACK).spawn(run).map_err(HttpError::Start)?;
    Ok(Serving { stop: Some(stop), thread: Some(thread), _name: name })
}

impl Drop for Serving {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

async fn accept(bound: Bound, handler: Arc<dyn Handler>) -> io::Result<()> {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    match bound {
        Bound::Unix(listener) => {
            let listener = tokio::net::UnixListener::from_std(listener)?;
            loop {
                let Ok(slot) = slots.clone().acquire_owned().await else { return Ok(()) };
                match listener.accept().await {
                    Ok((stream, _)) => drop(tokio::spawn(connection(stream, handler.clone(), slot))),
                    Err(error) => rest(&error).await,
                }
            }
        }
        Bound::Tcp(listener) => {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            loop {
                let Ok(slot) = slots.clone().acquire_owned().await else { return Ok(()) };
                match listener.accept().await {
                    Ok((stream, _)) => drop(tokio::spawn(connection(stream, handler.clone(), slot))),
                    Err(error) => rest(&error).await,
                }
            }
        }
    }
}

async fn rest(error: &io::Error) {
    tracing::debug!(%error, "a connection for metrics could not be taken");
    tokio::time::sleep(REST).await;
}

/// Serves one request; `slot` is given back at the end.
async fn connection<S>(stream: S, handler: Arc<dyn Handler>, slot: tokio::sync::OwnedSemaphorePermit)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request: Request<Incoming>| answer(request, handler.clone()));
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .max_buf_size(MAX_HEAD)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    if let Ok(Err(error)) = tokio::time::timeout(CONNECTION_TIME, served).await {
        tracing::debug!(%error, "a client that asked for metrics");
    }
    drop(slot);
}

async fn answer(
    request: Request<Incoming>,
    handler: Arc<dyn Handler>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        let mut refused = response(text(405, "ask with GET\n"));
        refused.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return Ok(refused);
    }
    let path = request.uri().path().to_owned();
    let accept =
        request.headers().get(ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default().to_owned();
    let reply = tokio::task::spawn_blocking(move || handler.handle(&path, &accept)).await;
    Ok(response(reply.unwrap_or_else(|_| text(500, "the agent failed to answer; look at its log\n"))))
}

fn text(status: u16, body: &str) -> Reply {
    Reply { status, content_type: "text/plain; charset=utf-8", body: body.into() }
}

fn response(reply: Reply) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(reply.body)));
    *response.status_mut() = StatusCode::from_u16(reply.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(reply.content_type));
    response
}
