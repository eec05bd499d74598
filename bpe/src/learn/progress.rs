//! How far learning has come, and when the caller is asked whether to go on.

const WORK_PER_CHECK: usize = 1 << 20; // in cells or places looked at: some 10 ms

/// Calls `check` with the number of tokens learnt, every so much work.
pub(super) struct Progress<F> {
    pub(super) tokens: usize,
    pub(super) work: usize,
    pub(super) check: F,
}

impl<E, F: FnMut(usize) -> Result<(), E>> Progress<F> {
    #[inline]
    pub(super) fn made(&mut self, work: usize) -> Result<(), E> {
        self.work += work;
        if self.work >= WORK_PER_CHECK {
            self.work = 0;
            (self.check)(self.tokens)?;
        }
        Ok(())
    }
}
