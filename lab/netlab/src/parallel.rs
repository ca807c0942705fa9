//! Many small pieces of work, some at once.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::Result;

/// Does the work of each item, `at_once` at most at a time. Items that are not begun when one fails are left out.
///
/// # Errors
/// The first that came.
pub(crate) fn each<T: Send>(
    items: Vec<T>,
    at_once: usize,
    work: impl Fn(T) -> Result<()> + Sync,
) -> Result<()> {
    let items = Mutex::new(items.into_iter());
    let failed = AtomicBool::new(false);
    let worker = || -> Result<()> {
        while !failed.load(Ordering::Relaxed) {
            let next = items.lock().ok().and_then(|mut items| items.next());
            let Some(item) = next else { break };
            work(item).inspect_err(|_| failed.store(true, Ordering::Relaxed))?;
        }
        Ok(())
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..at_once).map(|_| scope.spawn(worker)).collect();
        let joined = workers.into_iter().map(|worker| match worker.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        joined.collect::<Vec<_>>().into_iter().collect()
    })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[test]
    fn every_item_has_its_turn_unless_one_fails() {
        let done = AtomicUsize::new(0);
        let count = |_| {
            done.fetch_add(1, Ordering::Relaxed);
            Ok(())
        };
        each((0..100).collect(), 16, count).unwrap();
        assert_eq!(done.into_inner(), 100);
        assert!(
            each(vec![1, 2, 3], 1, |item| if item == 2 { anyhow::bail!("two") } else { Ok(()) }).is_err()
        );
    }
}
