//! The agent's socket: one request and one answer a connection, each a line of JSON.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::cni::{Add, Check, Del, Gc};
use crate::explain::Explain;
use crate::object::{Object, ObjectKind};
use tartan_model::{NetworkName, NodeName};

/// Where the agent listens unless told otherwise.
pub const SOCKET: &str = "/run/tartan/tartand.sock";
/// The longest request or answer: 16 MiB.
pub const MAX_MESSAGE: usize = 16 << 20;

/// A request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Request {
    /// CNI ADD; carries the descriptor of the pod's network namespace. Answered by [`crate::cni::Added`].
    Add(Add),
    /// CNI DEL. Answered by null.
    Del(Del),
    /// CNI CHECK; carries the descriptor of the pod's network namespace. Answered by null.
    Check(Check),
    /// CNI GC. Answered by null.
    Gc(Gc),
    /// CNI STATUS: whether an ADD to this network could be served now. Answered by null.
    Ready {
        /// The network.
        network: NetworkName,
    },
    /// Answered by [`crate::verb::Status`].
    Status,
    /// Answered by a list of [`crate::verb::NodeRow`].
    Nodes,
    /// Answered by a list of [`crate::verb::PeerRow`].
    Peers,
    /// Answered by a list of [`crate::verb::EndpointRow`].
    Endpoints,
    /// Answered by a list of [`crate::verb::DeniedRow`].
    Denied,
    /// Probes every way to the peers, now. Answered by a list of [`crate::verb::CheckRow`].
    Probe {
        /// Only these peers; all if there is none.
        peers: Vec<NodeName>,
    },
    /// What becomes of a connection, and why. Answered by [`crate::explain::Explanation`].
    Explain(Explain),
    /// Answered by a list of [`crate::verb::IpamRow`].
    Ipam,
    /// Answered by a list of [`crate::verb::RouteRow`].
    Routes,
    /// What would be changed in the kernel, as if these objects were applied. Answered by [`crate::verb::Plan`].
    Plan {
        /// Objects to assume.
        objects: Vec<Object>,
    },
    /// Write objects to the store. Answered by a list of [`crate::verb::Applied`].
    Apply {
        /// The objects.
        objects: Vec<Object>,
    },
    /// Until every live agent has everything that is in the store now in its kernel. Answered by null.
    Wait,
    /// Answered by a list of [`Object`].
    Get {
        /// Which kind.
        kind: ObjectKind,
        /// Only the one of this name, `NAMESPACE/NAME` if the kind lives in namespaces.
        name: Option<String>,
    },
    /// Take an object out of the store. Answered by [`crate::verb::Applied`].
    Delete {
        /// Which kind.
        kind: ObjectKind,
        /// Its name, `NAMESPACE/NAME` if the kind lives in namespaces.
        name: String,
    },
    /// Take a node out of the cluster: its blocks, its entry and its name. Answered by [`crate::verb::Left`].
    Leave(Leave),
}

/// Which node leaves, and how.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leave {
    /// The name or id of a node whose agent is dead; the agent that is asked, unless given. That agent takes everything of
    /// ours out of its kernel and ends.
    pub node: Option<String>,
    /// Also while pods are there: their interfaces are taken away.
    #[serde(default)]
    pub force: bool,
    /// Also if the store does not take it.
    #[serde(default)]
    pub without_store: bool,
}

/// An answer: what was asked for, or why not.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Answer {
    /// What was asked for.
    Ok(serde_json::Value),
    /// Why not.
    Error(Failure),
}

/// Why a request was not served.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Error)]
#[error("{message}")]
pub struct Failure {
    /// What sort of failure it is.
    pub code: FailureCode,
    /// What is wrong, where, and what to do, for a person; the first line says enough.
    pub message: String,
}

/// Sorts of failures, with the exit code of the command line and the code of the CNI plugin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailureCode {
    /// The request is wrong.
    Invalid,
    /// What was asked for is not there.
    NotFound,
    /// It cannot be served now, but may be in a moment.
    TryAgain,
    /// The store cannot be reached or refused.
    Store,
    /// The kernel refused.
    Kernel,
    /// Some node has not everything in its kernel yet.
    NotSettled,
    /// The kernel has not what a CHECK expects.
    Differs,
    /// No interface can be added to the network, and those that it has do not carry traffic.
    Limited,
    /// The agent is stopping, and has not begun with this.
    Stopping,
    /// Somebody lives on what should go.
    InUse,
}

impl FailureCode {
    /// The exit code of the command line: 1 the answer is no, 2 wrong input, 3 agent or store cannot be reached.
    pub const fn exit_code(self) -> u8 {
        match self {
            FailureCode::Invalid => 2,
            FailureCode::NotFound
            | FailureCode::Kernel
            | FailureCode::NotSettled
            | FailureCode::Differs
            | FailureCode::Limited
            | FailureCode::InUse => 1,
            FailureCode::TryAgain | FailureCode::Store | FailureCode::Stopping => 3,
        }
    }

    /// The error code of the CNI plugin (specification, section 5: 3 container unknown, 7 invalid
    /// configuration, 11 try again later, 51 limited connectivity, 100 and over are the plugin's own).
    pub const fn cni_code(self) -> u32 {
        match self {
            FailureCode::Invalid => 7,
            FailureCode::NotFound => 3,
            FailureCode::TryAgain | FailureCode::Store | FailureCode::NotSettled | FailureCode::Stopping => {
                11
            }
            FailureCode::Limited => 51,
            FailureCode::Differs => 100,
            FailureCode::Kernel | FailureCode::InUse => 101,
        }
    }
}
