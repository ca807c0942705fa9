//! The stories of the core, told to a lab.

use std::path::Path;

use tartan_model::Family;

use crate::cases::{self, Case, Expectation, Labelled, Step};
use crate::questions::{self, Question};
use crate::stage::{Labels, Stage};

#[test]
fn stories_end_as_they_say_between_routed_pods() {
    every_story_ends_as_it_says("routed");
}

#[test]
fn stories_end_as_they_say_between_bridged_pods() {
    every_story_ends_as_it_says("bridge");
}

fn every_story_ends_as_it_says(attachment: &str) {
    let mut stage = Stage::new(attachment);
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../core/policy/tests/cases");
    let of = |family| cases::load(&root, &|name| stage.range(family, name));
    let [ipv4, ipv6] = Family::ALL.map(of);
    assert!(ipv4.len() >= 50, "{} stories", ipv4.len());
    let mut wrong = Vec::new();
    for (ipv4, ipv6) in ipv4.iter().zip(&ipv6) {
        // What says nothing of addresses is told once for both.
        if format!("{:?}", ipv4.steps) == format!("{:?}", ipv6.steps) {
            wrong.extend(tell(&mut stage, ipv4, &Family::ALL));
        } else {
            wrong.extend(tell(&mut stage, ipv4, &[Family::Ipv4]));
            wrong.extend(tell(&mut stage, ipv6, &[Family::Ipv6]));
        }
    }
    assert!(wrong.is_empty(), "{attachment}:\n{}", wrong.join("\n"));
}

/// What a story says that is not so. At the end all is as it was at the beginning.
fn tell(stage: &mut Stage, case: &Case, families: &[Family]) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut labels = Labels::of_the_world();
    let mut due: Vec<&Expectation> = Vec::new();
    for step in &case.steps {
        if let Step::Expect(expectation) = step {
            due.push(expectation);
            continue;
        }
        wrong.extend(differences(stage, case, families, &std::mem::take(&mut due)));
        match step {
            Step::Apply(policies) => stage.apply(policies),
            Step::Delete { namespace, name } => stage.delete(&format!("{namespace}/{name}").parse().unwrap()),
            Step::Label { of, key, value } => {
                labels.change(of, key, value.as_deref());
                stage.label(&labels);
            }
            Step::Expect(_) => {}
        }
    }
    wrong.extend(differences(stage, case, families, &due));
    stage.delete_all();
    stage.label(&Labels::of_the_world());
    wrong
}

/// What is not so of all that has to hold now.
fn differences(stage: &Stage, case: &Case, families: &[Family], due: &[&Expectation]) -> Vec<String> {
    if due.is_empty() {
        return Vec::new();
    }
    stage.wait();
    let asked = |expectation: &Expectation| -> Vec<Question<'_>> {
        let pairs =
            families.iter().flat_map(|family| expectation.cells.iter().map(move |cell| (*family, cell)));
        let question = |(family, ((from, to), expected)): (Family, (&(String, String), &bool))| Question {
            from: stage.place(from),
            to: stage.place(to),
            family,
            probe: expectation.probe,
            expected: *expected,
            about: format!("{}, line {}", case.name, expectation.line),
        };
        pairs.map(question).collect()
    };
    questions::wrong(&due.iter().flat_map(|expectation| asked(expectation)).collect::<Vec<_>>())
}

impl Labels {
    fn change(&mut self, of: &Labelled, key: &str, value: Option<&str>) {
        let labels = match of {
            Labelled::Pod(name) => &mut self.pods.get_mut(name).expect("a pod").metadata.labels,
            Labelled::Namespace(name) => &mut self.namespaces.get_mut(name).expect("one").metadata.labels,
        };
        let key = key.to_owned().try_into().unwrap();
        match value {
            Some(value) => labels.insert(key, value.to_owned().try_into().unwrap()),
            None => labels.remove(&key),
        };
    }
}
