//! Work on several threads that can be given up. Promises that the thread that asks for it hears of Ctrl-C all the
//! while, and that no thread outlives the call. Does not cover how the work is divided.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use crate::error::{Error, MOST_THREADS};

const BETWEEN_CHECKS: Duration = Duration::from_millis(10); // while waiting for the other threads

/// The number of threads asked for; `None` is one per core.
pub(crate) fn number_of_threads(threads: Option<i64>) -> Result<usize, Error> {
    match threads {
        Some(threads) => {
            usize::try_from(threads).ok().filter(|n| (1..=MOST_THREADS).contains(n)).ok_or(Error::Threads(threads))
        }
        None => Ok(thread::available_parallelism().map_or(1, usize::from)),
    }
}

/// Lets all workers work, the first on this thread. They are given what tells them whether to give up: when `check`,
/// which is called on this thread only, or another worker failed.
pub(crate) fn run_workers<W: Send, E: From<Error>>(
    workers: &mut [W],
    mut check: impl FnMut() -> Result<(), E>,
    work: impl Fn(&mut W, &mut dyn FnMut() -> bool) -> Result<(), Error> + Sync,
) -> Result<(), E> {
    let wanted = workers.len();
    let Some((first, others)) = workers.split_first_mut() else {
        return Ok(());
    };
    let (stop, finished, caller) = (AtomicBool::new(false), AtomicUsize::new(0), thread::current());
    let stopped = || stop.load(Ordering::Relaxed);
    let stopping = |error: Error| {
        stop.store(true, Ordering::Relaxed);
        error
    };
    let mut refusal = None;
    let mut give_up = || {
        if let Err(error) = check() {
            stop.store(true, Ordering::Relaxed);
            refusal.get_or_insert(error);
        }
        stopped()
    };
    let done = thread::scope(|scope| {
        let mut handles = Vec::new();
        for worker in others {
            let body = || {
                let done = work(worker, &mut || stopped()).map_err(stopping);
                finished.fetch_add(1, Ordering::Release);
                caller.unpark();
                done
            };
            let handle = thread::Builder::new().spawn_scoped(scope, body);
            handles.push(handle.map_err(|error| stopping(Error::NoThread(wanted, error)))?);
        }
        let mine = work(first, &mut give_up).map_err(stopping);
        while finished.load(Ordering::Acquire) < handles.len() && !handles.iter().all(|each| each.is_finished()) {
            thread::park_timeout(BETWEEN_CHECKS);
            give_up();
        }
        let theirs = handles.into_iter().map(|handle| handle.join().expect("no worker panics"));
        theirs.fold(mine, Result::and)
    });
    match refusal {
        Some(error) => Err(error),
        None => done.map_err(E::from),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_give_up_when_one_fails_or_the_check_does() {
        for failing in 0..3 {
            let done = run_workers(
                &mut [0, 1, 2],
                || Ok::<(), Error>(()),
                |worker, give_up| {
                    if *worker == failing {
                        return Err(Error::EmptyCorpus);
                    }
                    while !give_up() {
                        thread::yield_now();
                    }
                    Ok(())
                },
            );
            assert!(matches!(done, Err(Error::EmptyCorpus)));
        }
        let mut checks = 0;
        let check = || {
            checks += 1;
            if checks < 3 { Ok(()) } else { Err(Error::EmptyCorpus) }
        };
        let done = run_workers(&mut [0, 1, 2], check, |worker, give_up| {
            while *worker != 0 && !give_up() {
                thread::yield_now();
            }
            Ok(())
        });
        assert!(matches!(done, Err(Error::EmptyCorpus)));
    }

    #[test]
    fn a_number_of_threads_that_is_none_is_refused() {
        for threads in [-1, 0, MOST_THREADS as i64 + 1] {
            assert!(matches!(number_of_threads(Some(threads)), Err(Error::Threads(_))));
        }
    }
}
