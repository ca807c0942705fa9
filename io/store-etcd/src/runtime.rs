//! A thread with a runtime of its own, for callers that know of none.

use std::future::Future;
use std::io;
use std::sync::mpsc::sync_channel;
use std::thread::{self, JoinHandle};

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

/// The thread; it ends with this.
pub(crate) struct Runtime {
    handle: Handle,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Runtime {
    pub(crate) fn start() -> io::Result<Runtime> {
        // Names are looked up on a thread beside it, which ends soon after.
        let runtime =
            Builder::new_current_thread().enable_io().enable_time().max_blocking_threads(2).build()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel::<()>();
        let run = move || {
            // That nobody is left to say stop means the same.
            let _ = runtime.block_on(stopped);
            runtime.shutdown_background();
        };
        let thread = thread::Builder::new().name("store-etcd".into()).spawn(run)?;
        Ok(Runtime { handle, stop: Some(stop), thread: Some(thread) })
    }

    /// Has the thread do something, and waits for it; None if the thread has ended.
    pub(crate) fn wait<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Option<T> {
        let (done, outcome) = sync_channel(1);
        self.handle.spawn(async move {
            // Nobody waits for it only if the caller is gone.
            let _ = done.send(work.await);
        });
        outcome.recv().ok()
    }

    /// Has the thread do something, until the handle is told to stop.
    pub(crate) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) -> tokio::task::AbortHandle {
        self.handle.spawn(work).abort_handle()
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic there was told when it happened.
            let _ = thread.join();
        }
    }
}
