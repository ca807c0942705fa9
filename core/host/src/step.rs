//! Steps: what can be done to a kernel, one row at a time.

use std::fmt;

use serde::Serialize;
use thiserror::Error;

use crate::{Key, Row};

/// One change of one kernel object. Each can be taken again without harm.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "do", rename_all = "lowercase")]
pub enum Step {
    /// Make what is not there.
    Create {
        /// The row to make.
        row: Row,
    },
    /// Make what is there, and ours, what it should be, in place.
    Change {
        /// The row as the kernel has it.
        from: Row,
        /// The row to be.
        to: Row,
    },
    /// Take away what is there, and ours.
    Remove {
        /// The row as the kernel has it.
        row: Row,
    },
}

impl Step {
    /// The key of the object that the step touches.
    pub fn key(&self) -> Key {
        match self {
            Step::Create { row } | Step::Remove { row } | Step::Change { to: row, .. } => row.key(),
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Create { row } => write!(f, "+ {row}"),
            Step::Change { from, to } => write!(f, "~ {from} -> {to}"),
            Step::Remove { row } => write!(f, "- {row}"),
        }
    }
}

/// Why a kernel did not take a step.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Error)]
pub enum StepError {
    /// Something has its name, address or destination (EEXIST).
    #[error("the same is there already and was not made by tartan: take it away, or change the network")]
    Exists,
    /// Another VXLAN device has its VNI and port (EEXIST).
    #[error(
        "another VXLAN device has this VNI and port, and was not made by tartan: take it away, or give the network another VNI or port"
    )]
    SameTunnel,
    /// The link that the object stands on is not there (ENODEV), or it is there and not of the right kind (EINVAL, EOPNOTSUPP).
    #[error("the link is not there or not of the right kind")]
    NoLink,
    /// The link that the object stands on is down (ENETDOWN), or a source address is not there (EINVAL).
    #[error("the link is down or has not the address")]
    NotReady,
    /// The object to be changed or removed is gone; removing it again is no error.
    #[error("it is gone")]
    Gone,
    /// The namespace that an interface should go to is gone.
    #[error("the pod's network namespace is gone")]
    NoNamespace,
    /// Our nftables, or the set that an element belongs to, are not there (ENOENT).
    #[error("tartan's nftables are not there")]
    NoRuleset,
    /// Any other answer of the kernel.
    #[error("the kernel refused: {text} (errno {errno})")]
    Kernel {
        /// The error number (errno(3)).
        errno: i32,
        /// The kernel's extended acknowledgement, or the error number's text.
        text: String,
    },
}
