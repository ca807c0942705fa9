//! Hostile text: whatever is written, it is refused with a place, or taken and means one thing.
//!
//! As plain tests these try the seeds beside them (`__fuzz__`) and random bytes. A fuzzer follows coverage from there:
//! `cargo bolero test -p tartan-fuzz selectors --sanitizer NONE -T 10m`.
//!
//! They are a package of their own: `cargo bolero` builds every test of a package with instrumentation, and one that is not
//! a harness fails to link.
#![cfg(test)]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on stops")]

use std::collections::BTreeMap;
use std::sync::Arc;

use tartan_api::endpoint::selectable;
use tartan_api::object::{Object, ObjectError, parse};
use tartan_policy::form::Endpoint;
use tartan_policy::{Engine, MAX_LENGTH, Selector, network_policy};

fn labels() -> BTreeMap<String, String> {
    [("app", "web"), ("role", "")].map(|(name, value)| (name.to_owned(), value.to_owned())).into()
}

#[test]
fn selectors() {
    bolero::check!().for_each(|input: &[u8]| {
        let Ok(text) = std::str::from_utf8(input) else { return };
        match text.parse::<Selector>() {
            Ok(selector) => {
                let canonical = selector.to_string();
                selector.matches(&labels());
                if canonical.len() <= MAX_LENGTH {
                    assert_eq!(canonical.parse(), Ok(selector), "{canonical}");
                }
            }
            Err(error) => assert!((1..=text.chars().count() + 1).contains(&error.at), "{error}"),
        }
    });
}

#[test]
fn objects() {
    bolero::check!().for_each(|input: &[u8]| {
        let Ok(text) = std::str::from_utf8(input) else { return };
        match parse("f", text) {
            Ok(objects) => objects.iter().for_each(holds),
            Err(ObjectError::Text { line, column, .. }) => {
                let lines = text.split(['\n', '\r']).count() as u64;
                assert!((1..=lines + 1).contains(&line) && column > 0, "{line}:{column} of {lines} lines");
            }
            Err(_) => {}
        }
    });
}

/// It is read from a store as it was written into it, and what it means can be told.
fn holds(object: &Object) {
    let stored = serde_json::to_string(object).unwrap();
    assert_eq!(&serde_json::from_str::<Object>(&stored).unwrap(), object, "{stored}");
    let Object::NetworkPolicy(policy) = object else { return };
    let policy = network_policy(policy);
    let mut engine = Engine::default();
    let pod = Endpoint {
        namespace: "default".parse().unwrap(),
        name: "pod".into(),
        labels: Arc::new(selectable(&labels())),
        account: None,
        addresses: ["10.0.0.1", "fd00::1"].map(|address| address.parse().unwrap()).into(),
        ports: Vec::new(),
        local: true,
    };
    engine.set_endpoint(&0, Some(pod));
    engine.set_policy(&policy.id.clone(), Some(policy));
    let all = engine.everything();
    for id in all.identities {
        assert!(engine.identity(id).is_some());
    }
    for (id, address) in all.members {
        engine.member(id, address);
    }
}
