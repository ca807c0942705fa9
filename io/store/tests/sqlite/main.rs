//! The SQLite driver on real files.

// Integration tests are always compiled for testing; saying so lets clippy see test code in the helpers, too.
#[cfg(test)]
mod lease;
#[cfg(test)]
mod log;
#[cfg(test)]
mod open;
#[cfg(test)]
mod place;
#[cfg(test)]
mod processes;
#[cfg(test)]
#[path = "../suite/mod.rs"]
mod suite;
#[cfg(test)]
mod swap;
#[cfg(test)]
mod watch;

#[cfg(test)]
mod every_driver {
    crate::suite::every_driver!(crate::place::Place::new());
}
