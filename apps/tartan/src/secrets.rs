//! What must not leave this machine, and texts without it.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

/// Keys of the agent's configuration whose values are shown. Of every other only its name is.
const SHOWN: [&str; 11] = [
    "node_name",
    "store",
    "interface",
    "address",
    "public_address",
    "state_dir",
    "run_dir",
    "log",
    "metrics_listen",
    "probes",
    "guards",
];
/// Files with secrets: keys that name one.
const SECRET_FILES: [&str; 2] = ["password_file", "etcd_password_file"];
/// Parts of the names of environment variables that hold secrets.
const SECRET_NAMES: [&str; 5] = ["PASSWORD", "SECRET", "TOKEN", "CREDENTIAL", "KEY"];
/// What stands where a secret was.
const REMOVED: &str = "(removed)";
/// A secret shorter than this would be found in any text.
const SHORTEST: usize = 4;
/// The same for the environment, much of which is not ours.
const SHORTEST_OF_OTHERS: usize = 8;

/// The secrets that this program knows of.
pub(crate) struct Secrets(Vec<String>);

impl Secrets {
    /// Those of an agent's configuration and of our own environment.
    pub(crate) fn of(config: &Path) -> Secrets {
        let mut found = Vec::new();
        let text = fs::read_to_string(config).unwrap_or_default();
        if let Ok(table) = text.parse::<toml::Table>() {
            for (key, value) in &table {
                let value = value.as_str().unwrap_or_default();
                if SECRET_FILES.contains(&key.as_str()) {
                    found.push(fs::read_to_string(value).unwrap_or_default());
                }
                if is_secret(key) {
                    found.push(value.into());
                }
                found.extend(
                    user_infos(value).map(|(from, to)| value.get(from..to).unwrap_or_default().into()),
                );
            }
        }
        let variables = std::env::vars_os().filter(|(name, _)| is_secret(&name.to_string_lossy()));
        let values = variables.map(|(_, value)| value.to_string_lossy().into_owned());
        found.extend(values.filter(|value| value.len() >= SHORTEST_OF_OTHERS));
        // A user and a password are also removed one by one.
        let passwords: Vec<String> =
            found.iter().filter_map(|one| Some(one.split_once(':')?.1.to_owned())).collect();
        found.extend(passwords);
        let mut found: Vec<String> = found.iter().map(|one| one.trim().to_owned()).collect();
        found.retain(|one| one.len() >= SHORTEST && !one.starts_with('/'));
        // The longest first: one may be a part of another.
        found.sort_by_key(|one| std::cmp::Reverse(one.len()));
        found.dedup();
        Secrets(found)
    }

    /// The text without any of them, and without a user and password in any URL.
    pub(crate) fn without(&self, text: &str) -> String {
        let mut text = without_user_infos(text);
        for secret in &self.0 {
            text = text.replace(secret, REMOVED);
            // As it stands in JSON.
            let quoted = serde_json::Value::from(secret.as_str()).to_string();
            if let Some(inner) = quoted.get(1..quoted.len().saturating_sub(1)).filter(|inner| inner != secret)
            {
                text = text.replace(inner, REMOVED);
            }
        }
        text
    }
}

/// The agent's configuration, as far as it holds no secret by construction.
///
/// # Errors
/// When it cannot be read, or is no configuration: then nobody knows what it holds.
pub(crate) fn configuration(path: &Path) -> Result<String> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let table = text.parse::<toml::Table>();
    // The error would quote the file.
    let table =
        table.ok().with_context(|| format!("{} is not in order; its text is left out", path.display()))?;
    let line = |(key, value): (&String, &toml::Value)| {
        if SHOWN.contains(&key.as_str()) {
            format!("{key} = {value}\n")
        } else {
            format!("# {key} is set; its value is left out\n")
        }
    };
    Ok(table.iter().map(line).collect())
}

fn is_secret(name: &str) -> bool {
    let name = name.to_uppercase();
    SECRET_NAMES.iter().any(|part| name.contains(part)) && !name.ends_with("_FILE")
}

fn without_user_infos(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut done = 0;
    for (from, to) in user_infos(text) {
        out.push_str(text.get(done..from).unwrap_or_default());
        out.push_str(REMOVED);
        done = to;
    }
    out.push_str(text.get(done..).unwrap_or_default());
    out
}

/// Where users and passwords are in the URLs of a text: between `://` and the last `@` before the host ends (RFC 3986,
/// section 3.2); of a list of hosts each may have its own, so a comma ends one, too.
fn user_infos(text: &str) -> impl Iterator<Item = (usize, usize)> {
    let starts = text.match_indices("://").map(|(place, mark)| place + mark.len());
    starts.flat_map(|start| {
        let rest = text.get(start..).unwrap_or_default();
        let end = rest.find(|c: char| c.is_whitespace() || "\"'<>`|".contains(c)).unwrap_or(rest.len());
        let authority = rest.get(..end).unwrap_or_default();
        // A password may hold a slash that nobody wrote as %2F: up to the last @ all is taken for it.
        authority.rfind('@').map(|at| (start, start + at)).filter(|(from, to)| from < to)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_and_passwords_go_from_urls_and_nothing_else() {
        let cases = [
            ("store etcd://user:pw@host:2379,b: down", "store etcd://(removed)@host:2379,b: down"),
            ("\"https://a:b/c@d@host/x\" y@z", "\"https://(removed)@host/x\" y@z"),
            ("sqlite:///var/lib/tartan.db and a@b", "sqlite:///var/lib/tartan.db and a@b"),
            ("etcd://u:p@a,v:q@b/x", "etcd://(removed)@b/x"),
            ("://", "://"),
        ];
        for (text, clean) in cases {
            assert_eq!(without_user_infos(text), clean);
        }
    }

    #[test]
    fn only_keys_that_are_known_to_hold_no_secret_are_shown() {
        let folder = tempfile::tempdir().unwrap();
        let (config, password) = (folder.path().join("t.toml"), folder.path().join("password"));
        fs::write(&password, "planted-in-a-file\n").unwrap();
        let text = format!(
            "node_name = \"n1\"\nstore = \"etcd://user:planted-in-url@host\"\netcd_password_file = {password:?}\netcd_password = \"planted-in-key\"\n"
        );
        fs::write(&config, text).unwrap();
        let secrets = Secrets::of(&config);
        let shown = secrets.without(&configuration(&config).unwrap());
        assert!(shown.contains("node_name = \"n1\"") && shown.contains("etcd://(removed)@host"), "{shown}");
        assert!(shown.contains("# etcd_password is set") && !shown.contains("planted"), "{shown}");
        let log = secrets.without("used planted-in-a-file, planted-in-url and planted-in-key");
        assert_eq!(log, "used (removed), (removed) and (removed)");
        fs::write(&config, "planted = [").unwrap();
        assert!(!format!("{:#}", configuration(&config).unwrap_err()).contains("planted"));
    }
}
