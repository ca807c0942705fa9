//! Failures as the specification wants them told.

use serde_json::{Value, json};
use tartan_api::cni::Version;
use tartan_rpc::RpcError;

/// The specification's error codes (section 5).
pub(crate) mod code {
    pub(crate) const VERSION: u32 = 1;
    pub(crate) const UNSUPPORTED: u32 = 2;
    pub(crate) const ENVIRONMENT: u32 = 4;
    pub(crate) const IO: u32 = 5;
    pub(crate) const DECODE: u32 = 6;
    pub(crate) const CONFIG: u32 = 7;
    pub(crate) const TRY_AGAIN: u32 = 11;
    pub(crate) const NOT_AVAILABLE: u32 = 50;
    pub(crate) const LIMITED: u32 = 51;
}

/// Why a command failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) code: u32,
    /// What is wrong, where, and what to do; further lines are details.
    pub(crate) msg: String,
}

impl Failure {
    pub(crate) fn new(code: u32, msg: impl Into<String>) -> Failure {
        Failure { code, msg: msg.into() }
    }

    /// The same failure, saying whom it is about.
    pub(crate) fn about(self, whom: &str) -> Failure {
        // The agent names the pod itself.
        if self.msg.starts_with(whom) {
            self
        } else {
            Failure { msg: format!("{whom}: {}", self.msg), ..self }
        }
    }

    pub(crate) fn json(&self, version: Version) -> Value {
        match self.msg.split_once('\n') {
            None => json!({"cniVersion": version, "code": self.code, "msg": self.msg}),
            Some((msg, details)) => {
                json!({"cniVersion": version, "code": self.code, "msg": msg, "details": details})
            }
        }
    }
}

/// An agent that is away or restarts comes back: the runtime shall try again, also to delete, or an address would
/// stay taken.
impl From<RpcError> for Failure {
    fn from(error: RpcError) -> Failure {
        let code = match &error {
            RpcError::Unreachable { .. } | RpcError::Timeout { .. } | RpcError::Broken { .. } => {
                code::TRY_AGAIN
            }
            RpcError::LongRequest { .. } => code::CONFIG,
            _ => code::IO,
        };
        Failure::new(code, text(&error))
    }
}

/// The runtime's people have no `--socket`, but a configuration.
fn text(error: &RpcError) -> String {
    match error {
        RpcError::Unreachable { path, reason } => format!(
            "cannot reach the agent at {}: {}; is tartand running? start it with `systemctl start tartand` or \
             correct \"socket\" in the network configuration",
            path.display(),
            reason.desc()
        ),
        other => other.to_string(),
    }
}

impl From<tartan_api::rpc::Failure> for Failure {
    fn from(failure: tartan_api::rpc::Failure) -> Failure {
        Failure::new(failure.code.cni_code(), failure.message)
    }
}
