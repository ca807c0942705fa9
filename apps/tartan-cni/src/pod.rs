//! Which pod a container is.

use tartan_model::{ContainerId, Name, NameError, PodName};

use crate::environment::PodArgs;
use crate::failure::{Failure, code};

/// The longest name that is made up, in bytes: a subdomain's (RFC 1123).
const MAX_NAME: usize = 253;

/// The pod that Kubernetes names; elsewhere one in namespace `default`, named as the runtime says or by the container.
pub(crate) fn identity(args: &PodArgs, container: &ContainerId) -> Result<PodName, Failure> {
    let refused = |error: NameError| Failure::new(code::ENVIRONMENT, format!("CNI_ARGS: {error}"));
    match (&args.namespace, &args.name) {
        (Some(namespace), Some(name)) => Ok(PodName {
            namespace: namespace.parse().map_err(refused)?,
            name: name.parse().map_err(refused)?,
        }),
        (namespace, name) => Ok(PodName {
            namespace: namespace.as_deref().unwrap_or("default").parse().map_err(refused)?,
            name: made_up(name.as_deref().unwrap_or_default())
                .or_else(|_| made_up(container.as_str()))
                .map_err(refused)?,
        }),
    }
}

/// The text as a name, if need be without what names may not have: runtimes other than Kubernetes take any.
fn made_up(text: &str) -> Result<Name, NameError> {
    text.parse().or_else(|_| {
        let fit = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
        let whole: String = text.chars().map(fit).collect();
        // One byte a character by now, so this cannot cut a character.
        let start = whole.trim_matches('-');
        start.get(..MAX_NAME).unwrap_or(start).trim_end_matches('-').parse()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(namespace: &str, name: &str, container: &str) -> Result<String, u32> {
        let some = |text: &str| Some(text.to_string()).filter(|text| !text.is_empty());
        let args = PodArgs { namespace: some(namespace), name: some(name) };
        identity(&args, &container.parse().unwrap()).map(|pod| pod.to_string()).map_err(|error| error.code)
    }

    #[test]
    fn the_pod_is_whom_kubernetes_says() {
        assert_eq!(pod("team", "web-0", "c1").as_deref(), Ok("team/web-0"));
        assert_eq!(pod("team", "No Name", "c1"), Err(code::ENVIRONMENT));
        assert_eq!(pod("Team", "", "c1"), Err(code::ENVIRONMENT));
    }

    #[test]
    fn without_kubernetes_the_name_is_made_up() {
        assert_eq!(pod("", "", "c1").as_deref(), Ok("default/c1"));
        assert_eq!(pod("", "quirky_Tesla", "c1").as_deref(), Ok("default/quirky-tesla"));
        assert_eq!(pod("", "___", "c1").as_deref(), Ok("default/c1"));
        assert_eq!(pod("", "", "A_b.C-").as_deref(), Ok("default/a-b-c"));
        let long = pod("", "", &"F".repeat(256)).unwrap();
        assert_eq!(long, format!("default/{}", "f".repeat(253)));
    }
}
