//! A whole cluster in network namespaces: the real kernel, the real programs, no Kubernetes.
//!
//! Everything that `tartan lab` does is here; the command line only parses and prints. Tests use it in the same way.
//! A lab keeps a file, but everything of it is found by name and by what runs in its namespaces, so that it can be
//! taken down when nothing else is left.

pub mod agent;
pub mod cni;
pub mod down;
pub mod error;
pub mod exec;
pub mod fault;
pub mod label;
pub mod matrix;
pub mod names;
pub mod network;
pub mod node;
mod parallel;
pub mod pod;
mod probe;
mod process;
pub mod programs;
mod progress;
pub mod respond;
mod shared;
pub mod state;
pub mod status;
pub mod store;
pub mod up;
pub mod wire;
