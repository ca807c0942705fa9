//! How our links are told from others.

use nix::sys::utsname::uname;
use tartan_model::IfName;

/// The protocol number of our routes, neighbours and addresses on a node's loopback interface (`rtm_protocol`, `NDA_PROTOCOL`,
/// `IFA_PROTO`).
pub const PROTOCOL: u8 = 116;
/// The index of the loopback interface of each namespace (include/net/flow.h, `LOOPBACK_IFINDEX`).
pub(crate) const LOOPBACK: u32 = 1;

/// What the alias of a link of ours begins with.
const ALIAS: &str = "tartan";
/// The whole of it, before the name of the pod or network: such a link is ours even when somebody gave it another name.
const WHOLE: [&str; 2] = ["tartan pod ", "tartan network "];

/// Which links are ours. Routes, neighbours and addresses on a node's loopback interface bear [`PROTOCOL`]; other addresses
/// and forwarding entries are ours when their link is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Marks {
    /// On a node: links that have one of our names *and* an alias that begins with `tartan`; under any other name those
    /// whose alias tells what they were made for.
    Node,
    /// In a pod: the one link of this name.
    Pod(IfName),
}

impl Marks {
    /// Whether a link of this name and alias is ours.
    pub fn is_ours(&self, name: &IfName, alias: &str) -> bool {
        match self {
            Marks::Pod(ours) => ours == name,
            Marks::Node if is_node_name(name.as_str()) => alias.starts_with(ALIAS),
            Marks::Node => WHOLE.iter().any(|whole| alias.starts_with(whole)),
        }
    }

    /// Whether a link of this name is ours, or about to be: a link has its name before its alias.
    pub(crate) fn is_our_name(&self, name: &IfName) -> bool {
        match self {
            Marks::Node => is_node_name(name.as_str()),
            Marks::Pod(ours) => ours == name,
        }
    }
}

/// `tartan.VNI`, `tart6.VNI`, `tartanN`, or `tt` and 12 hexadecimal digits.
fn is_node_name(name: &str) -> bool {
    let number = |rest: &str| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_digit());
    let numbered = |prefix: &&str| name.strip_prefix(*prefix).is_some_and(number);
    ["tartan.", "tart6.", "tartan"].iter().any(numbered) || is_of_pod(name)
}

/// Whether a link of this name is the host's end of a pod's.
pub(crate) fn is_of_pod(name: &str) -> bool {
    name.strip_prefix("tt")
        .is_some_and(|rest| rest.len() == 12 && rest.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')))
}

/// Whether this kernel keeps who made an address (`IFA_PROTO`): since Linux 5.18.
pub fn keeps_marks_of_addresses() -> bool {
    uname().is_ok_and(|system| is_since(&system.release().to_string_lossy(), (5, 18)))
}

/// Whether a release such as `6.1.0-18-amd64` is this one or a later one.
fn is_since(release: &str, first: (u32, u32)) -> bool {
    let mut numbers = release.split(|letter: char| !letter.is_ascii_digit()).map(str::parse);
    matches!((numbers.next(), numbers.next()), (Some(Ok(major)), Some(Ok(minor))) if (major, minor) >= first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_told_by_their_numbers() {
        for (release, is) in [
            ("5.18.0\n", true),
            ("5.18", true),
            ("6.1.0-18-amd64", true),
            ("5.15.0-91-generic", false),
            ("5.4.0", false),
            ("4.19.0", false),
            ("6", false),
            ("", false),
        ] {
            assert_eq!(is_since(release, (5, 18)), is, "{release}");
        }
    }

    fn is_ours(name: &str, alias: &str) -> bool {
        Marks::Node.is_ours(&name.parse().unwrap(), alias)
    }

    #[test]
    fn a_link_of_ours_has_name_and_alias() {
        for name in ["tartan.1", "tartan.16777215", "tart6.7", "tartan0", "tt0123456789ab"] {
            assert!(is_ours(name, "tartan: a pod"), "{name}");
            assert!(!is_ours(name, ""), "{name}");
            assert!(!is_ours(name, "a tartan"), "{name}");
        }
        for name in
            ["eth0", "tartan.", "tartan", "tartan-sl", "tt0123456789AB", "tt0123", "tart6", "tartan.x"]
        {
            assert!(!is_ours(name, "tartan"), "{name}");
            assert!(
                is_ours(name, "tartan pod default/p1") && is_ours(name, "tartan network default"),
                "{name}"
            );
        }
    }
}
