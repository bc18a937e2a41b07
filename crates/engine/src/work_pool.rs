//! A few threads of our own for work that blocks or computes, called from async code.
//!
//! The runtime's own blocking threads are not used: they grow without a useful bound and are shared with
//! whatever else the program runs.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crossbeam_channel::{Sender, unbounded};
use tokio::sync::oneshot;

use crate::error::{Error, ErrorKind, Result};

type Job = Box<dyn FnOnce() + Send>;

/// Threads that run closures in the order they come. Callers bound how many they hand in at a time.
#[derive(Debug, Clone)]
pub(crate) struct WorkPool {
    jobs: Sender<Job>,
}

impl WorkPool {
    /// Starts `threads` threads; they end when the pool is dropped and its jobs are done.
    pub(crate) fn new(name: &str, threads: usize) -> Result<Self> {
        let (jobs, queue) = unbounded::<Job>();
        for number in 0..threads.max(1) {
            let queue = queue.clone();
            std::thread::Builder::new()
                .name(format!("{name}-{number}"))
                .spawn(move || {
                    for job in queue {
                        job();
                    }
                })
                .map_err(|e| {
                    Error::with_source(ErrorKind::Internal, "the system refused another thread", e)
                })?;
        }
        Ok(Self { jobs })
    }

    /// Runs `work` on one of the threads. A panic in it becomes an error here.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        let job = Box::new(move || {
            if let Ok(value) = catch_unwind(AssertUnwindSafe(work)) {
                // The caller may have been cancelled meanwhile; nobody needs the value then.
                let _ = reply.send(value);
            }
        });
        self.jobs.send(job).map_err(|_| Error::new(ErrorKind::Internal, "the worker threads have ended"))?;
        answer
            .await
            .map_err(|_| Error::new(ErrorKind::Internal, "a worker thread met a bug and gave up its job"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panicking_job_is_an_error_and_the_thread_lives_on() {
        let pool = WorkPool::new("test", 1).unwrap();
        let error = pool.run(|| panic!("on purpose")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Internal);
        assert_eq!(pool.run(|| 2 + 2).await.unwrap(), 4);
    }
}
