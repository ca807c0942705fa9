//! How far it is: a moving line on a terminal, plain lines elsewhere; always on standard error.

use std::io::{IsTerminal, stderr};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// One step after the other.
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
}

impl Progress {
    pub(crate) fn new() -> Progress {
        Progress { bar: stderr().is_terminal().then(ProgressBar::new_spinner) }
    }

    /// Begins a step of `length` pieces.
    pub(crate) fn step(&self, length: usize, text: &str) {
        let Some(bar) = &self.bar else {
            eprintln!("{text}");
            return;
        };
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} {pos}/{len} ({elapsed})") {
            bar.set_style(style);
        }
        bar.set_length(length as u64);
        bar.set_position(0);
        bar.set_message(text.to_owned());
        bar.enable_steady_tick(Duration::from_millis(100));
    }

    /// A piece of the step is done.
    pub(crate) fn tick(&self) {
        if let Some(bar) = &self.bar {
            bar.inc(1);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
