//! Mirror, compare, step, tell: the one loop that changes the kernel.
//!
//! The caller says what each scope wants; [`Reconciler::settle`] brings the kernel there and tells what could not
//! be done. The mirror is only ever what the kernel reported, so a row counts as settled when the kernel has told
//! that it is there.

mod dataplane;
mod pace;
mod reconciler;
mod wants;

pub use dataplane::Dataplane;
pub use reconciler::{Reconciler, Sweep, Tally, Unsettled};
