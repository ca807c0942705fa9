//! What the loop needs of a kernel.

use tartan_host::{Host, Row, Step, StepError, SysctlKey};
use tartan_kernel::{Kernel, KernelError, Notices};

/// A kernel that can be read, stepped and listened to.
pub trait Dataplane {
    /// Everything it has.
    ///
    /// # Errors
    /// When the kernel does not answer.
    fn read(&mut self, sysctls: &[SysctlKey]) -> Result<Host, KernelError>;

    /// Only our routes.
    ///
    /// # Errors
    /// When the kernel does not answer.
    fn read_routes(&mut self) -> Result<Vec<Row>, KernelError>;

    /// Only our nftables.
    ///
    /// # Errors
    /// When the kernel does not answer.
    fn read_ruleset(&mut self) -> Result<Vec<Row>, KernelError>;

    /// Only our table of policies.
    ///
    /// # Errors
    /// When the kernel does not answer.
    fn read_policy(&mut self) -> Result<Vec<Row>, KernelError>;

    /// The value of a setting; None where the kernel has no such setting.
    fn read_sysctl(&mut self, key: &SysctlKey) -> Option<Row>;

    /// Takes the steps in order; one outcome each.
    fn apply(&mut self, steps: &[Step]) -> Vec<Result<(), StepError>>;

    /// What it has told since the last call.
    fn notices(&mut self) -> Notices;
}

impl Dataplane for Kernel {
    fn read(&mut self, sysctls: &[SysctlKey]) -> Result<Host, KernelError> {
        Kernel::read(self, sysctls)
    }

    fn read_routes(&mut self) -> Result<Vec<Row>, KernelError> {
        Kernel::read_routes(self)
    }

    fn read_ruleset(&mut self) -> Result<Vec<Row>, KernelError> {
        Kernel::read_ruleset(self)
    }

    fn read_policy(&mut self) -> Result<Vec<Row>, KernelError> {
        Kernel::read_policy(self)
    }

    fn read_sysctl(&mut self, key: &SysctlKey) -> Option<Row> {
        Kernel::read_sysctl(self, key)
    }

    fn apply(&mut self, steps: &[Step]) -> Vec<Result<(), StepError>> {
        Kernel::apply(self, steps)
    }

    fn notices(&mut self) -> Notices {
        Kernel::notices(self)
    }
}
