//! `tartan uninstall`: takes everything of ours off this node, whatever is left of it.
//!
//! It looks first and says what it will do; then it does that, and says what it did and what it could not. It works when
//! the agent is dead, the store is gone or half is missing, and finds nothing to do the second time.

mod agent;
mod files;
mod places;
mod store;

use std::io::{self, BufRead, IsTerminal, Write};
use std::process::ExitCode;

use anyhow::{Context, Result};
use tartan_api::rpc::{Failure, FailureCode};
use tartan_api::verb::{Setting, UninstallPlan, Uninstalled};
use tartan_kernel::{Remains, sysctl};

use crate::args::{Output, Shared, Uninstall, Usage};
use crate::output::{json, print};
use crate::table;
use agent::Agent;
use files::Files;
use places::Places;

/// How often the kernel is looked at and cleared: what somebody adds meanwhile is found by the second look.
const ROUNDS: usize = 3;

/// Does it, or only says what it would do.
///
/// # Errors
/// With what is wrong, where, and what to do.
pub(crate) fn run(shared: &Shared, args: &Uninstall) -> Result<ExitCode> {
    let places = Places::find(shared, args)?;
    places.enter()?;
    let (agent, lock) = Agent::look(&places)?;
    let plan = plan(&places, &agent)?;
    if args.dry_run {
        match shared.output {
            Output::Json => print(&json(&plan)?)?,
            _ => print(&table::uninstall_plan(&plan))?,
        }
        return Ok(ExitCode::SUCCESS);
    }
    if plan.is_empty() {
        return told(shared, &Uninstalled::default());
    }
    // The answer goes to standard output, and may be JSON.
    eprint!("{}", table::uninstall_plan(&plan));
    if !args.yes && !confirmed()? {
        return Err(
            Usage("nothing was changed: it was not confirmed; answer yes, or add --yes".into()).into()
        );
    }
    let mut outcome = Uninstalled::default();
    agent.must_answer(&places)?;
    // First, because it may refuse, and then nothing is changed: it takes no more pods while it leaves, and nobody does
    // once it is gone.
    let lock = match agent.end(&places, lock, &mut outcome) {
        Ok(lock) => lock,
        Err(error) => {
            if outcome != Uninstalled::default() {
                outcome.failed.push(format!("the agent: {error:#}"));
                told(shared, &outcome)?;
            }
            return Err(error);
        }
    };
    // So that no runtime goes on calling the plugin for nothing.
    files::remove_all(&Files::find(&places).of_runtime(&places), &mut outcome);
    carry_out(&places, &mut outcome);
    drop(lock);
    told(shared, &outcome)
}

fn told(shared: &Shared, outcome: &Uninstalled) -> Result<ExitCode> {
    match shared.output {
        Output::Json => print(&json(outcome)?)?,
        _ => print(&table::uninstalled(outcome))?,
    }
    Ok(if outcome.failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn plan(places: &Places, agent: &Agent) -> Result<UninstallPlan> {
    let mut kernel = Remains::open(places.programs())
        .context("cannot look at the kernel; tartan uninstall needs to be root")?;
    let found = kernel.find().context("cannot read what is in the kernel")?;
    let files = Files::find(places);
    let (settings, unclear) = settings(places);
    let mut kept = files.kept;
    kept.extend(unclear);
    Ok(UninstallPlan {
        agent: agent.state(),
        pods: agent.pods(),
        store: store::plan(places),
        kernel: found.iter().map(ToString::to_string).collect(),
        settings,
        files: files.ours.iter().map(|path| path.display().to_string()).collect(),
        kept,
    })
}

/// The settings that are to be put back, and why it is not known, if it is not.
fn settings(places: &Places) -> (Vec<Setting>, Option<String>) {
    let file = places.saved_settings();
    match sysctl::saved(&file) {
        Ok(saved) => {
            let differs = |saved: &sysctl::Saved| saved.now.as_ref().is_some_and(|now| *now != saved.old);
            let changed = saved.into_iter().filter(differs);
            let setting = |saved: sysctl::Saved| Setting {
                key: saved.key,
                now: saved.now.unwrap_or_default(),
                then: saved.old,
            };
            (changed.map(setting).collect(), None)
        }
        Err(error) => {
            let file = file.display();
            (Vec::new(), Some(format!("{file}: cannot be read ({error}); settings stay as they are")))
        }
    }
}

/// In this order: others do not send here any more, then the kernel, its settings, and at last the files, which tell the
/// next try what there is to do.
fn carry_out(places: &Places, outcome: &mut Uninstalled) {
    store::leave(places, outcome);
    clear_kernel(places, outcome);
    put_back(places, outcome);
    let complete = outcome.failed.is_empty();
    let mut files = Files::find(places);
    if !complete {
        // Old values and the id are wanted by whoever tries again.
        files.keep_memory(places);
    }
    outcome.kept.extend(files.kept.iter().cloned());
    files::remove_all(&files.ours, outcome);
    files::remove_folders(places, outcome);
}

fn clear_kernel(places: &Places, outcome: &mut Uninstalled) {
    let mut kernel = match Remains::open(places.programs()) {
        Ok(kernel) => kernel,
        Err(error) => return outcome.failed.push(format!("the kernel: {error}")),
    };
    for round in 1..=ROUNDS {
        let found = match kernel.find() {
            Ok(found) => found,
            Err(error) => return outcome.failed.push(format!("the kernel: {error}")),
        };
        let answers = kernel.take_away(&found);
        for (remain, answer) in found.iter().zip(answers) {
            match answer {
                Ok(()) => outcome.removed.push(remain.to_string()),
                Err(refused) if round == ROUNDS => outcome.failed.push(format!("{remain}: {}", refused.text)),
                Err(_) => {}
            }
        }
        if found.is_empty() {
            return;
        }
    }
}

fn put_back(places: &Places, outcome: &mut Uninstalled) {
    let saved = match sysctl::saved(&places.saved_settings()) {
        Ok(saved) => saved,
        Err(error) => {
            let file = places.saved_settings();
            return outcome.failed.push(format!("{}: {error}; settings stay as they are", file.display()));
        }
    };
    for saved in saved {
        match sysctl::give_back(&saved) {
            Ok(None) => {}
            Ok(Some(now)) => outcome.restored.push(Setting { key: saved.key, now, then: saved.old }),
            Err(error) => outcome.failed.push(format!("setting {}: {error}", saved.key)),
        }
    }
}

/// Asks a person; without one the answer is no.
fn confirmed() -> Result<bool> {
    if !io::stdin().is_terminal() {
        return Ok(false);
    }
    eprint!("Go on? Type yes: ");
    io::stderr().flush().context("cannot ask")?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer).context("cannot read the answer")?;
    Ok(answer.trim() == "yes")
}

/// An agent is in the way.
fn in_the_way(message: String) -> Failure {
    Failure { code: FailureCode::TryAgain, message }
}
