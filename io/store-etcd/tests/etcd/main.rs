//! The etcd driver against Debian's `etcd-server`.

// Integration tests are always compiled for testing; saying so lets clippy see test code in the helpers, too.
#[cfg(test)]
mod access;
#[cfg(test)]
mod faults;
#[cfg(test)]
mod history;
#[cfg(test)]
mod lease;
#[cfg(test)]
mod server;
#[cfg(test)]
mod swap;
#[cfg(test)]
mod watch;
