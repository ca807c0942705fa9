//! What goes wrong between us and etcd, in words for a person.

use std::error::Error;
use std::time::Duration;

use thiserror::Error;
use tonic::{Code, Status};

/// Why etcd did not do what it was asked.
#[derive(Debug, Clone, Error)]
pub(crate) enum Fault {
    /// No connection, or it broke.
    #[error("etcd at {endpoint} cannot be reached: {reason}")]
    Broken { endpoint: String, reason: String },
    /// No answer.
    #[error("etcd at {endpoint} does not answer within {:.1} s", patience.as_secs_f64())]
    Late { endpoint: String, patience: Duration },
    /// Another connection, with a new token, may help.
    #[error("etcd at {endpoint} does not know us any more: {reason}")]
    LoggedOut { endpoint: String, reason: String },
    /// It answers, and says no.
    #[error("etcd at {endpoint} refuses: {reason}")]
    Refused { endpoint: String, reason: String },
    /// A release after this one wrote there.
    #[error(
        "what is kept there has format {found}, this release knows {known}; run the release that wrote it"
    )]
    Newer { found: u32, known: u32 },
    /// What is kept there is not ours, or spoilt.
    #[error("{key} in etcd is not understood: {reason}; choose another prefix, or take it away")]
    Spoilt { key: String, reason: String },
    /// Pages of one listing do not fit together any more.
    #[error("etcd forgot the state that is being listed")]
    Forgotten,
    /// The thread behind the client has ended.
    #[error("the client of etcd has ended")]
    Ended,
}

impl Fault {
    /// Whether another endpoint, or a new connection, may help.
    pub(crate) fn may_pass(&self) -> bool {
        matches!(self, Fault::Broken { .. } | Fault::Late { .. } | Fault::LoggedOut { .. })
    }

    /// What a call's status means.
    pub(crate) fn of_status(endpoint: &str, status: &Status) -> Fault {
        let endpoint = endpoint.to_owned();
        let text = status.message();
        let logged_out = ["invalid auth token", "revision of auth store is old"];
        if status.code() == Code::Unauthenticated || logged_out.iter().any(|part| text.contains(part)) {
            return Fault::LoggedOut { endpoint, reason: text.into() };
        }
        match status.code() {
            Code::OutOfRange if text.contains("compacted") => Fault::Forgotten,
            Code::Unavailable
            | Code::DeadlineExceeded
            | Code::Cancelled
            | Code::Unknown
            | Code::Internal
            | Code::Aborted => {
                let behind = status.source().map(chain).filter(|behind| !behind.contains(text));
                let reason = behind.map_or_else(|| text.to_owned(), |behind| format!("{text}: {behind}"));
                Fault::Broken { endpoint, reason: explained(&reason) }
            }
            Code::PermissionDenied => {
                let reason = format!("{text}; grant the user of etcd_user readwrite on our prefix");
                Fault::Refused { endpoint, reason }
            }
            Code::InvalidArgument if text.contains("authentication failed") => {
                let reason = format!("{text}; look at etcd_user and etcd_password_file");
                Fault::Refused { endpoint, reason }
            }
            Code::InvalidArgument if text.contains("user name is empty") => {
                let reason = "it wants to know who we are; set etcd_user and etcd_password_file".into();
                Fault::Refused { endpoint, reason }
            }
            _ => Fault::Refused { endpoint, reason: text.into() },
        }
    }

    /// With TLS 1.3 a server looks at the client's certificate when the client takes itself to be connected (RFC 8446,
    /// section 4.4), and its reason is lost with the connection.
    /// A server that speaks TLS just hangs up on who does not. `certificate`: None without TLS, else whether we have one.
    pub(crate) fn broken_off(self, certificate: Option<bool>) -> Fault {
        let Fault::Broken { endpoint, reason } = self else { return self };
        let hint = match certificate {
            Some(true) => "it may not take our certificate; look at etcd_cert and at its --trusted-ca-file",
            Some(false) => "it may want a client's certificate; set etcd_cert and etcd_key",
            None => "it may speak TLS, or be no etcd; for TLS set etcd_ca",
        };
        Fault::Broken { endpoint, reason: format!("it broke the connection off: {hint} ({reason})") }
    }

    /// Why there is no connection.
    pub(crate) fn of_connection(endpoint: &str, error: &(dyn Error + 'static)) -> Fault {
        Fault::Broken { endpoint: endpoint.into(), reason: explained(&chain(error)) }
    }
}

/// An error with all that is behind it; each text once.
fn chain(error: &(dyn Error + 'static)) -> String {
    let mut texts: Vec<String> = Vec::new();
    let mut next = Some(error);
    while let Some(cause) = next {
        let text = cause.to_string();
        if !texts.iter().any(|before| before.contains(&text)) {
            texts.push(text);
        }
        next = cause.source();
    }
    texts.join(": ")
}

/// The text, and what to do where the cause is known.
fn explained(text: &str) -> String {
    let hints = [
        ("UnknownIssuer", "its certificate is of no authority in etcd_ca"),
        ("BadSignature", "its certificate is of no authority in etcd_ca"),
        ("not valid for name", "its certificate is for another name than the one in the URL"),
        ("certificate expired", "its certificate is over, or a clock is wrong"),
        ("InvalidContentType", "it does not speak TLS; leave out etcd_ca, or have etcd listen on https"),
        ("tls handshake eof", "it does not speak TLS; leave out etcd_ca, or have etcd listen on https"),
        ("CertificateRequired", "it wants a client's certificate; set etcd_cert and etcd_key"),
        (
            "BadCertificate",
            "it does not take our certificate; look at etcd_cert and at its --trusted-ca-file",
        ),
        ("UnknownCA", "it does not take our certificate; look at etcd_cert and at its --trusted-ca-file"),
        ("frame with invalid size", "it speaks TLS, or is no etcd; for TLS set etcd_ca"),
        ("no leader", "it has no leader; see to the other members"),
    ];
    let known = hints.iter().find(|(part, _)| text.contains(part));
    known.map_or_else(|| text.to_owned(), |(_, hint)| format!("{hint} ({text})"))
}
