//! A CHECK: looks, and changes nothing.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use tartan_api::cni::Check;
use tartan_api::rpc::{Answer, FailureCode};
use tartan_decide::{Choice, EndpointChoice, Phase, Scope, Sides, differences};
use tartan_host::Rows;
use tartan_kernel::{Kernel, KernelError, Marks, netns};

use crate::ring::Ring;
use crate::serve::{failure, ok};

impl Ring {
    pub(crate) fn check(&self, check: &Check, netns: Option<&OwnedFd>) -> Answer {
        let scope = Scope::Endpoint(check.key.clone());
        let known = self.world.endpoint(&check.key).filter(|attached| attached.phase == Phase::Wanted);
        if known.is_none() {
            let message = format!("container {}: no such interface was added here", check.key);
            return failure(FailureCode::NotFound, message);
        }
        let Some(Choice::Endpoint(choice)) = self.world.decide(&scope).choice else {
            let message = format!("container {}: this node does not know its network yet", check.key);
            return failure(FailureCode::TryAgain, message);
        };
        let pod = &choice.endpoint.pod;
        let Some(netns) = netns else {
            return failure(FailureCode::Invalid, format!("pod {pod}: no network namespace was given"));
        };
        let found = match self.look(&choice, netns.as_fd(), check) {
            Ok(found) => found,
            Err(error) => {
                return failure(FailureCode::Kernel, format!("pod {pod}: cannot look at it: {error}"));
            }
        };
        if found.is_empty() {
            return ok(&());
        }
        let lines: Vec<String> = found.into_iter().map(|one| format!("pod {pod}: {one}")).collect();
        failure(FailureCode::Differs, lines.join("\n"))
    }

    fn look(
        &self,
        choice: &EndpointChoice,
        netns: BorrowedFd<'_>,
        check: &Check,
    ) -> Result<Vec<String>, KernelError> {
        let place = &choice.endpoint.netns;
        if netns::id(netns)? != (place.device, place.inode) {
            return Ok(vec![format!("it was added in another network namespace, {}", place.path)]);
        }
        let marks = Marks::Pod(choice.endpoint.key.interface.clone());
        let inside: Rows = Kernel::open_in(netns, marks)?.read(&[])?.rows;
        let sides = Sides { host: &self.loop_.mirror().rows, inside: &inside };
        Ok(differences(choice, sides, &check.listed))
    }
}
