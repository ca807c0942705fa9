//! The cluster that each case begins with: that of Kubernetes' own end-to-end tests, on two nodes.

/// The namespaces. Each has the label `ns` with its name.
pub(crate) const NAMESPACES: [&str; 3] = ["x", "y", "z"];
/// The pods of each namespace. Each has the label `pod` with its name.
pub(crate) const PODS: [&str; 3] = ["a", "b", "c"];
/// The nodes.
pub(crate) const NODES: [&str; 2] = ["n1", "n2"];
/// The ports that each pod serves with each protocol; they are called `serve-80-tcp` and so on.
pub(crate) const SERVED: [u16; 2] = [80, 81];
/// An address that neither a pod nor a node has.
pub(crate) const OUTSIDE: &str = "outside";

/// All pods, as `x/a`.
pub(crate) fn pods() -> impl Iterator<Item = String> {
    NAMESPACES.iter().flat_map(|namespace| PODS.iter().map(move |pod| format!("{namespace}/{pod}")))
}

/// Where the pods of a name run, so that each namespace has neighbours on a node and pods apart.
pub(crate) fn node_of(pod: &str) -> &'static str {
    if pod == "b" { "n2" } else { "n1" }
}

/// Everything that an expectation can name: pods, `node:n1` and `outside`.
pub(crate) fn places() -> Vec<String> {
    pods().chain(NODES.iter().map(|node| format!("node:{node}"))).chain([OUTSIDE.to_owned()]).collect()
}
