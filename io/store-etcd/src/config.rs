//! What etcd is reached by: endpoints, certificates, a user. Read and checked before anything is connected to.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use thiserror::Error;

/// The port of an endpoint that names none.
const PORT: u16 = 2379;
/// The most endpoints of a URL.
const MAX_ENDPOINTS: usize = 16;
/// The longest certificate, key or password file: 1 MiB.
const MAX_FILE: u64 = 1 << 20;
/// The prefix of our keys in etcd unless the URL names another.
const PREFIX: &str = "/tartan/";

/// Where etcd is: `etcd://HOST[:PORT][,HOST[:PORT]…][/PREFIX]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EtcdUrl {
    pub(crate) endpoints: Vec<String>,
    pub(crate) prefix: String,
}

/// What is to be proven to each other.
#[derive(Debug, Clone, Default)]
pub struct EtcdFiles {
    /// The certificates of the authorities that the servers' certificates are of; with them the connection is encrypted.
    pub ca: Option<PathBuf>,
    /// This client's certificate.
    pub cert: Option<PathBuf>,
    /// Its key.
    pub key: Option<PathBuf>,
    /// The user.
    pub user: Option<String>,
    /// The file with the password; a line end at its end is no part of it.
    pub password: Option<PathBuf>,
}

/// Why etcd cannot be reached with this configuration, whatever the servers say.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The URL is badly written.
    #[error("{0:?} is no etcd URL: {1}; write etcd://HOST:PORT[,HOST:PORT…]")]
    Url(String, &'static str),
    /// Something goes with something else.
    #[error("{0}")]
    Incomplete(&'static str),
    /// A file cannot be read.
    #[error("{key}: cannot read {}", path.display())]
    Read {
        /// The key that names it.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file is not what it should be.
    #[error("{key}: {} {reason}", path.display())]
    Wrong {
        /// The key that names it.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
}

/// Certificates and a password as they were read.
#[derive(Clone, Default)]
pub(crate) struct Secrets {
    pub(crate) ca: Option<Vec<u8>>,
    pub(crate) identity: Option<(Vec<u8>, Vec<u8>)>,
    pub(crate) login: Option<(String, String)>,
}

/// Never what is secret.
impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let user = self.login.as_ref().map(|(user, _)| user);
        f.debug_struct("Secrets")
            .field("tls", &self.ca.is_some())
            .field("user", &user)
            .finish_non_exhaustive()
    }
}

impl std::str::FromStr for EtcdUrl {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let wrong = |why| ConfigError::Url(text.chars().take(256).collect(), why);
        let rest = text.strip_prefix("etcd://").ok_or_else(|| wrong("it does not begin with etcd://"))?;
        if rest.contains('@') {
            return Err(wrong("a user goes into etcd_user, a password into etcd_password_file"));
        }
        let (hosts, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let endpoints: Vec<String> = hosts
            .split(',')
            .map(|host| endpoint(host).ok_or_else(|| wrong("a host is badly written")))
            .collect::<Result<_, _>>()?;
        if endpoints.len() > MAX_ENDPOINTS {
            return Err(wrong("it has more than 16 hosts"));
        }
        if rest.contains("//") {
            return Err(wrong("a part of the prefix is empty"));
        }
        let prefix = match prefix.trim_matches('/') {
            "" => PREFIX.into(),
            prefix => format!("/{prefix}/"),
        };
        if prefix.len() > 256 || !prefix.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(wrong("the prefix behind the hosts is not of printable ASCII without blanks"));
        }
        Ok(EtcdUrl { endpoints, prefix })
    }
}

impl fmt::Display for EtcdUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "etcd://{}", self.endpoints.join(","))?;
        if self.prefix == PREFIX { Ok(()) } else { f.write_str(self.prefix.trim_end_matches('/')) }
    }
}

/// `host:port` with the port that is usual; IPv6 addresses in brackets.
fn endpoint(text: &str) -> Option<String> {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port.parse().ok().filter(|port| *port > 0)?),
        _ => (text, PORT),
    };
    let inside = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let is_host = match inside {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => {
            let named = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
            !host.is_empty() && host.len() <= 253 && host.bytes().all(named)
        }
    };
    is_host.then(|| format!("{host}:{port}"))
}

impl EtcdFiles {
    /// Reads the files.
    pub(crate) fn read(&self) -> Result<Secrets, ConfigError> {
        let ca = self.ca.as_deref().map(|path| pem("etcd_ca", path, "CERTIFICATE")).transpose()?;
        let identity = match (&self.cert, &self.key) {
            (Some(cert), Some(key)) => {
                Some((pem("etcd_cert", cert, "CERTIFICATE")?, pem("etcd_key", key, "PRIVATE KEY")?))
            }
            (None, None) => None,
            _ => {
                return Err(ConfigError::Incomplete("etcd_cert and etcd_key go together; set both, or none"));
            }
        };
        if identity.is_some() && ca.is_none() {
            return Err(ConfigError::Incomplete(
                "etcd_cert needs etcd_ca, the authority that the servers' certificates are of",
            ));
        }
        let login = match (&self.user, &self.password) {
            (Some(user), Some(path)) => Some((user.clone(), password(path)?)),
            (None, None) => None,
            _ => {
                return Err(ConfigError::Incomplete(
                    "etcd_user and etcd_password_file go together; set both, or none",
                ));
            }
        };
        Ok(Secrets { ca, identity, login })
    }
}

fn pem(key: &'static str, path: &Path, kind: &str) -> Result<Vec<u8>, ConfigError> {
    let bytes = read(key, path)?;
    let text = String::from_utf8_lossy(&bytes);
    let has = text.lines().any(|line| line.starts_with("-----BEGIN ") && line.contains(kind));
    if has {
        return Ok(bytes);
    }
    let reason = format!("has no {kind} in PEM form");
    Err(ConfigError::Wrong { key, path: path.into(), reason })
}

fn password(path: &Path) -> Result<String, ConfigError> {
    let key = "etcd_password_file";
    let text = String::from_utf8(read(key, path)?).map_err(|_| ConfigError::Wrong {
        key,
        path: path.into(),
        reason: "is no text".into(),
    })?;
    let password = text.trim_end_matches(['\r', '\n']);
    if password.is_empty() {
        return Err(ConfigError::Wrong { key, path: path.into(), reason: "is empty".into() });
    }
    Ok(password.to_owned())
}

fn read(key: &'static str, path: &Path) -> Result<Vec<u8>, ConfigError> {
    let cannot = |source| ConfigError::Read { key, path: path.into(), source };
    if fs::metadata(path).map_err(cannot)?.len() > MAX_FILE {
        return Err(ConfigError::Wrong { key, path: path.into(), reason: "is longer than 1 MiB".into() });
    }
    fs::read(path).map_err(cannot)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> String {
        match text.parse::<EtcdUrl>() {
            Ok(url) => format!("{:?} {}", url.endpoints, url.prefix),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn hosts_have_the_usual_port_and_may_be_addresses() {
        assert_eq!(
            url("etcd://a,b:1,[::1],[::1]:2,10.0.0.1"),
            r#"["a:2379", "b:1", "[::1]:2379", "[::1]:2", "10.0.0.1:2379"] /tartan/"#
        );
        assert_eq!(url("etcd://a/x/y/"), r#"["a:2379"] /x/y/"#);
        assert_eq!("etcd://a:1,b/x".parse::<EtcdUrl>().unwrap().to_string(), "etcd://a:1,b:2379/x");
    }

    #[test]
    fn what_is_no_url_is_told() {
        for bad in [
            "",
            "http://a",
            "etcd://",
            "etcd://a,,b",
            "etcd://a:0",
            "etcd://a:x",
            "etcd://::1",
            "etcd://a b",
            "etcd://[::1",
            "etcd://a/\u{e4}",
            "etcd://a//x",
            "etcd://a/x//y",
            "etcd://a//",
        ] {
            assert!(url(bad).contains("is no etcd URL"), "{bad}: {}", url(bad));
        }
        assert!(url("etcd://root:pw@a").contains("etcd_password_file"));
    }

    #[test]
    fn what_goes_together_is_asked_for_and_secrets_are_not_shown() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = folder.path().join(name);
            fs::write(&path, text).unwrap();
            Some(path)
        };
        let cert = file("cert", "-----BEGIN CERTIFICATE-----\n");
        let key = file("key", "-----BEGIN PRIVATE KEY-----\n");
        let told = |files: EtcdFiles| files.read().err().map(|error| error.to_string()).unwrap_or_default();
        assert!(told(EtcdFiles { cert: cert.clone(), ..EtcdFiles::default() }).contains("go together"));
        let pair = EtcdFiles { cert: cert.clone(), key, ..EtcdFiles::default() };
        assert!(told(pair).contains("needs etcd_ca"));
        assert!(told(EtcdFiles { user: Some("u".into()), ..EtcdFiles::default() }).contains("go together"));
        let no_file = Some(folder.path().join("none"));
        assert!(told(EtcdFiles { ca: no_file, ..EtcdFiles::default() }).starts_with("etcd_ca: cannot read"));
        let password = file("password", "hush\n");
        assert!(told(EtcdFiles { ca: password.clone(), ..EtcdFiles::default() }).contains("no CERTIFICATE"));
        let login = EtcdFiles { user: Some("u".into()), password, ..EtcdFiles::default() };
        let secrets = login.read().unwrap();
        assert_eq!(secrets.login.as_ref().unwrap().1, "hush");
        assert!(!format!("{secrets:?}").contains("hush"));
    }
}
