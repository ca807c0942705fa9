//! The engine alone, with more than a node of today has.

use nix::unistd::Pid;
use tartan_scenarios::figures;

use crate::{crowd, times};

const ENDPOINTS: usize = 250_000;
const POLICIES: usize = 10_000;

pub(crate) fn many() {
    let (endpoints, policies) = (times(ENDPOINTS), times(POLICIES));
    let this = Pid::this().as_raw();
    let (cpu, memory) = (figures::cpu(this), figures::resident_kib(this));
    let engine = crowd::filled(u32::try_from(endpoints).unwrap(), u32::try_from(policies).unwrap());
    let cpu = figures::cpu(this) - cpu;
    let memory = figures::resident_kib(this).saturating_sub(memory) >> 10;
    assert_eq!(engine.policies(), policies);
    figures::row(
        &format!("{endpoints} endpoints, 100 of them local, and {policies} policies compiled: CPU, resident"),
        &format!("{:.2} s, {memory} MiB", cpu.as_secs_f64()),
        "< 5 s",
    );
}
