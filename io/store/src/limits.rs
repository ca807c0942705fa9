//! The bounds that every driver keeps, so that an object fits all stores or none.

use crate::StoreError;

/// The longest key, lease name or lease holder, in bytes.
pub const KEY_MAX: usize = 512;

/// The longest value, in bytes: below etcd's limit of 1.5 MiB a request.
pub const VALUE_MAX: usize = 1 << 20;

/// Checks a key, a lease's name or its holder.
///
/// # Errors
/// [`StoreError::BadKey`] unless it is 1 to [`KEY_MAX`] bytes of printable ASCII.
pub fn check_key(key: &str) -> Result<(), StoreError> {
    if key.is_empty() { Err(bad(key)) } else { check_prefix(key) }
}

/// Checks a prefix, which may be empty.
///
/// # Errors
/// [`StoreError::BadKey`] unless it is 0 to [`KEY_MAX`] bytes of printable ASCII.
pub fn check_prefix(prefix: &str) -> Result<(), StoreError> {
    let printable = prefix.bytes().all(|byte| matches!(byte, b' '..=b'~'));
    if printable && prefix.len() <= KEY_MAX { Ok(()) } else { Err(bad(prefix)) }
}

/// Checks the value that is to stand under `key`.
///
/// # Errors
/// [`StoreError::TooLarge`] if it has more than [`VALUE_MAX`] bytes.
pub fn check_value(key: &str, value: &[u8]) -> Result<(), StoreError> {
    if value.len() <= VALUE_MAX {
        return Ok(());
    }
    Err(StoreError::TooLarge { key: key.to_owned(), size: value.len() })
}

/// Only the beginning is kept: the message goes to a terminal.
fn bad(key: &str) -> StoreError {
    StoreError::BadKey { key: key.chars().take(64).collect() }
}
