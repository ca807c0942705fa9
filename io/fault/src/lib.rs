//! Fault points: named places in the agent and the plugin where a test can have the process killed, to see what the
//! next one makes of what is left.
//!
//! Only the environment of the process itself names a point (`TARTAN_FAULT_POINT=add-recorded`), and only when it
//! starts; nothing that a request, a file or the store says can. Without it a point costs one comparison.

use std::sync::LazyLock;

use nix::sys::signal::{Signal, raise};

/// The variable that names a point.
pub const VARIABLE: &str = "TARTAN_FAULT_POINT";

/// The point of this process, if any.
static CHOSEN: LazyLock<Option<Point>> =
    LazyLock::new(|| std::env::var(VARIABLE).ok().and_then(|name| Point::from_name(&name)));

macro_rules! points {
    ($($(#[$doc:meta])* $point:ident = $name:literal,)*) => {
        /// A place where the process can be killed.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Point { $($(#[$doc])* $point,)* }

        impl Point {
            /// All of them, in the order in which an ADD and then a DEL come by.
            pub const ALL: &[Point] = &[$(Point::$point,)*];

            /// Its name.
            pub const fn name(self) -> &'static str {
                match self { $(Point::$point => $name,)* }
            }
        }
    };
}

points! {
    /// The plugin is about to ask the agent.
    PluginAsks = "plugin-asks",
    /// The agent has taken an ADD; nothing of it is recorded.
    AddTaken = "add-taken",
    /// The choices for an ADD are recorded; nothing of it is in the kernel.
    AddRecorded = "add-recorded",
    /// The node's side of an ADD is in the kernel.
    AddHost = "add-host",
    /// The pod's side is, too.
    AddInside = "add-inside",
    /// An ADD is recorded as whole; it is not answered.
    AddKept = "add-kept",
    /// The agent has taken a DEL, or a GC that takes an interface away.
    DelTaken = "del-taken",
    /// The interface is shut; it is still recorded.
    DelShut = "del-shut",
    /// The interface is recorded no more; the DEL is not answered.
    DelReleased = "del-released",
    /// The DEL is answered; links may still be there.
    DelAnswered = "del-answered",
    /// The plugin has the agent's answer; the runtime has not.
    PluginAnswered = "plugin-answered",
}

impl Point {
    /// The point of this name.
    pub fn from_name(name: &str) -> Option<Point> {
        Point::ALL.iter().copied().find(|point| point.name() == name)
    }

    /// The point that this process is to die at.
    pub fn chosen() -> Option<Point> {
        *CHOSEN
    }
}

/// Kills the process here if it was told to.
pub fn reach(point: Point) {
    if *CHOSEN == Some(point) {
        // Cannot fail: the signal is valid, and a process may kill itself.
        let _ = raise(Signal::SIGKILL);
    }
}
