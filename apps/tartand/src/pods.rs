//! Pods: how the ring serves an ADD and a DEL.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::mpsc::SyncSender;
use std::time::Instant;

use nix::sys::statfs::{NSFS_MAGIC, fstatfs};
use tartan_api::cni::Add;
use tartan_api::rpc::{Answer, FailureCode};
use tartan_decide::{Attach, Choice, EndpointChoice, Fact, Phase, Scope, added, inside};
use tartan_host::{NetnsToken, Realm};
use tartan_kernel::{Kernel, Marks, netns};
use tartan_model::{AttachmentKey, Endpoint, Mac, NetnsPlace};
use tartan_reconcile::{Reconciler, Sweep};

use crate::identity::random;
use crate::repair::open_inside;
use crate::ring::{Ring, give};
use crate::serve::{failure, ok};

/// The longest path of a namespace (PATH_MAX).
const MAX_PATH: usize = 4096;

/// An ADD on its way.
pub(crate) struct Adding {
    pub(crate) key: AttachmentKey,
    pub(crate) netns: NetnsToken,
    pub(crate) reply: SyncSender<Answer>,
}

/// A DEL on its way.
pub(crate) struct Deleting {
    pub(crate) key: AttachmentKey,
    pub(crate) reply: Option<SyncSender<Answer>>,
}

impl Ring {
    /// Makes the choices for a new pod's interface; nothing of it is in the kernel yet.
    pub(crate) fn begin_add(
        &mut self,
        add: Add,
        netns: Option<OwnedFd>,
    ) -> Result<(AttachmentKey, NetnsToken), Answer> {
        let Some(netns) = netns else {
            return Err(failure(
                FailureCode::Invalid,
                format!("pod {}: no network namespace was given", add.pod),
            ));
        };
        let pod = add.pod.clone();
        if add.netns.len() > MAX_PATH {
            return Err(failure(
                FailureCode::Invalid,
                format!("pod {pod}: the path of its namespace is too long"),
            ));
        }
        let invalid = |error: String| failure(FailureCode::Invalid, format!("pod {pod}: {error}"));
        let (device, inode) = netns::id(netns.as_fd()).map_err(|error| invalid(error.to_string()))?;
        if !fstatfs(netns.as_fd()).is_ok_and(|found| found.filesystem_type() == NSFS_MAGIC) {
            return Err(invalid("what was given is not a network namespace".into()));
        }
        if self.own_netns == (device, inode) {
            return Err(invalid("its network namespace is the node's own".into()));
        }
        let mut chance = [0; 12];
        random(&mut chance)
            .map_err(|error| failure(FailureCode::TryAgain, format!("pod {pod}: {error:#}")))?;
        let [a, b, c, d, e, f, mac @ ..] = chance;
        let link = format!("tt{a:02x}{b:02x}{c:02x}{d:02x}{e:02x}{f:02x}");
        let link =
            link.parse().map_err(|error| failure(FailureCode::Kernel, format!("pod {pod}: {error}")))?;
        let attach = Attach {
            key: add.key.clone(),
            pod: add.pod,
            network: add.network,
            netns: NetnsPlace { path: add.netns, device, inode },
            labels: add.labels,
            link,
            mac: Mac::local(mac),
        };
        match self.world.learn(Fact::Attach(attach)) {
            Ok(learned) => {
                if !self.keep(learned) {
                    // What is not kept would be taken for foreign by the next agent.
                    self.learn(Fact::Shut(add.key));
                    return Err(failure(
                        FailureCode::TryAgain,
                        format!("pod {pod}: cannot be recorded; see the agent's log"),
                    ));
                }
                if self.left.contains(&(device, inode)) {
                    // The new interface may have the name of one that is to be swept.
                    self.sweep_at = Some(Instant::now());
                }
                Ok((add.key, self.loop_.kernel().adopt(netns)))
            }
            Err(refused) => {
                let code = if refused.is_temporary() { FailureCode::TryAgain } else { FailureCode::Invalid };
                Err(failure(code, format!("pod {pod}: {refused}")))
            }
        }
    }

    pub(crate) fn finish_adds(&mut self, adding: Vec<Adding>) {
        // The other end of each link goes to a namespace that only the request brought along.
        for add in &adding {
            let scope = Scope::Endpoint(add.key.clone());
            let decision = self.world.decide(&scope);
            self.want(&scope, &decision, Some(add.netns));
        }
        if !adding.is_empty() {
            self.loop_.hurry();
            self.settle(Sweep::Later);
        }
        for add in adding {
            let answer = self.finish_add(&add);
            self.loop_.kernel().release(add.netns);
            give(&add.reply, answer);
        }
    }

    fn finish_add(&mut self, add: &Adding) -> Answer {
        let scope = Scope::Endpoint(add.key.clone());
        let Some(Choice::Endpoint(choice)) = self.world.decide(&scope).choice else {
            return failure(FailureCode::TryAgain, format!("{} was deleted before it was added", add.key));
        };
        match self.check(&scope, &choice.endpoint).and_then(|()| self.finish_inside(&choice, add.netns)) {
            Ok(()) => {
                let links = [Some(&choice.endpoint.link), choice.bridge.as_ref()];
                self.loop_.kernel().sync_carrier(links.into_iter().flatten());
                // From now on the link is wanted without a namespace to make it in, as after a restart.
                self.dirty.insert(scope);
                ok(&added(&choice))
            }
            Err(message) => {
                self.went_wrong(message.clone());
                self.give_up(add.key.clone());
                failure(FailureCode::Kernel, message)
            }
        }
    }

    /// Whether everything of a pod is in the node's kernel; else what is not, and why.
    pub(crate) fn check(&self, scope: &Scope, endpoint: &Endpoint) -> Result<(), String> {
        let Some(missing) = self.loop_.unsettled(scope).into_iter().next() else { return Ok(()) };
        let reason = missing.reason.unwrap_or_else(|| "the kernel has not confirmed it".into());
        Err(format!("pod {}: {}: {reason}", endpoint.pod, missing.row))
    }

    pub(crate) fn finish_inside(&self, choice: &EndpointChoice, netns: NetnsToken) -> Result<(), String> {
        match self.loop_.kernel_ref().netns(netns) {
            Some(netns) => set_up_inside(choice, netns),
            None => Err(format!("pod {}: its network namespace is gone", choice.endpoint.pod)),
        }
    }

    /// Where the MTU is to change, or a shut pod is opened, the pod's own end goes first: if the agent dies in between,
    /// the host's end still shows that there is something to do.
    pub(crate) fn refit(&mut self, choice: &EndpointChoice) {
        let link = self.loop_.mirror().rows.link(&choice.endpoint.link);
        if choice.open
            && link.is_some_and(|link| link.mtu != choice.mtu || !link.up)
            && let Err(broken) = open_inside(choice)
        {
            self.went_wrong(broken.reason);
        }
    }

    /// Takes back an ADD that failed.
    fn give_up(&mut self, key: AttachmentKey) {
        self.learn(Fact::Detach(key.clone()));
        self.decide();
        self.settle(Sweep::Later);
        self.finish_dels(vec![Deleting { key, reply: None }]);
    }

    pub(crate) fn finish_dels(&mut self, deleting: Vec<Deleting>) {
        for del in deleting {
            let answer = self.finish_del(&del.key);
            if let Some(reply) = del.reply {
                give(&reply, answer);
            }
        }
        self.decide();
        self.settle(Sweep::Later);
    }

    /// A pod is shut when its link is down or gone; only then its addresses are free.
    fn finish_del(&mut self, key: &AttachmentKey) -> Answer {
        let scope = Scope::Endpoint(key.clone());
        let Some(attached) = self.world.endpoint(key).filter(|attached| attached.phase == Phase::Leaving)
        else {
            return ok(&());
        };
        let endpoint = attached.endpoint.clone();
        let Endpoint { pod, link, netns, .. } = &endpoint;
        let gone = self.loop_.mirror().rows.link(link).is_none();
        let missing = self.loop_.unsettled(&scope).into_iter().next();
        match missing {
            Some(missing) if !gone => {
                let reason = missing.reason.unwrap_or_else(|| "the kernel has not confirmed it".into());
                failure(FailureCode::Kernel, format!("pod {pod}: cannot shut it: {}: {reason}", missing.row))
            }
            _ => {
                if !self.learn(Fact::Shut(key.clone())) {
                    // The next agent would bring the record back: its addresses are not free.
                    self.learn(Fact::Restored(endpoint.clone()));
                    self.learn(Fact::Detach(key.clone()));
                    return failure(
                        FailureCode::TryAgain,
                        format!("pod {pod}: its record cannot be removed"),
                    );
                }
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
