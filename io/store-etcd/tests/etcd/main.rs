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
#[path = "../../../store/tests/suite/mod.rs"]
mod suite;
#[cfg(test)]
mod swap;
#[cfg(test)]
mod watch;

#[cfg(test)]
mod every_driver {
    crate::suite::every_driver!(crate::server::Cluster::start(1));
}
