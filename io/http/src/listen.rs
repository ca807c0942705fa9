//! Where to listen: only where nobody of another machine can ask.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use thiserror::Error;

/// Where to listen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listen {
    /// A unix socket, mode 0600.
    Unix(PathBuf),
    /// An address of this machine only.
    Loopback(SocketAddr),
}

/// A place where others could ask, or no place at all.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0:?} is no place to serve metrics: write unix:/PATH, /PATH, 127.0.0.1:PORT or [::1]:PORT")]
pub struct NotLocal(String);

impl FromStr for Listen {
    type Err = NotLocal;
    fn from_str(text: &str) -> Result<Listen, NotLocal> {
        let path = text.strip_prefix("unix:").unwrap_or(text);
        if path.starts_with('/') && path.len() > 1 {
            return Ok(Listen::Unix(path.into()));
        }
        match text.parse::<SocketAddr>() {
            Ok(address) if address.ip().to_canonical().is_loopback() && address.port() > 0 => {
                Ok(Listen::Loopback(address))
            }
            _ => Err(NotLocal(text.chars().take(120).collect())),
        }
    }
}

impl TryFrom<String> for Listen {
    type Error = NotLocal;
    fn try_from(text: String) -> Result<Listen, NotLocal> {
        text.parse()
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Listen::Unix(path) => write!(f, "unix:{}", path.display()),
            Listen::Loopback(address) => address.fmt(f),
        }
    }
}
