//! Asking the agent and reading its answer.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::de::DeserializeOwned;
use tartan_api::rpc::{Answer, Request};

/// How long an answer may take.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The agent that is asked.
pub(crate) struct Agent {
    pub(crate) socket: PathBuf,
}

impl Agent {
    /// The answer to a request.
    ///
    /// # Errors
    /// [`tartan_rpc::RpcError`] when there is none, [`tartan_api::rpc::Failure`] when it is a refusal.
    pub(crate) fn ask<T: DeserializeOwned>(&self, request: &Request) -> Result<T> {
        let value = match tartan_rpc::call(&self.socket, request, None, TIMEOUT)? {
            Answer::Ok(value) => value,
            Answer::Error(failure) => return Err(failure.into()),
        };
        serde_json::from_value(value).with_context(|| {
            let socket = self.socket.display();
            format!("the agent at {socket} answered something else than was asked; is it of the same release as this program?")
        })
    }
}
