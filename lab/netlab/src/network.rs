//! The ClusterNetwork `default` that a lab applies: the preset, the pools of its families, and what `--set` says.

use anyhow::{Result, bail};
use serde_json::{Map, Value, json};
use tartan_api::object::{self, Object, ObjectError};
use tartan_model::Family;

use crate::error::Usage;

/// The deepest path that `--set` takes.
const MAX_DEPTH: usize = 8;

/// Builds and checks the object. `settings` are written `key=value`: a path under `spec`, and YAML.
///
/// # Errors
/// [`Usage`] when a setting is badly written or the object cannot be served.
pub fn build(preset: &str, families: &[Family], settings: &[String]) -> Result<Object> {
    let mut spec = Map::new();
    spec.insert("preset".into(), preset.into());
    spec.insert("pools".into(), families.iter().copied().map(usual_pool).collect());
    // Only the whole has to be right, but a wrong whole is blamed on the setting that it went wrong with.
    let mut result = object(&spec);
    let mut blamed = result.as_ref().is_err().then_some("the lab's ClusterNetwork".to_owned());
    for setting in settings {
        apply(&mut spec, setting)?;
        result = object(&spec);
        blamed = result.as_ref().err().and(blamed.or_else(|| Some(format!("--set {setting}"))));
    }
    result.map_err(|error| Usage(format!("{}: {}", blamed.unwrap_or_default(), reason(&error))).into())
}

fn object(spec: &Map<String, Value>) -> Result<Object, ObjectError> {
    let object = json!({
        "apiVersion": "tartan.dev/v1alpha1",
        "kind": "ClusterNetwork",
        "metadata": {"name": "default"},
        "spec": spec,
    });
    let mut objects = object::parse("", &object.to_string())?;
    objects.pop().ok_or(ObjectError::Empty { file: String::new() })
}

/// What is wrong, without a place in a text that nobody wrote.
fn reason(error: &ObjectError) -> String {
    match error {
        ObjectError::Text { reason, .. } => reason.clone(),
        ObjectError::Network { source, .. } => source.to_string(),
        other => other.to_string(),
    }
}

fn usual_pool(family: Family) -> Value {
    match family {
        Family::Ipv4 => json!({"cidr": "10.244.0.0/16"}),
        Family::Ipv6 => json!({"cidr": "fd00:10:244::/56"}),
    }
}

fn apply(spec: &mut Map<String, Value>, setting: &str) -> Result<()> {
    let wrong =
        |why: &str| Usage(format!("--set {setting}: {why}; write KEY=VALUE, as in --set vxlan.port=4789"));
    let Some((path, value)) = setting.split_once('=') else { bail!(wrong("there is no '='")) };
    let value: Value = serde_saphyr::from_str(value).map_err(|_| wrong("the value is no YAML"))?;
    let keys: Vec<&str> = path.split('.').collect();
    let Some((last, folders)) = keys.split_last() else { bail!(wrong("there is no key")) };
    if keys.len() > MAX_DEPTH || keys.iter().any(|key| key.is_empty()) {
        bail!(wrong("the key is empty or too deep"));
    }
    let mut at = spec;
    for key in folders {
        let inner = at.entry(*key).or_insert_with(|| json!({}));
        at = inner.as_object_mut().ok_or_else(|| wrong(&format!("{key} holds no keys")))?;
    }
    at.insert((*last).into(), value);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(settings: &[&str]) -> Result<Value> {
        let settings: Vec<String> = settings.iter().map(ToString::to_string).collect();
        Ok(serde_json::to_value(build("flannel", &Family::ALL, &settings)?)?)
    }

    #[test]
    fn settings_are_paths_under_spec_with_yaml_values() {
        let value = network(&["vxlan.port=4789", "vxlan.vni=7", "attachment=routed"]).unwrap();
        assert_eq!(value["spec"]["vxlan"], json!({"vni": 7, "port": 4789}));
        assert_eq!(value["spec"]["attachment"], "routed");
        assert_eq!(value["spec"]["pools"][1]["cidr"], "fd00:10:244::/56");
    }

    #[test]
    fn a_preset_is_passed_on_and_one_that_is_not_served_is_wrong_usage() {
        let value = serde_json::to_value(build("canal", &Family::ALL, &[]).unwrap()).unwrap();
        assert_eq!(value["spec"]["preset"], "canal");
        assert_eq!(network(&["policy=true"]).unwrap()["spec"]["policy"], true);
        let error = build("calico", &Family::ALL, &[]).unwrap_err();
        assert!(error.is::<Usage>(), "{error:#}");
    }

    #[test]
    fn a_setting_may_replace_what_the_family_brought() {
        let value = network(&["pools=[{cidr: 10.9.0.0/16, blockSize: 26}]"]).unwrap();
        assert_eq!(value["spec"]["pools"], json!([{"cidr": "10.9.0.0/16", "blockSize": 26}]));
    }

    #[test]
    fn what_cannot_be_served_is_wrong_usage() {
        for settings in [&["colour=blue"][..], &["mtu"], &["=1"], &["mtu.x=1", "mtu=["], &["policy=maybe"]] {
            let error = network(settings).unwrap_err();
            assert!(error.is::<Usage>(), "{settings:?}: {error:#}");
        }
        let error = network(&["vxlan.port=4789", "mtu=x", "attachment=bridge"]).unwrap_err().to_string();
        assert!(error.starts_with("--set mtu=x: "), "{error}");
    }
}
