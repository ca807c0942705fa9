//! Who may talk to whom: selectors over labelled endpoints.

mod parse;
mod selector;

pub use parse::{MAX_LENGTH, SelectorError};
pub use selector::{Labels, Selector};
