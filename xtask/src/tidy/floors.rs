//! Laws of the crates: which floor may know which, what core must never reach, and how crates are called.

use super::workspace::{Breach, Floor, Law, Package, Through, Workspace};

/// Every law of this file.
pub(crate) const LAWS: &[Law] = &[
    every_crate_lies_on_a_floor,
    crates_are_named_like_their_folder,
    floors_only_look_down,
    only_the_lab_and_the_command_line_see_the_lab,
    core_reaches_no_outside,
    domains_do_not_know_each_other,
    the_hand_does_not_know_the_reasons,
    the_plugin_has_no_async_runtime,
];

/// Crates that do I/O, tell time or run tasks.
const OUTSIDE: [&str; 12] = [
    "tokio",
    "mio",
    "nix",
    "rustix",
    "socket2",
    "rtnetlink",
    "netlink-sys",
    "hyper",
    "kube",
    "rusqlite",
    "libbpf-rs",
    "libbpf-sys",
];

/// What a program that is started once for every pod must not carry.
const RUNTIMES: [&str; 12] = [
    "tokio",
    "mio",
    "hyper",
    "kube",
    "async-std",
    "async-executor",
    "async-global-executor",
    "smol",
    "futures-executor",
    "monoio",
    "glommio",
    "compio",
];

const DOMAINS: [&str; 6] = ["ipam", "policy", "fabric", "bgp", "mesh", "sleeve"];
const REASONS: [&str; 2] = ["decide", "policy"];

fn every_crate_lies_on_a_floor(workspace: &Workspace) -> Vec<Breach> {
    let homeless = workspace.members().filter(|(_, package)| package.floor().is_none());
    homeless
        .map(|(_, package)| breach(package, "lies in no room of core, io, apps, lab".into(), "floors"))
        .collect()
}

fn crates_are_named_like_their_folder(workspace: &Workspace) -> Vec<Breach> {
    let misnamed = |(_, package): (usize, &Package)| {
        let expected = expected_name(package)?;
        (package.name != expected).then(|| {
            breach(package, format!("is called {}, should be {expected}", package.name), "folder is name")
        })
    };
    workspace.members().filter_map(misnamed).collect()
}

fn expected_name(package: &Package) -> Option<String> {
    let room = package.room()?;
    match package.floor()? {
        Floor::Apps | Floor::Xtask => Some(room.to_owned()),
        Floor::Core | Floor::Io | Floor::Lab => Some(format!("tartan-{room}")),
    }
}

fn floors_only_look_down(workspace: &Workspace) -> Vec<Breach> {
    let up = |(from, to): &(&Package, &Package)| match (from.floor(), to.floor()) {
        // The lab has a law of its own.
        (Some(Floor::Lab), Some(to)) => to == Floor::Xtask,
        (Some(_), Some(Floor::Lab)) => false,
        (Some(from), Some(to)) => to > from,
        _ => false,
    };
    let edges = workspace.own_edges().filter(up);
    edges
        .map(|(from, to)| breach(from, format!("depends on {}", to.name), "apps -> io -> core, never up"))
        .collect()
}

fn only_the_lab_and_the_command_line_see_the_lab(workspace: &Workspace) -> Vec<Breach> {
    let forbidden = |(from, to): &(&Package, &Package)| {
        let command_line = is(from, Floor::Apps, "tartan") && is(to, Floor::Lab, "netlab");
        to.floor() == Some(Floor::Lab) && from.floor() != Some(Floor::Lab) && !command_line
    };
    let edges = workspace.own_edges().filter(forbidden);
    edges
        .map(|(from, to)| breach(from, format!("depends on {}", to.name), "only `tartan` sees lab/netlab"))
        .collect()
}

fn core_reaches_no_outside(workspace: &Workspace) -> Vec<Breach> {
    let from = |package: &Package| package.floor() == Some(Floor::Core);
    reaching(
        workspace,
        from,
        Through::Build,
        |to| OUTSIDE.contains(&to.name.as_str()),
        "core reaches no outside",
    )
}

fn domains_do_not_know_each_other(workspace: &Workspace) -> Vec<Breach> {
    let domain = |package: &Package| package.floor() == Some(Floor::Core) && has_room(package, &DOMAINS);
    reaching(workspace, domain, Through::BuildAndOwnTests, domain, "only decide joins the domains")
}

fn the_hand_does_not_know_the_reasons(workspace: &Workspace) -> Vec<Breach> {
    let io = |package: &Package| package.floor() == Some(Floor::Io);
    let reason = |to: &Package| to.floor() == Some(Floor::Core) && has_room(to, &REASONS);
    reaching(workspace, io, Through::BuildAndOwnTests, reason, "io knows neither decide nor policy")
}

fn the_plugin_has_no_async_runtime(workspace: &Workspace) -> Vec<Breach> {
    let plugin = |package: &Package| is(package, Floor::Apps, "tartan-cni");
    reaching(
        workspace,
        plugin,
        Through::Build,
        |to| RUNTIMES.contains(&to.name.as_str()),
        "the plugin has no async runtime",
    )
}

/// Breaches of crates that reach what they must not, however deep.
fn reaching(
    workspace: &Workspace,
    from: impl Fn(&Package) -> bool,
    through: Through,
    forbidden: impl Fn(&Package) -> bool,
    law: &'static str,
) -> Vec<Breach> {
    let mut breaches = Vec::new();
    for (place, package) in workspace.members().filter(|(_, package)| from(package)) {
        let found = workspace.reached(place, through).into_iter().filter(|(to, _)| forbidden(to));
        breaches.extend(found.map(|(_, chain)| breach(package, format!("reaches {chain}"), law)));
    }
    breaches
}

fn is(package: &Package, floor: Floor, room: &str) -> bool {
    package.floor() == Some(floor) && package.room() == Some(room)
}

fn has_room(package: &Package, rooms: &[&str]) -> bool {
    package.room().is_some_and(|room| rooms.contains(&room))
}

fn breach(package: &Package, what: String, law: &'static str) -> Breach {
    Breach { path: package.manifest(), what, law }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(law: Law, graph: &[&str]) -> Vec<String> {
        law(&Workspace::drawn(graph))
            .iter()
            .map(|breach| format!("{}: {}", breach.path, breach.what))
            .collect()
    }

    #[test]
    fn the_house_as_planned_breaks_no_law() {
        let workspace = Workspace::drawn(&[
            "core/ipam -> core/model",
            "core/decide -> core/ipam",
            "core/decide -> core/fabric -> core/model",
            "core/model ~> tempfile -> rustix",
            "io/kernel -> core/host -> core/model",
            "io/kernel -> nix",
            "apps/tartand -> core/decide",
            "apps/tartand -> io/kernel",
            "apps/tartan -> lab/netlab -> io/kernel",
            "lab/scenarios -> lab/netlab",
            "lab/sim -> apps/tartand",
            "apps/tartan-cni -> io/rpc -> nix",
            "xtask -> clap",
        ]);
        assert_eq!(super::super::breaches(&workspace), []);
    }

    #[test]
    fn a_crate_outside_the_floors_is_told() {
        let told = told(every_crate_lies_on_a_floor, &["attic/model", "core/bgp/codec", "core/model"]);
        assert_eq!(
            told,
            [
                "attic/model/Cargo.toml: lies in no room of core, io, apps, lab",
                "core/bgp/codec/Cargo.toml: lies in no room of core, io, apps, lab"
            ]
        );
    }

    #[test]
    fn a_misnamed_crate_is_told() {
        let mut workspace = Workspace::drawn(&["core/model", "apps/tartand", "xtask"]);
        workspace.packages[0].name = "tartan-nouns".into();
        workspace.packages[1].name = "tartan-tartand".into();
        let breaches = crates_are_named_like_their_folder(&workspace);
        let whats: Vec<&str> = breaches.iter().map(|breach| breach.what.as_str()).collect();
        assert_eq!(
            whats,
            ["is called tartan-nouns, should be tartan-model", "is called tartan-tartand, should be tartand"]
        );
    }

    #[test]
    fn a_look_upward_is_told() {
        let told = told(
            floors_only_look_down,
            &["core/model -> io/kernel", "io/rpc ~> apps/tartand", "lab/sim -> xtask"],
        );
        assert_eq!(
            told,
            [
                "core/model/Cargo.toml: depends on tartan-kernel",
                "io/rpc/Cargo.toml: depends on tartand",
                "lab/sim/Cargo.toml: depends on xtask"
            ]
        );
    }

    #[test]
    fn a_look_into_the_lab_is_told() {
        let law = only_the_lab_and_the_command_line_see_the_lab;
        let graph = ["apps/tartand -> lab/netlab", "apps/tartan -> lab/sim", "io/rpc ~> lab/netlab"];
        assert_eq!(
            told(law, &graph),
            [
                "apps/tartand/Cargo.toml: depends on tartan-netlab",
                "apps/tartan/Cargo.toml: depends on tartan-sim",
                "io/rpc/Cargo.toml: depends on tartan-netlab"
            ]
        );
    }

    #[test]
    fn an_outside_reached_deep_down_is_told_with_its_chain() {
        let graph = ["core/api -> core/model -> yaml -> async-yaml -> tokio", "io/rpc -> mio"];
        assert_eq!(
            told(core_reaches_no_outside, &graph),
            [
                "core/api/Cargo.toml: reaches tartan-api -> tartan-model -> yaml -> async-yaml -> tokio",
                "core/model/Cargo.toml: reaches tartan-model -> yaml -> async-yaml -> tokio"
            ]
        );
    }

    #[test]
    fn every_outside_crate_is_told() {
        for name in OUTSIDE {
            assert_eq!(told(core_reaches_no_outside, &[&format!("core/model -> {name}")]).len(), 1, "{name}");
        }
    }

    #[test]
    fn domains_that_know_each_other_are_told() {
        let told = told(
            domains_do_not_know_each_other,
            &["core/ipam -> core/host -> core/fabric", "core/bgp ~> core/mesh"],
        );
        assert_eq!(
            told,
            [
                "core/ipam/Cargo.toml: reaches tartan-ipam -> tartan-host -> tartan-fabric",
                "core/bgp/Cargo.toml: reaches tartan-bgp -> tartan-mesh"
            ]
        );
    }

    #[test]
    fn a_hand_that_knows_the_reasons_is_told() {
        let graph =
            ["io/reconcile -> core/decide", "io/kernel -> core/policy", "apps/tartand -> core/decide"];
        assert_eq!(
            told(the_hand_does_not_know_the_reasons, &graph),
            [
                "io/reconcile/Cargo.toml: reaches tartan-reconcile -> tartan-decide",
                "io/kernel/Cargo.toml: reaches tartan-kernel -> tartan-policy"
            ]
        );
    }

    #[test]
    fn a_plugin_with_a_runtime_is_told() {
        for name in RUNTIMES {
            let told =
                told(the_plugin_has_no_async_runtime, &[&format!("apps/tartan-cni -> io/rpc -> {name}")]);
            assert_eq!(
                told,
                [format!("apps/tartan-cni/Cargo.toml: reaches tartan-cni -> tartan-rpc -> {name}")]
            );
        }
    }
}
