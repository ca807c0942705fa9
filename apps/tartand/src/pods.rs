//! Pods: how the ring serves a DEL, and goes into their namespaces.

use std::os::fd::BorrowedFd;
use std::sync::mpsc::SyncSender;

use tartan_api::rpc::{Answer, Failure, FailureCode};
use tartan_decide::{EndpointChoice, Fact, Phase, Scope, inside};
use tartan_fault::{Point, reach};
use tartan_host::Realm;
use tartan_kernel::{Kernel, Marks};
use tartan_model::{AttachmentKey, Endpoint};
use tartan_reconcile::{Reconciler, Sweep};

use crate::ring::{Ring, give};
use crate::serve::{failure, ok};

/// A DEL on its way.
pub(crate) struct Deleting {
    /// One; for a GC any number.
    pub(crate) keys: Vec<AttachmentKey>,
    pub(crate) reply: Option<SyncSender<Answer>>,
}

impl Ring {
    /// Takes away an interface that nobody deletes: of an ADD that failed, or that comes again.
    pub(crate) fn give_up(&mut self, key: AttachmentKey) {
        self.learn(Fact::Detach(key.clone()));
        self.decide();
        self.loop_.hurry();
        self.settle(Sweep::Later);
        self.finish_dels(vec![Deleting { keys: vec![key], reply: None }]);
    }

    pub(crate) fn finish_dels(&mut self, deleting: Vec<Deleting>) {
        for del in deleting {
            let answer = self.finish_keys(&del);
            if let Some(reply) = del.reply {
                give(&reply, answer);
                reach(Point::DelAnswered);
            }
        }
        self.decide();
        self.settle(Sweep::Later);
    }

    /// One that fails does not keep the others.
    fn finish_keys(&mut self, del: &Deleting) -> Answer {
        let mut failed: Vec<Failure> = Vec::new();
        for key in &del.keys {
            if let Answer::Error(failure) = self.finish_del(key) {
                failed.push(failure);
                if del.reply.is_none() {
                    // Nobody will ask again.
                    self.leaving.push(key.clone());
                }
            }
        }
        let lines: Vec<&str> = failed.iter().map(|failure| failure.message.as_str()).collect();
        failed.first().map_or_else(|| ok(&()), |first| failure(first.code, lines.join("\n")))
    }

    /// A pod is shut when its link is down or gone; only then its addresses are free.
    fn finish_del(&mut self, key: &AttachmentKey) -> Answer {
        let scope = Scope::Endpoint(key.clone());
        let Some(attached) = self.world.endpoint(key).filter(|attached| attached.phase == Phase::Leaving)
        else {
            return ok(&());
        };
        reach(Point::DelShut);
        let endpoint = attached.endpoint.clone();
        let Endpoint { pod, link, netns, .. } = &endpoint;
        if self.loop_.is_in_doubt() {
            let message = format!("pod {pod}: cannot shut it: what the kernel has could not be read");
            return failure(FailureCode::TryAgain, message);
        }
        let gone = self.loop_.mirror().rows.link(link).is_none();
        let missing = self.loop_.unsettled(&scope).into_iter().next();
        match missing {
            Some(missing) if !gone => {
                let code = if missing.reason.is_some() { FailureCode::Kernel } else { FailureCode::TryAgain };
                let reason = missing.reason.unwrap_or_else(|| "the kernel has not confirmed it".into());
                failure(code, format!("pod {pod}: cannot shut it: {}: {reason}", missing.row))
            }
            _ => {
                if !self.learn(Fact::Shut(key.clone())) {
                    // The next agent would bring the record back: its addresses are not free.
                    self.learn(Fact::Restored(endpoint.clone()));
                    self.learn(Fact::Detach(key.clone()));
                    return failure(
                        FailureCode::TryAgain,
                        format!("pod {pod}: it is shut, but {}", self.unkept_reason()),
                    );
                }
                reach(Point::DelReleased);
                if !gone {
                    self.left.insert((netns.device, netns.inode));
                }
                ok(&())
            }
        }
    }
}

/// A pod's namespace is a kernel like the node's, with rows of its own.
pub(crate) fn set_up_inside(choice: &EndpointChoice, netns: BorrowedFd<'_>) -> Result<(), String> {
    let pod = &choice.endpoint.pod;
    let wrong = |what: String| format!("pod {pod}: inside its network namespace: {what}");
    let interface = choice.endpoint.key.interface.clone();
    let kernel = Kernel::open_in(netns, Marks::Pod(interface)).map_err(|error| wrong(error.to_string()))?;
    let mut pod_loop = Reconciler::new(kernel, Realm::Pod);
    pod_loop.want(&(), inside(choice).iter().cloned().collect());
    pod_loop.settle(Sweep::Now).map_err(|error| wrong(error.to_string()))?;
    match pod_loop.all_unsettled().next() {
        None => Ok(()),
        Some(missing) => Err(wrong(format!("{}: {}", missing.row, missing.reason.unwrap_or_default()))),
    }
}
