//! An ADD: taken, waited with if need be, begun, finished.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant};

use nix::sys::statfs::{NSFS_MAGIC, fstatfs};
use tartan_api::cni::Add;
use tartan_api::rpc::{Answer, FailureCode};
use tartan_decide::{Attach, Choice, EndpointChoice, Fact, Note, Phase, Refused, Scope, added};
use tartan_fault::{Point, reach};
use tartan_host::NetnsToken;
use tartan_kernel::{Kernel, netns};
use tartan_model::{AttachmentKey, Endpoint, Mac, NetnsPlace, PodName};
use tartan_reconcile::Sweep;
use tartan_rpc::Client;
use tracing::info;

use crate::identity::random;
use crate::pods::set_up_inside;
use crate::ring::{Ring, give};
use crate::serve::{failure, ok};

/// How long an ADD is waited with while the store tells what it knows, or a block is claimed. The ring goes on meanwhile.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);
/// The longest path of a namespace (PATH_MAX).
const MAX_PATH: usize = 4096;

/// An ADD that is taken and not begun.
pub(crate) struct Waiting {
    pub(crate) add: Add,
    pub(crate) netns: Option<OwnedFd>,
    pub(crate) client: Client,
    pub(crate) reply: SyncSender<Answer>,
    pub(crate) until: Instant,
}

/// An ADD on its way.
pub(crate) struct Adding {
    key: AttachmentKey,
    pod: PodName,
    netns: NetnsToken,
    reply: SyncSender<Answer>,
}

/// Why an ADD is not begun.
enum NotBegun {
    /// It cannot be served, and why.
    Refused(Answer),
    /// It may be served in a moment; what to say when that is over.
    NotYet(Answer),
}

impl From<Answer> for NotBegun {
    fn from(answer: Answer) -> NotBegun {
        NotBegun::Refused(answer)
    }
}

impl Ring {
    /// Begins every ADD that can be begun.
    pub(crate) fn begin_adds(&mut self) -> Vec<Adding> {
        let mut adding = Vec::new();
        for mut waiting in std::mem::take(&mut self.waiting) {
            // The plugin was killed: the runtime has given up, and its DEL may have come already.
            if waiting.client.is_gone() {
                info!("nobody waits for pod {} any more", waiting.add.pod);
                continue;
            }
            match self.begin_add(&waiting.add, &mut waiting.netns) {
                Ok(netns) => {
                    let Add { key, pod, .. } = waiting.add;
                    adding.push(Adding { key, pod, netns, reply: waiting.reply });
                }
                Err(NotBegun::NotYet(_)) if Instant::now() < waiting.until => self.waiting.push(waiting),
                Err(NotBegun::NotYet(answer) | NotBegun::Refused(answer)) => give(&waiting.reply, answer),
            }
        }
        adding
    }

    /// A DEL ends what waits.
    pub(crate) fn cancel_adds(&mut self, key: &AttachmentKey) {
        let (gone, waiting) = std::mem::take(&mut self.waiting)
            .into_iter()
            .partition::<Vec<Waiting>, _>(|waiting| waiting.add.key == *key);
        self.waiting = waiting;
        for waiting in gone {
            let message =
                format!("pod {}: it was deleted before it was added; add it again", waiting.add.pod);
            give(&waiting.reply, failure(FailureCode::TryAgain, message));
        }
    }

    /// Makes the choices for a new pod's interface; nothing of it is in the kernel yet.
    fn begin_add(&mut self, add: &Add, netns: &mut Option<OwnedFd>) -> Result<NetnsToken, NotBegun> {
        reach(Point::AddTaken);
        let given =
            netns.as_ref().ok_or_else(|| invalid(&add.pod, "no network namespace was given"))?.as_fd();
        let place = self.place(add, given)?;
        self.make_way(add, &place);
        if let Err(refused) = self.world.admits(&add.network) {
            return Err(self.refuse(&add.pod, &refused));
        }
        if !self.swept || self.left.contains(&(place.device, place.inode)) {
            // An interface that is deleted may still be there, with the name and the routes that the new one is to have.
            self.sweep();
        }
        let attach = attach(add, place, given)?;
        let learned =
            self.world.learn(Fact::Attach(attach)).map_err(|refused| self.refuse(&add.pod, &refused))?;
        if !self.keep(learned) {
            // What is not kept would be taken for foreign by the next agent.
            self.learn(Fact::Shut(add.key.clone()));
            let message = format!("pod {}: {}", add.pod, self.unkept_reason());
            return Err(failure(FailureCode::TryAgain, message).into());
        }
        reach(Point::AddRecorded);
        let netns = netns.take().ok_or_else(|| invalid(&add.pod, "no network namespace was given"))?;
        Ok(self.loop_.kernel().adopt(netns))
    }

    fn place(&self, add: &Add, given: BorrowedFd<'_>) -> Result<NetnsPlace, Answer> {
        if add.netns.len() > MAX_PATH {
            return Err(invalid(&add.pod, "the path of its namespace is too long"));
        }
        let (device, inode) = netns::id(given).map_err(|error| invalid(&add.pod, error))?;
        if !fstatfs(given).is_ok_and(|found| found.filesystem_type() == NSFS_MAGIC) {
            return Err(invalid(&add.pod, "what was given is not a network namespace"));
        }
        if self.own_netns == (device, inode) {
            return Err(invalid(&add.pod, "its network namespace is the node's own"));
        }
        Ok(NetnsPlace { path: add.netns.clone(), device, inode })
    }

    /// A container that comes again in another namespace, as after a reboot or a runtime's crash, has left the old one,
    /// and nobody deletes its interface there. A namespace's number is given again, so one whose interface is gone
    /// counts as another: the kernel takes both ends of a veth along with a namespace (net/core/dev.c, default_device_exit_batch).
    fn make_way(&mut self, add: &Add, place: &NetnsPlace) {
        // A kernel that cannot be read tells nothing of what is gone.
        if self.world.endpoint(&add.key).is_none() || self.loop_.hear().is_err() {
            return;
        }
        let Some(attached) = self.world.endpoint(&add.key) else { return };
        // Another request that is begun; this one is refused.
        if attached.phase == Phase::Adding {
            return;
        }
        let old = &attached.endpoint;
        let there = self.loop_.mirror().rows.link(&old.link).is_some();
        let same = there && (old.netns.device, old.netns.inode) == (place.device, place.inode);
        if attached.phase == Phase::Leaving || !same {
            info!("pod {}: container {} comes again, its interface of before goes", add.pod, add.key);
            self.give_up(add.key.clone());
        }
    }

    fn refuse(&self, pod: &PodName, refused: &Refused) -> NotBegun {
        let temporary = refused.is_temporary() || !self.world.in_sync();
        let code = if temporary { FailureCode::TryAgain } else { FailureCode::Invalid };
        let answer = failure(code, format!("pod {pod}: {refused}"));
        if self.may_pass(refused) { NotBegun::NotYet(answer) } else { NotBegun::Refused(answer) }
    }

    /// Whether the next moments may bring what is missing: what the store has not told yet, or a block.
    fn may_pass(&self, refused: &Refused) -> bool {
        let exhausted = |network| {
            let notes = self.notes.get(&Scope::Network(network)).into_iter().flatten();
            notes.into_iter().any(|note| matches!(note, Note::PoolExhausted { .. }))
        };
        match refused {
            Refused::Exists { .. } | Refused::TwoAddresses(..) => false,
            Refused::NoAddress { network, .. } => !exhausted(network.clone()),
            _ => !self.world.in_sync(),
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
            reach(Point::AddHost);
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
            let message = format!("pod {}: it was deleted before it was added; add it again", add.pod);
            return failure(FailureCode::TryAgain, message);
        };
        let pod = &choice.endpoint.pod;
        let done =
            self.settled(&scope, &choice.endpoint).and_then(|()| self.finish_inside(&choice, add.netns));
        reach(Point::AddInside);
        match done {
            Ok(()) if self.learn(Fact::Added(add.key.clone())) => {
                reach(Point::AddKept);
                let links = [Some(&choice.endpoint.link), choice.bridge.as_ref()];
                self.loop_.kernel().sync_carrier(links.into_iter().flatten());
                // From now on the link is wanted without a namespace to make it in, as after a restart.
                self.dirty.insert(scope);
                ok(&added(&choice))
            }
            Ok(()) => {
                let message = format!("pod {pod}: {}", self.unkept_reason());
                self.give_up(add.key.clone());
                failure(FailureCode::TryAgain, message)
            }
            Err(message) => {
                self.went_wrong(message.clone());
                self.give_up(add.key.clone());
                failure(FailureCode::Kernel, message)
            }
        }
    }

    /// Whether everything of a pod is in the node's kernel; else what is not, and why.
    pub(crate) fn settled(&self, scope: &Scope, endpoint: &Endpoint) -> Result<(), String> {
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
}

/// What the runtime wants, with the chance that the choices need and what the pod has already.
fn attach(add: &Add, place: NetnsPlace, netns: BorrowedFd<'_>) -> Result<Attach, Answer> {
    let mut chance = [0; 12];
    random(&mut chance)
        .map_err(|error| failure(FailureCode::TryAgain, format!("pod {}: {error:#}", add.pod)))?;
    let [a, b, c, d, e, f, mac @ ..] = chance;
    let link = format!("tt{a:02x}{b:02x}{c:02x}{d:02x}{e:02x}{f:02x}");
    let kernel = |error: String| failure(FailureCode::Kernel, format!("pod {}: {error}", add.pod));
    Ok(Attach {
        key: add.key.clone(),
        pod: add.pod.clone(),
        network: add.network.clone(),
        list: add.list.clone(),
        ips: add.ips.clone(),
        default_routes: Kernel::default_routes(netns).map_err(|error| kernel(error.to_string()))?,
        netns: place,
        labels: add.labels.clone(),
        link: link.parse().map_err(|error: tartan_model::NameError| kernel(error.to_string()))?,
        mac: Mac::local(mac),
    })
}

fn invalid(pod: &PodName, reason: impl std::fmt::Display) -> Answer {
    failure(FailureCode::Invalid, format!("pod {pod}: {reason}"))
}
