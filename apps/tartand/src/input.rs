//! What comes to the ring from other threads.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, SyncSender, sync_channel};
use std::time::Duration;

use anyhow::Context;
use nix::sys::eventfd::{EfdFlags, EventFd};
use tartan_api::network::Network;
use tartan_api::rpc::{Answer, FailureCode, Request};
use tartan_decide::{Claim, Fact};
use tartan_model::NodeName;
use tartan_rpc::Client;
use tartan_store::{BlockKey, Lease, ObjectKey};

use crate::serve::failure;

/// One thing for the ring to do.
pub(crate) enum Input {
    /// Something was learned.
    Fact(Fact),
    /// A claim was answered, whatever the answer.
    Claimed(Claim),
    /// Somebody waits until this agent's kernel has everything that was written before this.
    Wait(String),
    /// Another node holds this node's name now.
    NameLost(String),
    /// The store answers, or does not and why.
    Store(Result<(), String>),
    /// What is known from memory only, as the store has lost it; in words.
    Kept(Option<String>),
    /// The networks that the store has and that are not understood, and why not: all of them.
    Misunderstood(Vec<String>),
    /// This node is out of the store: the blocks that are free again, or why it is not.
    Left(Result<Vec<BlockKey>, String>),
    /// Somebody asks.
    Ask(Ask),
}

/// A question, and where its answer goes.
pub(crate) struct Ask {
    pub(crate) question: Question,
    pub(crate) reply: SyncSender<Answer>,
}

impl Ask {
    /// Whether its answer tells what the kernel has.
    pub(crate) fn is_about_the_kernel(&self) -> bool {
        match &self.question {
            Question::Request { request, .. } => {
                matches!(request, Request::Status | Request::Denied | Request::Plan { .. })
            }
            Question::Readiness(_) | Question::Gauges(_) => true,
            _ => false,
        }
    }

    /// Whether its answer takes much more memory to make than to give.
    pub(crate) fn is_for_a_plan(&self) -> bool {
        matches!(self.question, Question::Request { request: Request::Plan { .. }, .. })
    }

    /// Whether somebody may just have followed an advice and wants to see it gone; others ask again and again.
    pub(crate) fn is_by_a_person(&self) -> bool {
        matches!(&self.question, Question::Request { request: Request::Status, .. })
    }
}

/// What only the ring can answer.
pub(crate) enum Question {
    /// A request of the socket, with what came beside it.
    Request { request: Request, netns: Option<OwnedFd>, client: Client, leases: Option<Vec<Lease>> },
    /// Whether these networks could be served, together with those there are.
    Check(Vec<Network>),
    /// Whether the ring turns at all.
    Alive,
    /// Why this node is not ready; with the leases, if the store told them.
    Readiness(Option<Vec<Lease>>),
    /// Brings the metrics up to date.
    Gauges(Option<Vec<Lease>>),
    /// The ways to these peers, or to all.
    Lanes(Vec<NodeName>),
    /// What is known of the nodes of this name or id.
    Memories(String),
    /// Whether an object of policies is known, from the store or from memory.
    Knows(ObjectKey),
}

/// Where other threads put what they have for the ring.
#[derive(Clone)]
pub(crate) struct Inbox {
    sender: Sender<Input>,
    bell: Arc<EventFd>,
}

impl Inbox {
    pub(crate) fn new(sender: Sender<Input>) -> anyhow::Result<Inbox> {
        let bell = EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
            .context("cannot make an event descriptor")?;
        Ok(Inbox { sender, bell: Arc::new(bell) })
    }

    /// Puts something in; false if the ring has ended.
    pub(crate) fn put(&self, input: Input) -> bool {
        // The bell only fails to ring when it has rung 2^64 times unheard.
        self.sender.send(input).is_ok() && self.bell.write(1).is_ok()
    }

    /// The ring's answer to a question.
    pub(crate) fn ask(&self, question: Question, patience: Duration) -> Answer {
        let (reply, answer) = sync_channel(1);
        let stopping = || failure(FailureCode::Stopping, "the agent is stopping; try again when it is back");
        if !self.put(Input::Ask(Ask { question, reply })) {
            return stopping();
        }
        match answer.recv_timeout(patience) {
            Ok(answer) => answer,
            // The ring ends between its turns: what it has taken, it has answered or not begun.
            Err(RecvTimeoutError::Disconnected) => stopping(),
            Err(RecvTimeoutError::Timeout) => {
                failure(FailureCode::TryAgain, "the agent is busy; try again, and look at its log")
            }
        }
    }

    /// Readable when something is in.
    pub(crate) fn bell(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }

    /// The bell was heard.
    pub(crate) fn hush(&self) {
        // Nothing to read means that it has not rung, which is as good.
        let _ = self.bell.read();
    }
}
