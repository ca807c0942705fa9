//! Who may talk to whom: selectors over labelled endpoints.

mod parse;
pub mod reference;
mod selector;

pub use parse::{MAX_LENGTH, SelectorError};
pub use selector::{Labels, Selector};
