//! Asks for memory before it is needed, where the processor takes such hints. Promises to change nothing but time.

/// Starts to load what `of` refers to, without waiting for it.
#[inline]
pub fn prefetch<T>(of: &T) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        #[allow(unsafe_code)]
        // SAFETY: a hint reads nothing that the program sees; SSE, which it is of, is in every x86-64 processor.
        unsafe {
            _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(of).cast());
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = of;
}
