//! The files that people hand in. All are read and checked before anything is sent.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use tartan_api::object::{self, MAX_TEXT, Object};
use thiserror::Error;

/// What is wrong with the input, a line for each file.
#[derive(Debug, Error)]
pub(crate) enum BadInput {
    /// Of objects that were to be sent.
    #[error("{}\nnothing was sent to the agent; correct this and try again", .0.join("\n"))]
    Objects(Vec<String>),
    /// Of one file that is only read.
    #[error("{0}")]
    File(String),
}

/// Every object in these files; of folders in their files, by name, not in folders within.
///
/// # Errors
/// With what is wrong in all of them.
pub(crate) fn read(paths: &[PathBuf]) -> Result<Vec<Object>, BadInput> {
    let (mut objects, mut wrong) = (Vec::new(), Vec::new());
    for found in paths.iter().flat_map(|path| sources(path)) {
        match found.and_then(|path| parse(&path)) {
            Ok(more) => objects.extend(more),
            Err(reason) => wrong.push(reason),
        }
    }
    if wrong.is_empty() { Ok(objects) } else { Err(BadInput::Objects(wrong)) }
}

fn parse(path: &Path) -> Result<Vec<Object>, String> {
    let (name, text) = text(path)?;
    object::parse(&name, &text).map_err(|error| error.to_string())
}

/// The files that a path stands for.
fn sources(path: &Path) -> Vec<Result<PathBuf, String>> {
    if path == Path::new("-") || !path.is_dir() {
        return vec![Ok(path.into())];
    }
    match in_folder(path) {
        Ok(files) if files.is_empty() => {
            vec![Err(format!("{}: there is no .yaml, .yml or .json file in it", path.display()))]
        }
        Ok(files) => files.into_iter().map(Ok).collect(),
        Err(error) => vec![Err(format!("{}: cannot be read: {error}", path.display()))],
    }
}

fn in_folder(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder)?.collect::<io::Result<Vec<_>>>()?;
    let wanted = |path: &PathBuf| {
        path.extension().is_some_and(|end| end == "yaml" || end == "yml" || end == "json") && !path.is_dir()
    };
    let mut files: Vec<PathBuf> = entries.iter().map(fs::DirEntry::path).filter(wanted).collect();
    files.sort();
    Ok(files)
}

/// A file's name for messages, and its text: a byte more than the limit at most, so that the parser sees the excess.
pub(crate) fn text(path: &Path) -> Result<(String, String), String> {
    let limit = MAX_TEXT as u64 + 1;
    let mut bytes = Vec::new();
    let (name, read) = if path == Path::new("-") {
        ("standard input".to_string(), io::stdin().lock().take(limit).read_to_end(&mut bytes))
    } else {
        let read = File::open(path).and_then(|file| file.take(limit).read_to_end(&mut bytes));
        (path.display().to_string(), read)
    };
    read.map_err(|error| format!("{name}: cannot be read: {error}"))?;
    // A limit that cuts a character in two must not look like wrong text.
    if bytes.len() > MAX_TEXT {
        return Ok((name, " ".repeat(MAX_TEXT + 1)));
    }
    match String::from_utf8(bytes) {
        Ok(text) => Ok((name, text)),
        Err(error) => {
            let line =
                error.as_bytes().iter().take(error.utf8_error().valid_up_to()).filter(|b| **b == b'\n');
            Err(format!("{name}:{}: it is not UTF-8 text", line.count() + 1))
        }
    }
}
